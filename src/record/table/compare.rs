//! Compares our runs with the numbers of others: the difference, and whether it lies in the acceptance band.
//!
//! The band is the other number ± [`WIDTH`] standard errors of the difference between two means ([`error`]).

use super::content::Estimate;
use super::draft::{Draft, DraftRow};
use crate::record::Origin;

/// Half the width of a band in standard errors. Of differences that are due to chance alone, 1 in 20 is outside if the
/// errors are known exactly; with errors from a few seeds there are more.
const WIDTH: f64 = 2.;

/// Inserts below each row of another origin its comparison with our row with the same keys.
pub(super) fn compare(rows: &mut Vec<DraftRow>) {
    let mut made = Vec::new();
    for (i, other) in rows.iter().enumerate() {
        if other.difference || other.key.origin == Origin::Ours {
            continue;
        }
        let Some(ours) = rows.iter().find(|row| same(row, other)) else { continue };
        let cells: Vec<Draft> = ours.cells.iter().zip(&other.cells).map(|(a, b)| cell(a, b)).collect();
        if cells.iter().any(|cell| cell.value.is_some()) {
            made.push((
                i + 1,
                DraftRow { difference: true, against: Some(other.key.origin), cells, ..other.clone() },
            ));
        }
    }
    for (position, row) in made.into_iter().rev() {
        rows.insert(position, row);
    }
}

/// Whether `row` is ours and has the same keys and variant. A variant `target …` matches if our weights have that target
/// ([`Draft::target`]).
fn same(row: &DraftRow, other: &DraftRow) -> bool {
    let (ours, key) = (&row.key, &other.key);
    let targets =
        || row.cells.iter().zip(&other.cells).any(|(a, b)| a.target.is_some() && a.target == b.target);
    let variant = ours.variant == key.variant
        || ours.variant.is_empty() && key.variant.starts_with("target ") && targets();
    !row.difference && ours.origin == Origin::Ours && ours.keys == key.keys && variant
}

/// Ours − other, with a note that says whether the difference is in the band.
fn cell(ours: &Draft, other: &Draft) -> Draft {
    let (Some(a), Some(b)) = (&ours.value, &other.value) else { return Draft::default() };
    let mean = a.mean - b.mean;
    let note = match (ours.target, other.target, error(a, b)) {
        (Some(a), Some(b), _) if a != b => {
            format!(
                "another variant: our initial weights were trained to predict {a}, those of the other row {b}"
            )
        }
        (_, _, None) => "no band: neither number has a spread over seeds".into(),
        (_, _, Some((error, basis))) => {
            let half = WIDTH * error;
            let place = if mean.abs() <= half { "inside" } else { "outside" };
            format!(
                "{place} the band {:.2} ± {half:.2}, {WIDTH} standard errors of the difference{basis}",
                b.mean
            )
        }
    };
    Draft { value: Some(Estimate { n: a.n, ..Estimate::exact(mean) }), notes: vec![note], ..Draft::default() }
}

/// The standard error of ours − other, and on what it is based if not on both spreads:
/// √(s²/n + s'²/n') with the standard deviations s over our pre-trainings (or runs) and s' over the seeds of the other
/// number. If we have one value, it is taken to vary as the other number does. If the other number has no spread, it is
/// taken as exact.
fn error(ours: &Estimate, other: &Estimate) -> Option<(f64, &'static str)> {
    let variance = |spread: f64, of: &Estimate| spread * spread / of.independent() as f64;
    match (ours.spread, other.spread) {
        (Some(s), Some(other_s)) => Some(((variance(s, ours) + variance(other_s, other)).sqrt(), "")),
        (None, Some(s)) => Some((
            (variance(s, ours) + variance(s, other)).sqrt(),
            "; ours is taken to vary over seeds as the other number does",
        )),
        (Some(s), None) => Some((variance(s, ours).sqrt(), "; the other number is taken as exact")),
        (None, None) => None,
    }
}
