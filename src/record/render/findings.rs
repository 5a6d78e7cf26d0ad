//! [`findings`]: says in words what the differences of a table show.

use super::text::fixed;
use crate::record::table::{Difference, Estimate, Row, Table, TableSpec};

/// A difference counts as one if it is larger than this number of standard errors.
const WIDTH: f64 = 2.;

/// Sentences about the differences of `table`, which `spec` describes: where the first of the two rows scores higher or lower
/// than the second by more than two standard errors over pre-trainings and seeds, where it does not, and where no standard
/// error is known. Of those that count, the sentences name the ones that are smaller than two standard errors of the
/// evaluation split. Empty if the table has no differences.
pub fn findings(table: &Table, spec: &TableSpec) -> Vec<String> {
    let rows: Vec<&Row> = table.rows.iter().filter(|row| row.difference).collect();
    let of_row = |row: &&Row| {
        let found = spec.differences.iter().find_map(|request| {
            let place = row.keys.iter().position(|key| *key == request.title)?;
            Some((request, place))
        });
        let Some((request, place)) = found else { return vec![] };
        let mut others = row.keys.iter().enumerate().filter(|(i, key)| *i != place && !key.is_empty());
        let others: Vec<&str> = others.by_ref().map(|(_, key)| key.as_str()).collect();
        let which = if rows.len() > 1 && !others.is_empty() {
            format!("{}: ", others.join(", "))
        } else {
            String::new()
        };
        sentences(table, row, request).into_iter().map(|sentence| format!("{which}{sentence}")).collect()
    };
    rows.iter().flat_map(of_row).collect()
}

fn sentences(table: &Table, row: &Row, request: &Difference) -> Vec<String> {
    let cells = table.columns.iter().zip(&row.cells).zip(&table.decimals);
    let values: Vec<Shown> = cells
        .filter_map(|((column, cell), digits)| {
            Some(Shown { column, value: cell.value.as_ref()?, digits: *digits })
        })
        .collect();
    let of = |verdict: Verdict| values.iter().filter(|shown| shown.verdict() == verdict).collect::<Vec<_>>();
    let listed = |shown: &[&Shown]| shown.iter().map(|shown| shown.text()).collect::<Vec<_>>().join(", ");
    let Difference { of: first, minus: second, .. } = request;
    let counts = "by more than two standard errors";
    let mut sentences = vec![];
    for (verdict, word) in [(Verdict::Higher, "higher"), (Verdict::Lower, "lower")] {
        let shown = of(verdict);
        if !shown.is_empty() {
            sentences.push(format!("{first} scores {word} than {second}, {counts}, in {}.", listed(&shown)));
        }
    }
    let undecided = of(Verdict::Undecided);
    if !undecided.is_empty() {
        let list = listed(&undecided);
        sentences.push(format!("{first} and {second} do not differ {counts} in {list}."));
    }
    let unknown = of(Verdict::Unknown);
    if !unknown.is_empty() {
        let list = listed(&unknown);
        sentences.push(format!("Without repetitions, which would give a standard error: {list}."));
    }
    let unsure: Vec<&str> =
        values.iter().filter(|shown| shown.is_within_the_split()).map(|shown| shown.column).collect();
    if !unsure.is_empty() {
        sentences.push(format!(
            "In {}, another sample of evaluation images could show no difference: it is smaller than two standard errors of \
             the split (eval).",
            unsure.join(", ")
        ));
    }
    sentences
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Higher,
    Lower,
    /// Within the standard errors.
    Undecided,
    /// Without a standard error.
    Unknown,
}

/// A difference in one column.
struct Shown<'a> {
    column: &'a str,
    value: &'a Estimate,
    digits: usize,
}

impl Shown<'_> {
    fn verdict(&self) -> Verdict {
        let mean = self.value.mean;
        match self.value.spread {
            None => Verdict::Unknown,
            Some(error) if mean > WIDTH * error => Verdict::Higher,
            Some(error) if mean < -WIDTH * error => Verdict::Lower,
            Some(_) => Verdict::Undecided,
        }
    }

    /// Whether a difference that counts is smaller than what another evaluation split might change.
    fn is_within_the_split(&self) -> bool {
        let counts = matches!(self.verdict(), Verdict::Higher | Verdict::Lower);
        counts && self.value.evaluation.is_some_and(|error| self.value.mean.abs() <= WIDTH * error)
    }

    /// `boxes (+3.1 ± 0.8 over 3 pre-trainings)`
    fn text(&self) -> String {
        let Self { column, value, digits } = self;
        let sign = if value.mean > 0. { "+" } else { "" };
        let error = value.spread.map_or(String::new(), |error| format!(" ± {}", fixed(error, *digits)));
        let behind = match (value.pretrainings, value.n) {
            (Some(1), _) => "from one pre-training".into(),
            (Some(n), _) => format!("over {n} pre-trainings"),
            (None, 1) => "of one pair of runs".into(),
            (None, n) => format!("over {n} pairs of runs"),
        };
        format!("{column} ({sign}{}{error} {behind})", fixed(value.mean, *digits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Origin;
    use crate::record::table::Cell;

    fn value(mean: f64, spread: Option<f64>, evaluation: Option<f64>, pretrainings: Option<usize>) -> Cell {
        Cell { value: Some(Estimate { mean, spread, evaluation, pretrainings, n: 3 }), marks: vec![] }
    }

    fn table(cells: Vec<Cell>) -> Table {
        let columns: Vec<String> = (0..cells.len()).map(|k| format!("c{k}")).collect();
        let row = |difference, init: &str| Row {
            origin: Origin::Ours,
            difference,
            keys: vec!["vit".into(), init.into()],
            marks: vec![],
            cells: cells.clone(),
        };
        Table {
            title: "t".into(),
            keys: vec!["model".into(), "init".into()],
            decimals: vec![1; columns.len()],
            columns,
            rows: vec![row(false, "scratch"), row(false, "mae"), row(true, "mae − scratch")],
            footnotes: vec![],
            remarks: vec![],
        }
    }

    fn spec() -> TableSpec {
        let text = "title = \"t\"\nrows = [\"model\", \"init\"]\n[[column]]\ntitle = \"c0\"\n[[difference]]\nkey = \"init\"\n\
                    of = \"mae\"\nminus = \"scratch\"\ntitle = \"mae − scratch\"";
        TableSpec::parse(text, "test").unwrap()
    }

    #[test]
    fn differences_are_said_in_words() {
        let cells = vec![
            value(3.1, Some(0.8), Some(1.), Some(3)),
            value(-2.06, Some(1.), Some(2.), Some(3)),
            value(0.4, Some(0.9), None, Some(3)),
            value(10.8, None, Some(2.), Some(1)),
            Cell::default(),
        ];
        assert_eq!(
            findings(&table(cells), &spec()),
            [
                "mae scores higher than scratch, by more than two standard errors, in c0 (+3.1 ± 0.8 over 3 pre-trainings).",
                "mae scores lower than scratch, by more than two standard errors, in c1 (−2.1 ± 1.0 over 3 pre-trainings).",
                "mae and scratch do not differ by more than two standard errors in c2 (+0.4 ± 0.9 over 3 pre-trainings).",
                "Without repetitions, which would give a standard error: c3 (+10.8 from one pre-training).",
                "In c1, another sample of evaluation images could show no difference: it is smaller than two standard errors \
                 of the split (eval).",
            ]
        );
    }

    #[test]
    fn two_standard_errors_are_the_limit() {
        let said = |mean| findings(&table(vec![value(mean, Some(1.), None, Some(3))]), &spec()).join(" ");
        assert!(said(2.01).contains("higher") && said(-2.01).contains("lower"));
        assert!([2., -2., 0.].iter().all(|mean| said(*mean).contains("do not differ")));
    }

    #[test]
    fn several_rows_are_told_apart_and_none_says_nothing() {
        let mut two = table(vec![value(3.1, Some(0.8), None, None)]);
        let mut other = two.rows[2].clone();
        other.keys[0] = "mixer".into();
        two.rows.push(other);
        let said = findings(&two, &spec());
        assert!(
            said[0].starts_with("vit: mae scores") && said[1].starts_with("mixer: mae scores"),
            "{said:?}"
        );
        assert!(said[0].contains("over 3 pairs of runs"), "{said:?}");
        two.rows.truncate(2);
        assert!(findings(&two, &spec()).is_empty());
    }
}
