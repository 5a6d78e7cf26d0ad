//! The program and the machine of a run, as its record describes them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The sources that a program was built from. A build script finds them; a record repeats them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// Version of the program.
    pub version: String,
    /// Commit; `None` outside a git repository.
    pub commit: Option<String>,
    /// Whether what goes into the program differed from the commit, or there was none.
    pub dirty: bool,
    /// Hash of the sources that can change a weight or a score; `None` if the program does not say.
    pub sources: Option<String>,
    /// Versions of the compiler (`rustc`) and of the tensor library (`candle`).
    pub versions: BTreeMap<String, String>,
}

impl Build {
    /// A program of unknown sources, such as one that uses this crate as a library. Its runs count as those of a modified tree.
    pub fn unknown() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").into(), dirty: true, ..Self::default() }
    }
}

/// The processor that computed a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processor {
    /// Name as sold: `AMD EPYC 9B45`, or the name of the GPU.
    pub name: String,
    /// Architecture, maker, family and model, in which the processor that computes the same bits agrees:
    /// `x86_64 AuthenticAMD 26 2`.
    pub family: String,
    /// Instruction sets that the operators choose between and that it has, in alphabetical order.
    pub features: Vec<String>,
}

/// The program and the machine of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Version of `bench`.
    pub version: String,
    /// Commit that the program was built from; `None` outside a git repository.
    pub commit: Option<String>,
    /// Whether what went into the program had uncommitted changes. Schema 1: whether configuration files had.
    pub dirty: bool,
    /// Device: `cpu` or `cuda:1`.
    pub device: String,
    /// Type in which matrix products are computed: `f32`, `tf32` or `bf16`.
    pub dtype: String,
    /// Number of processes.
    pub world_size: usize,
    /// Number of CPU threads.
    pub threads: usize,
    /// Library that decoded JPEG images in a program that was built with another one; `None` for the decoder that `sources`
    /// have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jpeg_decoder: Option<String>,
    /// [`Build::sources`]; absent in schema 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<String>,
    /// [`Build::versions`]; empty in schema 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// The processor; absent in schema 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<Processor>,
}

impl Environment {
    /// The start of the commit for readers: `4a34e1181f6c`, or `an unknown commit`.
    pub fn made_by(&self) -> &str {
        self.commit.as_deref().unwrap_or("an unknown commit")
    }
}

/// Time and memory that a run took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throughput {
    /// Wall-clock time of the whole run in seconds.
    pub wall_seconds: f64,
    /// Training images per second.
    pub images_per_second: f64,
    /// Peak memory of the process in MB; `None` if unknown.
    pub peak_memory_mb: Option<f64>,
}
