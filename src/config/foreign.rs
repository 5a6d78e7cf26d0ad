//! [`Foreign`]: architectures of candle-transformers that `configs/models/foreign_*.toml` name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A network that is read from a file and never trained here: some operators of candle have no gradient to rely on.
/// Names of tensors are timm's, which ResNet shares with torchvision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Foreign {
    /// ResNet (arXiv:1512.03385).
    Resnet18,
    Resnet34,
    Resnet50,
    Resnet101,
    /// ConvNeXt (arXiv:2201.03545).
    ConvnextAtto,
    ConvnextTiny,
    ConvnextSmall,
    ConvnextBase,
    ConvnextLarge,
}

impl Foreign {
    /// Channels of the pooled features.
    pub fn width(self) -> usize {
        match self {
            Self::Resnet18 | Self::Resnet34 => 512,
            Self::Resnet50 | Self::Resnet101 => 2048,
            Self::ConvnextAtto => 320,
            Self::ConvnextTiny | Self::ConvnextSmall => 768,
            Self::ConvnextBase => 1024,
            Self::ConvnextLarge => 1536,
        }
    }
}
