//! [`SpeedRecord`]: measurements of `scripts/compare_pytorch`, and their tables.
//!
//! Ratios are the median time of PyTorch divided by that of the other program: more than 1 means faster than PyTorch.

use super::render::TableFormat;
use super::table::{Cell, Estimate, Row, Table};
use super::{Origin, StoreError, render};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Share of the machine that other processes may use without a footnote; the script repeats measurements above it.
const BUSY: f64 = 0.1;
/// Ratio of the median to the fastest step above which there is a footnote.
const UNSTEADY: f64 = 1.2;

/// One comparison of programs on one machine: `benches/results/<name>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedRecord {
    /// Version of this layout: [`SpeedRecord::SCHEMA`].
    pub schema: u32,
    /// Date of the measurements: `2026-01-31`.
    pub date: String,
    /// The machine.
    pub machine: Machine,
    /// Device: `cpu` or `cuda`.
    pub device: String,
    /// Number of CPU threads of each program.
    pub threads: usize,
    /// Number of processes that were started for each program.
    pub rounds: usize,
    /// Versions of `torch`, `rustc`, …, and the commit of `bench`.
    pub versions: BTreeMap<String, String>,
    /// Peak memory of each program in MB before it builds a model.
    pub idle_mb: BTreeMap<String, f64>,
    /// The models and workloads that were measured.
    pub cases: Vec<SpeedCase>,
}

/// The machine of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Number of cores.
    pub cores: usize,
    /// Vector and matrix instruction sets.
    pub flags: Vec<String>,
    /// Memory in GB; `None` if unknown.
    pub memory_gb: Option<f64>,
    /// Operating system.
    pub system: String,
}

/// One workload and its measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedCase {
    /// Name of the workload.
    pub case: String,
    /// Number of images per step.
    pub images: usize,
    /// Number of parameters of the model, the same in all programs.
    pub parameters: usize,
    /// Number of those that are trained.
    pub trainable: usize,
    /// Number of CPU threads.
    pub threads: usize,
    /// The measurements of all programs and variants.
    pub runs: Vec<SpeedRun>,
}

/// One program in one variant, which was measured or skipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedRun {
    /// `bench` or `pytorch`.
    pub program: String,
    /// Variant: `f32`, `bf16`, `bf16_compiled`, …
    pub variant: String,
    /// Time of a step in ms: median over rounds of the median over steps. `None` if skipped.
    pub median_ms: Option<f64>,
    /// Time of the fastest step in ms. `None` if skipped.
    pub min_ms: Option<f64>,
    /// Peak resident memory in MB: median over rounds. `None` if unknown.
    pub peak_mb: Option<f64>,
    /// Time of every step of every round in ms.
    #[serde(default)]
    pub samples_ms: Vec<Vec<f64>>,
    /// Peak resident memory of every round in MB.
    #[serde(default)]
    pub samples_peak_mb: Vec<f64>,
    /// Share of the machine that other processes used in each round; `None` if unknown.
    #[serde(default)]
    pub others: Vec<Option<f64>>,
    /// Why the variant was skipped.
    pub skipped: Option<String>,
}

impl SpeedRun {
    fn label(&self) -> String {
        let program = if self.is_pytorch() { "PyTorch" } else { self.program.as_str() };
        format!("{program} {}", self.variant.replace('_', ", "))
    }

    fn is_pytorch(&self) -> bool {
        self.program == "pytorch"
    }

    /// Type of the numbers: the variant up to `_`.
    fn dtype(&self) -> &str {
        self.variant.split('_').next().unwrap_or_default()
    }

    /// Footnotes: reasons to trust the numbers less.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(reason) = &self.skipped {
            notes.push(format!("skipped: {reason}"));
        }
        let busiest = self.others.iter().flatten().copied().fold(0., f64::max);
        if busiest > BUSY {
            notes.push(format!("other processes took up to {:.0} % of the machine", 100. * busiest));
        }
        if self.median_ms.zip(self.min_ms).is_some_and(|(median, least)| median > UNSTEADY * least) {
            let percent = 100. * (UNSTEADY - 1.);
            notes.push(format!("unsteady: the median is more than {percent:.0} % above the fastest step"));
        }
        notes
    }
}

impl SpeedRecord {
    /// Version of the layout that this program reads.
    pub const SCHEMA: u32 = 1;

    /// Reads a record.
    ///
    /// # Errors
    /// A file that cannot be read or has another layout; the error names it.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let bytes = std::fs::read(path).map_err(StoreError::io("read", path))?;
        let record: Self = serde_json::from_slice(&bytes).map_err(|e| StoreError::broken(path, e))?;
        if record.schema != Self::SCHEMA {
            let message = format!("schema {}; this program reads schema {}", record.schema, Self::SCHEMA);
            return Err(StoreError::broken(path, message));
        }
        Ok(record)
    }

    /// Reads the record at `path`, or all `.json` files in the folder `path`, sorted by name.
    ///
    /// # Errors
    /// A file that cannot be read or has another layout; the error names it.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, StoreError> {
        if !path.is_dir() {
            return Ok(vec![Self::read(path)?]);
        }
        let files = std::fs::read_dir(path).and_then(|files| files.map(|file| Ok(file?.path())).collect());
        let mut files: Vec<PathBuf> = files.map_err(StoreError::io("list", path))?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        files.iter().map(|file| Self::read(file)).collect()
    }

    /// The full table: one row for each program and variant of each case.
    pub fn table(&self) -> Table {
        let mut footnotes = Vec::new();
        let rows = self.cases.iter().flat_map(|case| case.runs.iter().map(move |run| (case, run)));
        let rows = rows.map(|(case, run)| row(case, run, &mut footnotes)).collect();
        let columns = ["ms", "× PyTorch, same numbers", "× PyTorch, fastest", "peak MB", "images/s"];
        self.titled(&["case", "program"], &columns, rows, footnotes, vec![1, 2, 2, 0, 1])
    }

    /// The summary: one row for each case, with the speed relative to PyTorch (same number type, and the fastest variants)
    /// and the peak memory relative to PyTorch (fastest variants).
    pub fn summary(&self) -> Table {
        let mut footnotes = Vec::new();
        let rows = self.cases.iter().map(|case| summary_row(case, &mut footnotes)).collect();
        let columns = ["f32", "bf16", "fastest", "memory"];
        self.titled(&["× PyTorch"], &columns, rows, footnotes, vec![2; columns.len()])
    }

    fn titled(
        &self,
        keys: &[&str],
        columns: &[&str],
        rows: Vec<Row>,
        footnotes: Vec<String>,
        decimals: Vec<usize>,
    ) -> Table {
        let Machine { cpu, cores, flags, .. } = &self.machine;
        let version = |name: &str| self.versions.get(name).map_or("unknown", String::as_str);
        let idle = |program: &str| self.idle_mb.get(program).copied().unwrap_or_default();
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Table {
            title: format!(
                "Speed beside PyTorch {} on {}, {} of {cpu}",
                version("torch"),
                self.device,
                threads(self.threads)
            ),
            keys: texts(keys),
            columns: texts(columns),
            rows,
            footnotes,
            remarks: vec![
                format!(
                    "{cores} cores, {}; {}; bench {}, {}",
                    flags.join(" "),
                    self.date,
                    version("bench"),
                    ["torchvision", "pillow", "rustc"]
                        .map(|name| format!("{name} {}", version(name)))
                        .join(", "),
                ),
                format!(
                    "medians over {} fresh processes; peak MB of the process, of which {:.0} (bench) and {:.0} \
                     (PyTorch) are there before a model is",
                    self.rounds,
                    idle("bench"),
                    idle("pytorch")
                ),
            ],
            decimals,
        }
    }
}

fn summary_row(case: &SpeedCase, footnotes: &mut Vec<String>) -> Row {
    let fastest = |pytorch: bool, dtype: Option<&str>| {
        let runs = case.runs.iter().filter(|run| run.is_pytorch() == pytorch && run.median_ms.is_some());
        let runs = runs.filter(|run| dtype.is_none_or(|dtype| run.dtype() == dtype));
        runs.min_by(|a, b| a.median_ms.partial_cmp(&b.median_ms).unwrap_or(Ordering::Equal))
    };
    let ratio =
        |dtype: Option<&str>| Some(fastest(true, dtype)?.median_ms? / fastest(false, dtype)?.median_ms?);
    let memory = || Some(fastest(false, None)?.peak_mb? / fastest(true, None)?.peak_mb?);
    let notes: BTreeSet<String> = case.runs.iter().flat_map(SpeedRun::notes).collect();
    Row {
        origin: Origin::Ours,
        difference: false,
        keys: vec![case.case.clone()],
        marks: notes.into_iter().map(|note| mark(footnotes, note)).collect(),
        cells: [ratio(Some("f32")), ratio(Some("bf16")), ratio(None), memory()].map(cell).to_vec(),
    }
}

fn cell(value: Option<f64>) -> Cell {
    Cell { value: value.map(|mean| Estimate { mean, spread: None, n: 1 }), marks: vec![] }
}

/// The number of a footnote, which is added if it is new.
fn mark(footnotes: &mut Vec<String>, note: String) -> usize {
    match footnotes.iter().position(|known| *known == note) {
        Some(i) => i + 1,
        None => {
            footnotes.push(note);
            footnotes.len()
        }
    }
}

fn row(case: &SpeedCase, run: &SpeedRun, footnotes: &mut Vec<String>) -> Row {
    let pytorch = case.runs.iter().filter(|other| other.is_pytorch());
    let fastest = |same: bool| {
        let others = pytorch.clone().filter(|other| !same || other.dtype() == run.dtype());
        others.filter_map(|other| other.median_ms).min_by(f64::total_cmp)
    };
    let ratio = |same: bool| Some(fastest(same)? / run.median_ms?);
    let rate = run.median_ms.map(|ms| case.images as f64 / ms * 1e3);
    let values = [run.median_ms, ratio(true), ratio(false), run.peak_mb, rate];
    Row {
        origin: Origin::Ours,
        difference: false,
        keys: vec![case.case.clone(), run.label()],
        marks: run.notes().into_iter().map(|note| mark(footnotes, note)).collect(),
        cells: values.map(cell).to_vec(),
    }
}

/// Renders one table for each of `records`, made by `of` ([`SpeedRecord::table`] or [`SpeedRecord::summary`]).
pub fn render_speed(
    records: &[SpeedRecord],
    of: fn(&SpeedRecord) -> Table,
    format: TableFormat,
) -> String {
    records.iter().map(|record| render::render(&of(record), format)).collect::<Vec<_>>().join("\n")
}

fn threads(count: usize) -> String {
    format!("{count} thread{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{
        "schema": 1, "date": "2026-01-01", "device": "cpu", "threads": 2, "rounds": 3,
        "machine": {"cpu": "CPU", "cores": 2, "flags": ["avx2"], "memory_gb": 8.0, "system": "Linux"},
        "versions": {"torch": "2.0", "bench": "abc"}, "idle_mb": {"bench": 10.0, "pytorch": 500.0},
        "cases": [{"case": "mae", "images": 8, "parameters": 5, "trainable": 4, "threads": 2, "runs": [
            {"program": "bench", "variant": "f32", "median_ms": 1000.0, "min_ms": 900.0, "peak_mb": 700.4,
             "samples_ms": [[1000.0]], "samples_peak_mb": [700.4], "others": [0.2]},
            {"program": "pytorch", "variant": "f32", "median_ms": 2000.0, "min_ms": 1900.0, "peak_mb": 2000.0},
            {"program": "pytorch", "variant": "bf16", "median_ms": 800.0, "min_ms": 600.0, "peak_mb": 1900.0},
            {"program": "pytorch", "variant": "bf16_compiled", "skipped": "no compiler"}]}]}"#;

    #[test]
    fn ratios_are_to_the_same_numbers_and_to_the_fastest() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json"), RECORD).unwrap();
        std::fs::write(folder.path().join("b.txt"), "not read").unwrap();
        let records = SpeedRecord::read_all(folder.path()).unwrap();
        let text = render_speed(&records, SpeedRecord::table, TableFormat::Markdown);
        for line in [
            "**Speed beside PyTorch 2.0 on cpu, 2 threads of CPU**",
            "| mae  | bench f32 <sup>1</sup>              | 1000.0 |                    2.00 |               0.80 |     700 |      8.0 |",
            "| mae  | PyTorch bf16 <sup>2</sup>           |  800.0 |                    1.00 |               1.00 |    1900 |     10.0 |",
            "| mae  | PyTorch bf16, compiled <sup>3</sup> |      – |                       – |                  – |       – |        – |",
            "- <sup>1</sup> other processes took up to 20 % of the machine",
            "- <sup>2</sup> unsteady: the median is more than 20 % above the fastest step",
            "- <sup>3</sup> skipped: no compiler",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_summary_has_one_row_per_case() {
        let record: SpeedRecord = serde_json::from_str(RECORD).unwrap();
        let table = record.summary();
        assert_eq!(table.rows.len(), 1);
        let values: Vec<Option<f64>> =
            table.rows[0].cells.iter().map(|cell| cell.value.as_ref().map(|value| value.mean)).collect();
        // There is no bf16 of ours; the fastest are ours in f32 and PyTorch's in bf16.
        assert_eq!(values, [Some(2.), None, Some(0.8), Some(700.4 / 1900.)]);
        assert_eq!(table.rows[0].marks.len(), 3);
    }

    #[test]
    fn another_layout_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for (from, to, expected) in [
            ("\"schema\": 1", "\"schema\": 9", "schema 9"),
            ("\"rounds\"", "\"round\"", "unknown field `round`"),
        ] {
            std::fs::write(&path, RECORD.replace(from, to)).unwrap();
            let error = SpeedRecord::read_all(&path).unwrap_err().to_string();
            assert!(error.contains("a.json") && error.contains(expected), "{error}");
        }
    }
}
