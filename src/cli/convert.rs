//! `bench convert`: weights in the names of other programs.

use super::inspect::file_of;
use super::{CommandResult, print};
use crate::weights::{self, CheckpointHints, Program};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct ConvertArgs {
    /// A run, a weights file (.safetensors, .pth, .npz), or a folder of transformers
    weights: String,
    /// Whose names the new file has
    #[arg(long, value_name = "PROGRAM")]
    to: To,
    /// The new file (.safetensors); for `hf`, config.json is written beside it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Heads of attention, where the file does not tell; the width over 64 when absent
    #[arg(long)]
    heads: Option<usize>,
    /// Epsilon of layer norms, where the file does not tell; 1e-6 when absent
    #[arg(long, value_name = "EPS")]
    norm_eps: Option<f64>,
    /// Heads of the decoder, where the file does not tell; 32 channels each when absent, 16 at most
    #[arg(long, value_name = "HEADS")]
    decoder_heads: Option<usize>,
    /// Whether the decoder predicts normalised pixels, where the file does not tell; it does when absent
    #[arg(long, value_name = "BOOL")]
    norm_pix_loss: Option<bool>,
    /// Share of masked patches in pre-training, where the file does not tell; 0.75 when absent
    #[arg(long, value_name = "SHARE")]
    mask_ratio: Option<f64>,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum To {
    /// facebookresearch/mae
    Fair,
    /// timm
    Timm,
    /// Hugging Face transformers
    Hf,
}

impl To {
    pub fn program(self) -> Program {
        match self {
            To::Fair => Program::Fair,
            To::Timm => Program::Timm,
            To::Hf => Program::HuggingFace,
        }
    }
}

pub fn convert(args: ConvertArgs) -> CommandResult {
    let details = CheckpointHints {
        heads: args.heads,
        norm_eps: args.norm_eps,
        decoder_heads: args.decoder_heads,
        norm_pix_loss: args.norm_pix_loss,
        mask_ratio: args.mask_ratio,
    };
    let source = file_of(&args.weights, &args.runs)?;
    let done = weights::convert_weights(&source, args.to.program(), &args.out, &details)?;
    print(format_args!("{} tensors in {}", done.tensors, args.out.display()))?;
    if let Some(config) = &done.config {
        print(format_args!("model in {}", config.display()))?;
    }
    done.notes.iter().try_for_each(|note| print(format_args!("note: {note}")))?;
    if !done.left_out.is_empty() {
        print(format_args!("left out: {}", done.left_out.join(", ")))?;
    }
    Ok(())
}
