//! `bench model list|show`.

use super::flags::Include;
use super::{CommandResult, print};
use crate::config::{Catalogue, Choice, KnownBackbone, Library, ModelConfig, VIT};
use crate::models::{Backbones, mae_gmacs};
use crate::registry::Registry;
use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub(super) struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Subcommand, Debug)]
enum ModelCommand {
    /// List all models
    List {
        /// List known backbones on the Hugging Face Hub instead
        #[arg(long)]
        hub: bool,
        #[command(flatten)]
        include: Include,
    },
    /// Show the configuration and cost of a model
    Show {
        /// Name (`bench model list`) or path of the model
        model: String,
        /// Override a value; the key may begin with `model.` (repeatable)
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        #[command(flatten)]
        include: Include,
    },
}

/// The paper's mask ratio, used to compute the cost of MAE.
const MASK_RATIO: f64 = 0.75;

pub(super) fn model(registry: &Registry, args: ModelArgs) -> CommandResult {
    match args.command {
        ModelCommand::List { hub: true, include } => {
            Catalogue::load(&include.library()?)?.0.iter().try_for_each(|known| print(described(known)))?;
        }
        ModelCommand::List { hub: false, include } => {
            let library = include.library()?;
            let choice = Choice { library: &library, owners: registry.components(), overrides: &[] };
            for name in library.list("configs/models") {
                let model = choice.model(&name, None)?;
                print(format_args!("{name:<16} {}", line(&registry.components().backbones, &model)?))?;
            }
        }
        ModelCommand::Show { model, set, include } => show(registry, &include.library()?, &model, set)?,
    }
    Ok(())
}

/// One line about a known backbone: `hub:owner/name` and its properties.
fn described(known: &KnownBackbone) -> String {
    let model = known.model.as_deref().unwrap_or("no model file");
    let target = known.target.map(|target| format!(", predicts {target}")).unwrap_or_default();
    let rows = if known.rows.is_empty() { String::new() } else { format!("; {}", known.rows.join(", ")) };
    let note = known.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
    let KnownBackbone { program, license, init, data, .. } = known;
    format!("{:<48} {init:<12} {model:<13} {program}, {license}, {data}{target}{rows}{note}", known.place())
}

fn line(backbones: &Backbones, model: &ModelConfig) -> Result<String> {
    let ModelConfig { image: [h, w], patch, width, depth, heads, backbone, .. } = model;
    if !backbones.trainable(model)? {
        return Ok(format!("{backbone}, width {width}: frozen, needs weights"));
    }
    let parameters = backbones.parameter_count(model)? as f64 / 1e6;
    let gmacs = backbones.gmacs(model)?.map(|gmacs| format!(", {gmacs:>7.2} GMAC")).unwrap_or_default();
    let heads = if backbone == VIT { format!("heads {heads:>2}") } else { backbone.clone() };
    Ok(format!(
        "{h}×{w} px, patch {patch:>2}, width {width:>4}, depth {depth:>2}, {heads}: {parameters:>7.2} M parameters{gmacs}"
    ))
}

fn show(registry: &Registry, library: &Library, name: &str, set: Vec<String>) -> Result<()> {
    let with_prefix = |s: String| if s.starts_with("model.") { s } else { format!("model.{s}") };
    let overrides: Vec<String> = set.into_iter().map(with_prefix).collect();
    let (owners, backbones) = (registry.components(), &registry.components().backbones);
    let model = Choice { library, owners, overrides: &overrides }.model(name, None)?;
    print(toml::to_string(&model)?.trim_end())?;
    if model.backbone != VIT {
        print(format_args!("# {}", line(backbones, &model)?))?;
        return Ok(());
    }
    let (encoder, decoder) = mae_gmacs(&model, &model.decoder, MASK_RATIO);
    print(format_args!("# parameters (encoder)      {}", backbones.parameter_count(&model)?))?;
    print(format_args!("# GMAC, one image           {:.2}", backbones.gmacs(&model)?.unwrap_or_default()))?;
    print(format_args!(
        "# GMAC of MAE at 75 % masks {:.2} (encoder {encoder:.2}, decoder {decoder:.2})",
        encoder + decoder
    ))?;
    Ok(())
}
