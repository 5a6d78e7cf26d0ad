//! `bench model list|show`.

use super::flags::Include;
use super::{CommandResult, print};
use crate::config::{Catalogue, Choice, KnownBackbone, Library, ModelConfig};
use crate::data::augment::Augmentations;
use crate::models::{gmacs, mae_gmacs, parameter_count};
use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Subcommand, Debug)]
enum ModelCommand {
    /// All models in a line each
    List {
        /// The backbones of the Hugging Face Hub that are known by name, instead of the models here
        #[arg(long)]
        hub: bool,
        #[command(flatten)]
        include: Include,
    },
    /// Sizes and cost of a model
    Show {
        model: String,
        /// Change a value, with or without `model.` before it (repeatable)
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        #[command(flatten)]
        include: Include,
    },
}

/// Mask ratio for the cost of MAE: the paper's.
const MASK_RATIO: f64 = 0.75;

pub fn model(args: ModelArgs) -> CommandResult {
    match args.command {
        ModelCommand::List { hub: true, include } => {
            Catalogue::load(&include.library()?)?.0.iter().try_for_each(|known| print(described(known)))?;
        }
        ModelCommand::List { hub: false, include } => {
            let library = include.library()?;
            for name in library.list("configs/models") {
                let model = Choice { library: &library, overrides: &[], owner: &Augmentations::builtin() }
                    .model(&name, None)?;
                print(format_args!("{name:<16} {}", line(&model)?))?;
            }
        }
        ModelCommand::Show { model, set, include } => show(&include.library()?, &model, set)?,
    }
    Ok(())
}

/// `hub:owner/name`, and what is known of it.
fn described(known: &KnownBackbone) -> String {
    let model = known.model.as_deref().unwrap_or("no model here");
    let target = known.target.map(|target| format!(", predicts {target}")).unwrap_or_default();
    let rows = if known.rows.is_empty() { String::new() } else { format!("; {}", known.rows.join(", ")) };
    let note = known.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
    let KnownBackbone { hub, dialect, license, init, data, .. } = known;
    format!("hub:{hub:<44} {init:<12} {model:<13} {dialect}, {license}, {data}{target}{rows}{note}")
}

fn line(model: &ModelConfig) -> Result<String> {
    if let Some(foreign) = model.foreign {
        return Ok(format!(
            "{foreign:?} of candle-transformers, width {}: frozen, needs weights",
            model.width
        ));
    }
    let ModelConfig { image: [h, w], patch, width, depth, heads, .. } = model;
    Ok(format!(
        "{h}×{w} px, patch {patch:>2}, width {width:>4}, depth {depth:>2}, heads {heads:>2}: {:>7.2} M parameters, \
         {:>7.2} GMAC",
        parameter_count(model)? as f64 / 1e6,
        gmacs(model)
    ))
}

fn show(library: &Library, name: &str, set: Vec<String>) -> Result<()> {
    let with_prefix = |s: String| if s.starts_with("model.") { s } else { format!("model.{s}") };
    let overrides: Vec<String> = set.into_iter().map(with_prefix).collect();
    let model =
        Choice { library, overrides: &overrides, owner: &Augmentations::builtin() }.model(name, None)?;
    print(toml::to_string(&model)?.trim_end())?;
    if model.foreign.is_some() {
        print(format_args!("# {}", line(&model)?))?;
        return Ok(());
    }
    let (encoder, decoder) = mae_gmacs(&model, &model.decoder, MASK_RATIO);
    print(format_args!("# parameters (encoder)      {}", parameter_count(&model)?))?;
    print(format_args!("# GMAC, one image           {:.2}", gmacs(&model)))?;
    print(format_args!(
        "# GMAC of MAE at 75 % masks {:.2} (encoder {encoder:.2}, decoder {decoder:.2})",
        encoder + decoder
    ))?;
    Ok(())
}
