//! `[transfer.attention]`: attention windows and relative positions of a ViT in transfer. Pre-training, and recipes
//! without the table, use global attention without relative positions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Attention windows and relative positions of the backbone: `[transfer.attention]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// Side in patches of the square attention windows of all blocks except the global ones; all blocks are global when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Blocks with global attention.
    #[serde(default)]
    pub global_blocks: GlobalBlocks,
    /// Relative positions.
    #[serde(default)]
    pub relative_position: RelativePosition,
}

/// Which blocks have global attention when the others have windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected \"quarters\" or a list of blocks, from 0")]
pub enum GlobalBlocks {
    /// A choice of blocks by name.
    Named(Quarters),
    /// By index, from 0.
    List(Vec<usize>),
}

/// The named choice of global blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quarters {
    /// The last block of each quarter of the depth, which a pyramid with four taps reads.
    Quarters,
}

impl Default for GlobalBlocks {
    fn default() -> Self {
        Self::Named(Quarters::Quarters)
    }
}

/// Biases of the attention scores that depend on the offset between query and key. New tables start at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RelativePosition {
    /// No relative positions.
    #[default]
    None,
    /// One table for all windowed blocks, another for all global ones (Li et al., arXiv:2111.11429).
    Shared,
    /// One table for each block (BEiT, arXiv:2106.08254).
    PerBlock,
    /// Vectors for rows and columns that are multiplied with the queries, in every block (ViTDet, arXiv:2203.16527).
    Decomposed,
}

impl AttentionConfig {
    /// Side of the window of block `block` (from 0) of `depth`; `None` for global attention.
    pub fn window_of(&self, block: usize, depth: usize) -> Option<usize> {
        let global = match &self.global_blocks {
            GlobalBlocks::Named(Quarters::Quarters) => quarters(depth).contains(&block),
            GlobalBlocks::List(blocks) => blocks.contains(&block),
        };
        self.window.filter(|_| !global)
    }

    /// Whether the model keeps its class token. Windowed attention and decomposed relative positions do not support
    /// one: it is left out before the first block, as in ViTDet.
    pub fn keeps_class_token(&self) -> bool {
        self.window.is_none() && self.relative_position != RelativePosition::Decomposed
    }

    /// Checks the values for a model of `depth` blocks.
    ///
    /// # Errors
    /// A message that names the key.
    pub fn check(&self, depth: usize) -> Result<(), String> {
        if self.window == Some(0) {
            return Err("transfer.attention.window is 0, expected at least 1".into());
        }
        match &self.global_blocks {
            GlobalBlocks::List(blocks) if blocks.iter().any(|&block| block >= depth) => Err(format!(
                "transfer.attention.global_blocks is {blocks:?}, but the model has blocks 0..{depth}"
            )),
            _ => Ok(()),
        }
    }
}

/// The index of the last block of each quarter of `depth` blocks. With fewer than four blocks, some appear more than
/// once.
pub fn quarters(depth: usize) -> Vec<usize> {
    (1..=4).map(|quarter| (quarter * depth / 4).max(1) - 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_the_taps_of_the_paper() {
        assert_eq!(quarters(12), [2, 5, 8, 11]);
        assert_eq!(quarters(24), [5, 11, 17, 23]);
        assert_eq!(quarters(6), [0, 2, 3, 5]);
        assert_eq!(quarters(2), [0, 0, 0, 1]);
    }

    #[test]
    fn the_table_is_parsed_strictly() {
        let parse = |text: &str| crate::config::parse::<AttentionConfig>(text, "recipe");
        let found = parse("window = 14\nrelative_position = \"shared\"").unwrap();
        assert_eq!((found.window_of(1, 12), found.window_of(2, 12)), (Some(14), None));
        assert!(!found.keeps_class_token());
        let found = parse("window = 7\nglobal_blocks = [1]").unwrap();
        assert_eq!((found.window_of(1, 4), found.window_of(3, 4)), (None, Some(7)));
        assert!(found.check(1).unwrap_err().contains("[1]") && found.check(2).is_ok());
        assert!(parse("relative_position = \"per_block\"").unwrap().keeps_class_token());
        let error = parse("global_blocks = \"halves\"").unwrap_err().to_string();
        assert!(error.contains("quarters"), "{error}");
        assert!(parse("windows = 3").unwrap_err().to_string().contains("windows"));
    }
}
