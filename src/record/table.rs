//! [`build_table`]: makes a [`Table`] from records and published numbers; a pure function without clock and disk.
//!
//! A cell is the mean over runs, with the number of pre-trainings and transfers behind it (`docs/statistics.md`). Runs
//! of different versions of a task are never mixed; runs on different data, with different overrides or from weights
//! that were trained differently are different rows; reasons to trust a number less (truncated, unfinished,
//! uncommitted changes, notes) are footnotes. Knows no task.

mod cell;
mod compare;
mod content;
mod draft;
mod error;
mod spec;
mod statistics;
#[cfg(test)]
mod tests;

use super::{Origin, Reference, RunRecord};
use cell::{count, difference, measure_column};
pub use content::{Cell, Estimate, Row, Table};
use draft::{Draft, DraftRow, RowKey};
pub use error::TableError;
pub use spec::{Column, Difference, Key, Selection, TableSpec};
use std::collections::{BTreeMap, BTreeSet};

/// Builds the table that `spec` describes.
///
/// `records` may hold a record twice (a run whose record is also committed); `references` holds all published numbers.
///
/// # Errors
/// Numbers that would share a cell but must not, or a specification that names something unknown.
pub fn build_table(
    records: &[RunRecord],
    references: &[Reference],
    spec: &TableSpec,
) -> Result<Table, TableError> {
    let mut remarks = Vec::new();
    let runs = newest_versions(selected(records, spec)?, &mut remarks);
    let mut rows = measured_rows(&runs, spec, &mut remarks)?;
    rows.extend(published_rows(references, spec)?);
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    add_differences(&mut rows, spec);
    if spec.compare {
        compare::compare(&mut rows);
    }
    Ok(number(rows, spec, remarks))
}

/// The records that the specification shows, each once, by id.
fn selected<'a>(records: &'a [RunRecord], spec: &TableSpec) -> Result<Vec<&'a RunRecord>, TableError> {
    let mut runs: BTreeMap<&str, &RunRecord> = BTreeMap::new();
    for run in records {
        if spec.hides(run).is_empty() && runs.insert(&run.id, run).is_some_and(|other| other != run) {
            return Err(TableError::Duplicate { id: run.id.clone() });
        }
    }
    Ok(runs.into_values().collect())
}

/// Leaves out runs of old versions of a task, and says so.
fn newest_versions<'a>(runs: Vec<&'a RunRecord>, remarks: &mut Vec<String>) -> Vec<&'a RunRecord> {
    let mut newest: BTreeMap<Option<String>, Option<u32>> = BTreeMap::new();
    for run in &runs {
        let version = newest.entry(run.task.clone()).or_insert(run.task_version);
        *version = (*version).max(run.task_version);
    }
    let (kept, left): (Vec<&RunRecord>, Vec<&RunRecord>) =
        runs.into_iter().partition(|run| newest[&run.task] == run.task_version);
    let mut old: BTreeMap<_, usize> = BTreeMap::new();
    for run in left {
        *old.entry((run.task.clone(), run.task_version)).or_default() += 1;
    }
    for ((task, version), n) in old {
        let text = |version: Option<u32>| version.map_or("no version".into(), |v| format!("version {v}"));
        remarks.push(format!(
            "task `{}`: {} only; {} of {} left out",
            task.as_deref().unwrap_or_default(),
            text(newest[&task]),
            count(n, "run", "runs"),
            text(version)
        ));
    }
    kept
}

fn measured_rows(
    runs: &[&RunRecord],
    spec: &TableSpec,
    remarks: &mut Vec<String>,
) -> Result<Vec<DraftRow>, TableError> {
    let mut data: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // The layouts of records hash the manifest differently.
    let mut manifests: BTreeMap<(String, u32), BTreeSet<String>> = BTreeMap::new();
    let what = |run: &RunRecord| run.task.clone().unwrap_or_else(|| run.dataset.clone());
    for run in runs {
        data.entry(what(run)).or_default().insert(run.dataset_fingerprint.clone());
        manifests.entry((what(run), run.schema)).or_default().extend(run.task_hash.clone());
    }
    let listed = |hashes: &BTreeSet<String>| hashes.iter().map(|h| short(h)).collect::<Vec<_>>().join(", ");
    for (what, fingerprints) in data.iter().filter(|(_, fingerprints)| fingerprints.len() > 1) {
        let list = listed(fingerprints);
        remarks.push(format!("`{what}` was measured on different data ({list}): those rows do not compare"));
    }
    for ((what, _), hashes) in manifests.iter().filter(|(_, hashes)| hashes.len() > 1) {
        remarks.push(format!("the manifest of `{what}` changed within its version ({})", listed(hashes)));
    }
    let mut trainings: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for run in runs {
        let known = run.init.trained.iter().map(ToString::to_string);
        trainings.entry((&run.model, &run.init.label)).or_default().extend(known);
    }
    let mut rows: BTreeMap<RowKey, Vec<Vec<&RunRecord>>> = BTreeMap::new();
    for run in runs {
        let mut variant = if spec.group_overrides { vec![] } else { run.variant() };
        if data[&what(run)].len() > 1 {
            variant.push(format!("data {}", short(&run.dataset_fingerprint)));
        }
        if trainings[&(run.model.as_str(), run.init.label.as_str())].len() > 1 {
            variant.extend(run.init.trained.iter().map(ToString::to_string));
        }
        let key = RowKey {
            keys: spec.rows.iter().map(|key| sortable(spec, *key, &key.of_run(run))).collect(),
            variant: variant.join(" "),
            origin: Origin::Ours,
            place: Default::default(),
        };
        let cells = rows.entry(key).or_insert_with(|| vec![vec![]; spec.columns.len()]);
        for (cell, column) in cells.iter_mut().zip(&spec.columns) {
            if column.selection.allows_run(run) {
                cell.push(run);
            }
        }
    }
    let draft = |(key, cells): (RowKey, Vec<Vec<&RunRecord>>)| {
        let cells = cells.iter().zip(&spec.columns).map(|(runs, column)| measure_column(runs, column));
        Ok(DraftRow { key, difference: false, against: None, cells: cells.collect::<Result<_, _>>()? })
    };
    rows.into_iter().map(draft).collect()
}

fn published_rows(references: &[Reference], spec: &TableSpec) -> Result<Vec<DraftRow>, TableError> {
    let mut rows: BTreeMap<RowKey, Vec<Draft>> = BTreeMap::new();
    for id in &spec.references {
        if !references.iter().any(|reference| reference.id == *id) {
            let known: BTreeSet<_> = references.iter().map(|r| r.id.as_str()).collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(TableError::UnknownReference { id: id.clone(), known });
        }
    }
    for reference in references {
        let Some(rank) = spec.references.iter().position(|id| *id == reference.id) else { continue };
        for (i, column) in spec.columns.iter().enumerate() {
            let shown = column.score.as_ref() == Some(&reference.score)
                && spec.filter.allows_reference(reference)
                && column.selection.allows_reference(reference);
            if !shown {
                continue;
            }
            let text = |key: &Key| sortable(spec, *key, key.of_reference(reference).unwrap_or_default());
            let key = RowKey {
                keys: spec.rows.iter().map(text).collect(),
                variant: reference.variant.clone(),
                origin: reference.origin,
                place: (rank, format!("{}, {}", reference.source, reference.place)),
            };
            let cells = rows.entry(key).or_insert_with(|| vec![Draft::default(); spec.columns.len()]);
            if let Some(other) = &cells[i].value {
                let (column, id) = (column.title.clone(), reference.id.clone());
                return Err(TableError::Clash { column, id, values: [other.mean, reference.value] });
            }
            let (mean, spread, n) = (reference.value, reference.spread, reference.seeds.unwrap_or(1));
            let notes = reference.note.iter().cloned().collect();
            let target = reference.target;
            let value = Some(Estimate { spread, n, ..Estimate::exact(mean) });
            cells[i] = Draft { value, target, notes, ..Draft::default() };
        }
    }
    Ok(rows
        .into_iter()
        .map(|(key, cells)| DraftRow { key, difference: false, against: None, cells })
        .collect())
}

/// Puts each difference below the later of its two rows.
fn add_differences(rows: &mut Vec<DraftRow>, spec: &TableSpec) {
    for request in &spec.differences {
        let Some(i) = spec.rows.iter().position(|key| *key == request.key) else { continue };
        let mut found = Vec::new();
        for (a, of) in rows.iter().enumerate() {
            if of.difference || of.key.keys[i].2 != request.of {
                continue;
            }
            let mut wanted = of.key.clone();
            wanted.keys[i] = sortable(spec, request.key, &request.minus);
            let Some(b) = rows.iter().position(|row| !row.difference && row.key == wanted) else { continue };
            let cells: Vec<_> = of.cells.iter().zip(&rows[b].cells).map(|(a, b)| difference(a, b)).collect();
            if cells.iter().any(|cell| cell.value.is_some()) {
                let mut key = of.key.clone();
                key.keys[i].2 = request.title.clone();
                found.push((a.max(b) + 1, DraftRow { key, difference: true, against: None, cells }));
            }
        }
        found.sort_by_key(|(position, _)| *position);
        for (position, row) in found.into_iter().rev() {
            rows.insert(position, row);
        }
    }
}

/// Numbers the notes in reading order and drops the key columns that say nothing.
fn number(mut rows: Vec<DraftRow>, spec: &TableSpec, mut remarks: Vec<String>) -> Table {
    remarks.extend(common_marks(&mut rows));
    let mut footnotes: Vec<String> = Vec::new();
    let mut mark = |note: &String| match footnotes.iter().position(|known| known == note) {
        Some(i) => i + 1,
        None => {
            footnotes.push(note.clone());
            footnotes.len()
        }
    };
    let variants = rows.iter().any(|row| !row.key.variant.is_empty());
    let references = rows.iter().any(|row| row.key.origin != Origin::Ours);
    remarks.extend(meanings(&rows));
    let mut keys: Vec<String> = spec.rows.iter().map(|key| key.name().to_string()).collect();
    keys.extend(variants.then(|| "variant".to_string()));
    keys.extend(references.then(|| "origin".to_string()));
    let finish = |row: DraftRow| {
        let mut keys: Vec<String> = row.key.keys.into_iter().map(|(_, _, text)| text).collect();
        keys.extend(variants.then_some(row.key.variant));
        let origin = row.key.origin;
        let origin = row
            .against
            .map_or(origin.name().into(), |other| format!("{} − {}", Origin::Ours.name(), other.name()));
        keys.extend(references.then_some(origin));
        let (_, place) = &row.key.place;
        let marks = if place.is_empty() { vec![] } else { vec![mark(place)] };
        let cells = row.cells.iter().map(|cell| Cell {
            value: cell.value.clone(),
            marks: BTreeSet::from_iter(cell.notes.iter().chain(&cell.marks).map(&mut mark))
                .into_iter()
                .collect(),
        });
        let cells = cells.collect();
        Row { origin: row.key.origin, difference: row.difference, keys, marks, cells }
    };
    let rows = rows.into_iter().map(finish).collect();
    let columns: Vec<_> = spec.columns.iter().map(|column| column.title.clone()).collect();
    let decimals = vec![spec.decimals; columns.len()];
    remarks.extend(spec.footnotes.iter().cloned());
    Table { title: spec.title.clone(), keys, columns, rows, footnotes, remarks, decimals }
}

/// What the numbers behind a mean and its errors are.
fn meanings(rows: &[DraftRow]) -> Vec<String> {
    let values = |difference: bool| {
        let rows = rows.iter().filter(move |row| row.difference == difference && row.against.is_none());
        rows.flat_map(|row| &row.cells).filter_map(|cell| cell.value.as_ref())
    };
    let texts = [
        (
            values(false).any(|value| value.pretrainings.is_some()),
            "(p×t): mean over p pre-trainings with t transfers each; ± is the standard deviation over \
             pre-trainings",
        ),
        (
            values(false).any(|value| value.pretrainings.is_none() && value.n > 1),
            "(n=…): mean over n runs; ± is their standard deviation",
        ),
        (
            values(true).any(|value| value.spread.is_some()),
            "differences: mean over pairs of runs; ± is its standard error over pre-trainings and seeds",
        ),
        (
            [true, false]
                .into_iter()
                .any(|difference| values(difference).any(|value| value.evaluation.is_some())),
            "eval: standard error of a single run or of a difference due to the size of the evaluation split",
        ),
    ];
    texts.into_iter().filter(|(shown, _)| *shown).map(|(_, text)| text.into()).collect()
}

/// Takes the marks that all of our numbers have from their cells: they are remarks on the table then.
fn common_marks(rows: &mut [DraftRow]) -> Vec<String> {
    let ours = rows.iter_mut().filter(|row| row.key.origin == Origin::Ours && !row.difference);
    let mut cells: Vec<&mut Draft> =
        ours.flat_map(|row| &mut row.cells).filter(|cell| cell.value.is_some()).collect();
    let Some(first) = cells.first() else { return vec![] };
    let shared = |mark: &String| cells.iter().all(|cell| cell.marks.contains(mark));
    let common: Vec<String> = first.marks.iter().filter(|mark| shared(mark)).cloned().collect();
    cells.iter_mut().for_each(|cell| cell.marks.retain(|mark| !common.contains(mark)));
    common
}

fn sortable(spec: &TableSpec, key: Key, text: &str) -> (usize, u64, String) {
    (spec.filter.rank(key, text), text.parse().unwrap_or(u64::MAX), text.to_string())
}

/// The start of a hash: enough to tell two apart by eye.
fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}
