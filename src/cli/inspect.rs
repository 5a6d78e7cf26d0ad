//! `bench inspect`: what a file of weights is.

use super::Outcome;
use crate::weights::{self, weights_in};
use clap::Args;
use std::path::PathBuf;

/// Names of tensors that are not read, of which there may be hundreds.
const SHOWN: usize = 5;

#[derive(Args, Debug)]
pub struct InspectArgs {
    /// A weights file (.safetensors, .pth, .npz), or the folder of a run or of transformers
    weights: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn inspect(args: InspectArgs) -> Outcome {
    let path = if args.weights.is_dir() { weights_in(&args.weights) } else { args.weights };
    let found = weights::inspect(&path)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    println!("file        {} ({}, {:.1} MB)", found.path.display(), found.format, found.bytes as f64 / 1e6);
    println!("blake3      {}", found.hash);
    match found.translated_from {
        Some(title) => println!("dialect     {}, in the names of {title}", found.dialect),
        None => println!("dialect     {}", found.dialect),
    }
    if let Some(model) = &found.model {
        println!("model       {model}");
        if let Some((width, depth)) = model.decoder {
            println!("decoder     width {width}, depth {depth}");
        }
        if let Some(classes) = model.classes {
            println!("head        {classes} classes");
        }
    }
    println!("tensors     {} ({} values)", found.tensors, found.parameters);
    if !found.unread.is_empty() {
        let shown: Vec<&str> = found.unread.iter().take(SHOWN).map(String::as_str).collect();
        let more = found.unread.len() - shown.len();
        let more = if more == 0 { String::new() } else { format!(" and {more} more (--json has all)") };
        println!("not read    {}{more}", shown.join(", "));
    }
    let uses = if found.uses.is_empty() { "nothing here".into() } else { found.uses.join(", ") };
    println!("usable to   {uses}");
    for key in ["bench.run", "bench.recipe_name", "written_by"] {
        if let Some(value) = found.metadata.get(key) {
            println!("{:<11} {value}", key.trim_start_matches("bench."));
        }
    }
    Ok(())
}
