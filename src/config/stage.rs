//! The stage of a run, the split that it reports, and the type of its matrix products.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Pre-trains a backbone, or trains a tokenizer.
    Pretrain,
    /// Trains a backbone and a head on a task, and evaluates them.
    Transfer,
}

impl Stage {
    /// The name of the stage in records, and of the folder of `configs/` with its recipes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Transfer => "transfer",
        }
    }
}

/// The split of a task whose scores a transfer run reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reported {
    /// The evaluation split, whose scores are published.
    #[default]
    Eval,
    /// The split on which hyper-parameters, epochs and checkpoints are chosen.
    Select,
}

impl Reported {
    /// The name in records and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eval => "eval",
            Self::Select => "select",
        }
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl std::str::FromStr for Reported {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "eval" => Ok(Self::Eval),
            "select" => Ok(Self::Select),
            _ => Err("known: eval, select".into()),
        }
    }
}

/// The type in which the operands of matrix products are multiplied. Parameters, the residual stream, norms, softmax
/// and losses are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32-bit floating point.
    #[default]
    F32,
    /// Rounded to 10 bits of mantissa, sums in f32; on CUDA devices.
    Tf32,
    /// bfloat16: 8 bits of mantissa; sums are f32.
    Bf16,
}

impl Dtype {
    /// The name in records and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            _ => Err("known: f32, tf32, bf16".into()),
        }
    }
}
