//! Compares our runs with the numbers of others: the difference, and whether it lies in the acceptance band.
//!
//! The band is the other number ± [`WIDTH`] standard deviations over seeds: its own if it states one, otherwise ours.

use super::content::Estimate;
use super::draft::{Draft, DraftRow};
use crate::record::Origin;

/// Half the width of a band in standard deviations: a reproduction that differs by seeds alone is outside in 1 of 20.
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
    let note = match (ours.target, other.target, b.spread.or(a.spread)) {
        (Some(a), Some(b), _) if a != b => {
            format!(
                "another variant: our initial weights were trained to predict {a}, those of the other row {b}"
            )
        }
        (_, _, None) => "no band: neither number has a spread over seeds".into(),
        (_, _, Some(spread)) => {
            let (half, whose) = (WIDTH * spread, if b.spread.is_some() { "its" } else { "our" });
            let place = if mean.abs() <= half { "inside" } else { "outside" };
            format!(
                "{place} the band {:.2} ± {half:.2}, {WIDTH} standard deviations over {whose} seeds",
                b.mean
            )
        }
    };
    Draft { value: Some(Estimate { mean, spread: None, n: a.n }), notes: vec![note], ..Draft::default() }
}
