//! Errors of reading weight files and of loading weights into a model.

use super::finite::NotFinite;
use candle_core::DType;
use std::path::PathBuf;

/// A file that cannot be read as weights.
#[derive(Debug, thiserror::Error)]
#[error("weights `{}`: {reason}", path.display())]
pub struct WeightFileError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub reason: String,
}

/// Weights that do not fit the model. `file` describes what the file seems to hold.
#[derive(Debug, thiserror::Error)]
pub enum WeightLoadError {
    /// Parameters of the model that are not among the weights.
    #[error("the model needs {}, which the weights lack; {file}", list(names))]
    Missing {
        /// Names of the parameters.
        names: Vec<String>,
        /// Description of the file.
        file: String,
    },
    /// Weights that belong to no parameter of the model.
    #[error("the weights hold {}, which the model does not have; {file}", list(names))]
    Unexpected {
        /// Names of the tensors.
        names: Vec<String>,
        /// Description of the file.
        file: String,
    },
    /// A tensor whose shape differs from that of the parameter.
    #[error("`{name}` has shape {found:?} in the weights and {expected:?} in the model; {file}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// Its shape in the model.
        expected: Vec<usize>,
        /// Description of the file.
        file: String,
    },
    /// Position embeddings that need resizing, but do not form a square grid.
    #[error(
        "`{name}`: {found} positions are not a square grid, with or without one for the class token, so they cannot be \
         resized to {}×{}",
        to.0,
        to.1
    )]
    Grid {
        /// Name of the tensor.
        name: String,
        /// Number of positions in the file.
        found: usize,
        /// Grid (rows, columns) of the model.
        to: (usize, usize),
    },
    /// Periods of rotary positions that are not those of the model.
    #[error(
        "the weights have rotary positions with the periods {found:?}, and the model has {}: set `rope_base` (100 for DINOv3) \
         and `heads`",
        rotations(*base, *channels)
    )]
    Periods {
        /// Periods in the file.
        found: Vec<f64>,
        /// `rope_base` of the model.
        base: Option<f64>,
        /// Channels of a head of the model.
        channels: usize,
    },
    /// A tensor that does not hold floating-point numbers.
    #[error("`{name}` has values of type {found:?}, which weights do not have; {file}")]
    Type {
        /// Name of the tensor.
        name: String,
        /// Its type in the file.
        found: DType,
        /// Description of the file.
        file: String,
    },
    /// Tensors that hold NaN or infinity.
    #[error("weights contain NaN or infinity in {}: training diverged, or the file is damaged", list(&all(tensors)))]
    NotFinite {
        /// The tensors, with the numbers of such values.
        tensors: Vec<NotFinite>,
    },
    /// A tensor operation that failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The rotary positions of a model.
fn rotations(base: Option<f64>, channels: usize) -> String {
    match base {
        Some(base) => format!("`rope_base` {base} with {channels} channels in a head"),
        None => "none".into(),
    }
}

fn all(tensors: &[NotFinite]) -> Vec<String> {
    tensors.iter().map(ToString::to_string).collect()
}

/// The first five names, and how many more there are.
fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
