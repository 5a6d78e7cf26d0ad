//! `bench convert`: weights in the names of other programs.

use super::Outcome;
use crate::record::RunFolder;
use crate::weights::{self, Program};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct ConvertArgs {
    /// A weights file (.safetensors, .pth), or the folder of a run
    weights: PathBuf,
    /// Whose names the new file has
    #[arg(long, value_name = "PROGRAM")]
    to: To,
    /// The new file (.safetensors); for `hf`, config.json is written beside it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Heads of attention, where the file does not tell; the width over 64 when absent
    #[arg(long)]
    heads: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    /// facebookresearch/mae
    Fair,
    /// timm
    Timm,
    /// Hugging Face transformers
    Hf,
}

pub fn convert(args: ConvertArgs) -> Outcome {
    let source = if args.weights.is_dir() { RunFolder::at(&args.weights).weights() } else { args.weights };
    let program = match args.to {
        To::Fair => Program::Fair,
        To::Timm => Program::Timm,
        To::Hf => Program::HuggingFace,
    };
    let done = weights::convert(&source, program, &args.out, args.heads)?;
    println!("{} tensors in {}", done.tensors, args.out.display());
    if let Some(config) = &done.config {
        println!("model in {}", config.display());
    }
    if !done.left_out.is_empty() {
        println!("left out: {}", done.left_out.join(", "));
    }
    Ok(())
}
