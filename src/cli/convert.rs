//! `bench convert`: converts weights to the tensor names of other programs.

use super::inspect::file_of;
use super::{CommandResult, print};
use crate::weights::{self, CheckpointHints, Program};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct ConvertArgs {
    /// A run, a weights file (.safetensors, .pth, .npz, .pkl), or a model folder of transformers
    weights: String,
    /// Program whose tensor names the new file uses
    #[arg(long, value_name = "PROGRAM")]
    to: To,
    /// File to write (.safetensors); for `hf`, a config.json is written beside it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Number of attention heads, if the file does not state it [default: width / 64]
    #[arg(long)]
    heads: Option<usize>,
    /// Epsilon of the layer norms, if the file does not state it [default: 1e-6]
    #[arg(long, value_name = "EPS")]
    norm_eps: Option<f64>,
    /// Number of decoder heads, if the file does not state it [default: one per 32 channels, at most 16]
    #[arg(long, value_name = "HEADS")]
    decoder_heads: Option<usize>,
    /// Whether the decoder predicts normalised pixels, if the file does not state it [default: true]
    #[arg(long, value_name = "BOOL")]
    norm_pix_loss: Option<bool>,
    /// Share of masked patches in pre-training, if the file does not state it [default: 0.75]
    #[arg(long, value_name = "SHARE")]
    mask_ratio: Option<f64>,
    /// Folder that contains all runs
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
    pub(super) fn program(self) -> Program {
        match self {
            To::Fair => Program::Fair,
            To::Timm => Program::Timm,
            To::Hf => Program::HuggingFace,
        }
    }
}

pub(super) fn convert(args: ConvertArgs) -> CommandResult {
    let details = CheckpointHints {
        heads: args.heads,
        norm_eps: args.norm_eps,
        decoder_heads: args.decoder_heads,
        norm_pix_loss: args.norm_pix_loss,
        mask_ratio: args.mask_ratio,
        ..CheckpointHints::default()
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
