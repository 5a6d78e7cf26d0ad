//! Tables of [`SpeedRecord`]s: steps and operators in one, whole programs in another.
//!
//! Ratios are the median time of PyTorch divided by that of the other program: more than 1 means faster than PyTorch.

use super::{Machine, SpeedCase, SpeedRecord, SpeedRun, WholeProgram};
use crate::record::Origin;
use crate::record::render::{self, TableFormat};
use crate::record::table::{Cell, Estimate, Row, Table};
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Share of the machine that other processes may use without a footnote; the script repeats measurements above it.
const BUSY: f64 = 0.1;
/// Ratio of the median to the fastest step above which there is a footnote.
const UNSTEADY: f64 = 1.2;

impl SpeedRecord {
    /// Every measurement: one row for each program and variant of each case, in one table for steps and operators and one
    /// for whole programs. Tables without rows are left out.
    pub fn tables(&self) -> Vec<Table> {
        let columns = ["ms", "× PyTorch, same numbers", "× PyTorch, fastest", "peak MB", "images/s"];
        self.by_kind(|cases, kind| {
            let mut footnotes = Vec::new();
            let rows = cases.iter().flat_map(|case| case.runs.iter().map(move |run| (case, run)));
            let rows = rows.map(|(case, run)| row(case, run, &mut footnotes)).collect();
            let body = Body { rows, footnotes, decimals: vec![1, 2, 2, 0, 1] };
            self.titled(kind, &["case", "program"], &columns, body)
        })
    }

    /// The summaries: one row for each case, with the speed relative to PyTorch (same number type, and the fastest variants)
    /// and the peak memory relative to PyTorch (fastest variants); for whole programs also images per second.
    pub fn summaries(&self) -> Vec<Table> {
        self.by_kind(|cases, kind| {
            let mut footnotes = Vec::new();
            let rows = cases.iter().map(|case| summary_row(case, kind, &mut footnotes)).collect();
            let (key, columns, decimals): (_, &[&str], _) = match kind {
                Kind::Steps => ("× PyTorch", &["f32", "bf16", "fastest", "memory"], vec![2; 4]),
                Kind::Programs => (
                    "program",
                    &["bench, images/s", "PyTorch, images/s", "× f32", "× bf16", "× fastest", "× memory"],
                    vec![1, 1, 2, 2, 2, 2],
                ),
            };
            let mut table = self.titled(kind, &[key], columns, Body { rows, footnotes, decimals });
            table.remarks.splice(0..0, overall(&cases));
            table
        })
    }

    /// A table of the cases of each kind that has any.
    fn by_kind(&self, table: impl Fn(Vec<&SpeedCase>, Kind) -> Table) -> Vec<Table> {
        let cases = |kind| self.cases.iter().filter(|case| case.kind() == kind).collect::<Vec<_>>();
        let kinds = [Kind::Steps, Kind::Programs].map(|kind| (cases(kind), kind));
        kinds
            .into_iter()
            .filter(|(cases, _)| !cases.is_empty())
            .map(|(cases, kind)| table(cases, kind))
            .collect()
    }

    fn titled(&self, kind: Kind, keys: &[&str], columns: &[&str], body: Body) -> Table {
        let version = |name: &str| self.versions.get(name).map_or("unknown", String::as_str);
        let idle = |program: &str| self.idle_mb.get(program).copied().unwrap_or_default();
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let Body { rows, footnotes, decimals } = body;
        let subject = match kind {
            Kind::Steps => "Speed",
            Kind::Programs => "Whole programs",
        };
        let mut remarks = vec![
            format!(
                "{}; {}; bench {}, {}",
                self.machine.description(),
                self.date,
                version("bench"),
                ["torchvision", "pillow", "rustc"].map(|name| format!("{name} {}", version(name))).join(", "),
            ),
            if self.device == "cuda" && kind == Kind::Steps {
                format!("medians over {} fresh processes; peak MB of tensors on the device", self.rounds)
            } else {
                format!(
                    "medians over {} fresh processes; peak MB of the process, of which {:.0} (bench) and {:.0} (PyTorch) \
                     are there before a model is",
                    self.rounds,
                    idle("bench"),
                    idle("pytorch")
                )
            },
        ];
        if self.device == "cuda" {
            remarks.push("f32 without TF32, in products and in convolutions".into());
        }
        if kind == Kind::Programs {
            remarks.push(
                "images/s: images that were trained on or evaluated, per second of the whole program; importing PyTorch and \
                 compiling are not counted, nor is the memory of PyTorch's loader processes"
                    .into(),
            );
        }
        Table {
            title: format!(
                "{subject} beside PyTorch {} on {}, {} of {}",
                version("torch"),
                self.device,
                threads(self.threads),
                self.machine.cpu
            ),
            keys: texts(keys),
            columns: texts(columns),
            rows,
            footnotes,
            remarks,
            decimals,
        }
    }
}

impl WholeProgram {
    fn note(&self) -> String {
        let Self { steps, batch, evaluated } = self;
        let evaluation = match evaluated {
            0 => String::new(),
            count => format!(", evaluation of {count} images"),
        };
        format!("{steps} training steps of {batch} images{evaluation}, checkpoint")
    }
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

/// The kind of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Steps of models, operators, and the loader.
    Steps,
    /// Whole programs.
    Programs,
}

/// What a table shows below its title.
struct Body {
    rows: Vec<Row>,
    footnotes: Vec<String>,
    decimals: Vec<usize>,
}

impl Machine {
    /// Cores, processor, instruction sets and, if there is one, the CUDA device.
    fn description(&self) -> String {
        let Self { cores, processor, flags, accelerator, driver, .. } = self;
        let mut parts = vec![format!("{cores} cores")];
        parts.extend(processor.clone());
        parts.push(flags.join(" "));
        parts.extend(accelerator.clone());
        parts.extend(driver.as_ref().map(|driver| format!("driver {driver}")));
        parts.join(", ")
    }
}

impl SpeedCase {
    fn kind(&self) -> Kind {
        if self.program.is_some() { Kind::Programs } else { Kind::Steps }
    }

    /// The fastest variant of PyTorch or of the other program, among those with numbers of type `dtype` if it is given.
    fn fastest(&self, pytorch: bool, dtype: Option<&str>) -> Option<&SpeedRun> {
        let runs = self.runs.iter().filter(|run| run.is_pytorch() == pytorch && run.median_ms.is_some());
        let runs = runs.filter(|run| dtype.is_none_or(|dtype| run.dtype() == dtype));
        runs.min_by(|a, b| a.median_ms.partial_cmp(&b.median_ms).unwrap_or(Ordering::Equal))
    }

    /// How many times as fast as PyTorch: fastest variant against fastest variant.
    fn ratio(&self, dtype: Option<&str>) -> Option<f64> {
        Some(self.fastest(true, dtype)?.median_ms? / self.fastest(false, dtype)?.median_ms?)
    }

    /// Peak memory as a multiple of PyTorch's, of the fastest variants.
    fn memory(&self) -> Option<f64> {
        Some(self.fastest(false, None)?.peak_mb? / self.fastest(true, None)?.peak_mb?)
    }

    /// Images per second of the fastest variant.
    fn rate(&self, pytorch: bool) -> Option<f64> {
        Some(self.images as f64 / self.fastest(pytorch, None)?.median_ms? * 1e3)
    }
}

/// The geometric mean of the ratios of the fastest variants, and the smallest of them.
fn overall(cases: &[&SpeedCase]) -> Option<String> {
    let ratios: Vec<(f64, &str)> =
        cases.iter().filter_map(|case| Some((case.ratio(None)?, case.case.as_str()))).collect();
    let (least, slowest) = ratios.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0))?;
    let mean = (ratios.iter().map(|(ratio, _)| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
    Some(format!("fastest: geometric mean {mean:.2}, smallest {least:.2} ({slowest})"))
}

fn summary_row(case: &SpeedCase, kind: Kind, footnotes: &mut Vec<String>) -> Row {
    let ratios = [case.ratio(Some("f32")), case.ratio(Some("bf16")), case.ratio(None), case.memory()];
    let rates = match kind {
        Kind::Steps => vec![],
        Kind::Programs => vec![case.rate(false), case.rate(true)],
    };
    let work = case.program.iter().map(WholeProgram::note);
    let reasons: BTreeSet<String> = case.runs.iter().flat_map(SpeedRun::notes).collect();
    Row {
        origin: Origin::Ours,
        difference: false,
        keys: vec![case.case.clone()],
        marks: work.chain(reasons).map(|note| mark(footnotes, note)).collect(),
        cells: rates.into_iter().chain(ratios).map(cell).collect(),
    }
}

fn cell(value: Option<f64>) -> Cell {
    Cell { value: value.map(Estimate::exact), marks: vec![] }
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
    let work = case.program.iter().map(WholeProgram::note);
    Row {
        origin: Origin::Ours,
        difference: false,
        keys: vec![case.case.clone(), run.label()],
        marks: work.chain(run.notes()).map(|note| mark(footnotes, note)).collect(),
        cells: values.map(cell).to_vec(),
    }
}

/// Renders the tables of each of `records` that `of` makes ([`SpeedRecord::tables`] or [`SpeedRecord::summaries`]).
pub fn render_speed(
    records: &[SpeedRecord],
    of: fn(&SpeedRecord) -> Vec<Table>,
    format: TableFormat,
) -> String {
    let tables = records.iter().flat_map(of);
    tables.map(|table| render::render(&table, format)).collect::<Vec<_>>().join("\n")
}

fn threads(count: usize) -> String {
    format!("{count} thread{}", if count == 1 { "" } else { "s" })
}
