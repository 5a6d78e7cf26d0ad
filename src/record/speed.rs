//! [`SpeedRecord`]: measurements of `scripts/compare_pytorch`.

mod table;

use super::StoreError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
pub use table::render_speed;

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
    /// Vendor, family, model and stepping of the processor, because hypervisors shorten its name; `None` if unknown.
    #[serde(default)]
    pub processor: Option<String>,
    /// Number of cores.
    pub cores: usize,
    /// Vector and matrix instruction sets.
    pub flags: Vec<String>,
    /// Memory in GB; `None` if unknown.
    pub memory_gb: Option<f64>,
    /// Operating system.
    pub system: String,
    /// Name of the CUDA device; `None` for comparisons on a CPU.
    #[serde(default)]
    pub accelerator: Option<String>,
    /// Version of its driver.
    #[serde(default)]
    pub driver: Option<String>,
}

/// The work of a whole program, from its start to its last checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WholeProgram {
    /// Number of training steps.
    pub steps: usize,
    /// Number of images per training step.
    pub batch: usize,
    /// Number of images that are evaluated after training.
    pub evaluated: usize,
}

/// One workload and its measurements. A step is the whole run of a [`WholeProgram`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedCase {
    /// Name of the workload.
    pub case: String,
    /// Number of images per step; of a whole program, those that it trains on or evaluates.
    pub images: usize,
    /// Number of parameters of the model, the same in all programs.
    pub parameters: usize,
    /// Number of those that are trained.
    pub trainable: usize,
    /// Number of CPU threads.
    pub threads: usize,
    /// The work of a whole program; `None` for a single step or operator.
    #[serde(default)]
    pub program: Option<WholeProgram>,
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
}

#[cfg(test)]
mod tests;
