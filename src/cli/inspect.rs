//! `bench inspect`: describes a weights file.

use super::flags::Include;
use super::hub::hub_settings;
use super::progress::Screen;
use super::{CommandResult, Failure, print};
use crate::config::{Catalogue, Choice};
use crate::engine::{Event, Observer};
use crate::record::RunStore;
use crate::registry::Registry;
use crate::runs::fitting_models;
use crate::weights::{
    self, HUB, Hub, HubFile, metadata, split_state_dict, weight_files, weights_in, with_state_dict,
};
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};

/// How many names of unread tensors are printed; there may be hundreds.
const SHOWN: usize = 5;

#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// A run, a weights file (.safetensors, .pth, .npz, .pkl), a model folder of transformers, or
    /// hub:owner/name[@revision][/file]; FILE#KEY for one of several state dicts in a file
    weights: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Do not contact the Hugging Face Hub; use its local cache only
    #[arg(long)]
    offline: bool,
    /// Folder that contains all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    #[command(flatten)]
    include: Include,
}

pub(super) fn inspect(registry: &Registry, args: InspectArgs) -> CommandResult {
    let (name, key) = match args.weights.starts_with(HUB) {
        true => split_state_dict(&args.weights),
        false => (args.weights.as_str(), None),
    };
    let hub = name.starts_with(HUB).then(|| HubFile::parse(name)).transpose()?;
    let (path, source) = match &hub {
        Some(file) => {
            let screen = Screen::new();
            let found = Hub::new(hub_settings(args.offline))?
                .fetch(file, &|done, total| screen.event(&Event::Fetching { done, total }));
            screen.clear();
            let found = found.map_err(|e| Failure::Run(e.into()))?;
            (with_state_dict(&found.path, key), Some(found.reference))
        }
        None => (file_of(&args.weights, &args.runs)?, None),
    };
    let found = weights::inspect_weights(&path)?;
    if args.json {
        print(serde_json::to_string_pretty(&found)?)?;
        return Ok(());
    }
    let library = args.include.library()?;
    let choice = Choice { library: &library, owners: registry.components(), overrides: &[] };
    print(format_args!(
        "file        {} ({}, {:.1} MB)",
        found.path.display(),
        found.format,
        found.bytes as f64 / 1e6
    ))?;
    if let Some(reference) = &source {
        print(format_args!("from        {reference}"))?;
        if let Some(known) = Catalogue::load(&library)?.find(&reference.repository()) {
            print(format_args!("known as    {}, {}, {}", known.init, known.license, known.data))?;
        }
    }
    print(format_args!("blake3      {}", found.hash))?;
    print(format_args!("sha256      {}", found.sha256))?;
    print(format_args!("program     {}", found.program.unwrap_or("unknown")))?;
    print(format_args!("holds       {}", found.contents))?;
    if let Some(model) = &found.model {
        print(format_args!("model       {model}"))?;
        print(format_args!(
            "configs     {}",
            listed(&fitting_models(&choice, model)?, "none has these sizes")
        ))?;
        if let Some((width, depth)) = model.decoder {
            print(format_args!("decoder     width {width}, depth {depth}"))?;
        }
        if let Some(classes) = model.classes {
            print(format_args!("head        {classes} classes"))?;
        }
    }
    print(format_args!("tensors     {} ({} values)", found.tensors, found.parameters))?;
    if !found.state_dict.is_empty() {
        print(format_args!("state dict  {}", found.state_dict))?;
    }
    for other in &found.other_state_dicts {
        print(format_args!("also holds  {other}: choose it with {name}#{other}"))?;
    }
    if !found.unread.is_empty() {
        let shown: Vec<&str> = found.unread.iter().take(SHOWN).map(String::as_str).collect();
        let more = found.unread.len() - shown.len();
        let more = if more == 0 { String::new() } else { format!(" and {more} more (--json has all)") };
        print(format_args!("not read    {}{more}", shown.join(", ")))?;
    }
    for tensor in found.unusable.iter().take(SHOWN) {
        print(format_args!("unusable    {tensor}"))?;
    }
    if let Some(more) = found.unusable.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        print(format_args!("unusable    and {more} more (--json has all)"))?;
    }
    if !found.strangers.is_empty() {
        print(format_args!("not run     {}", found.strangers.join(", ")))?;
    }
    for broken in &found.not_finite {
        print(format_args!("not finite  {broken}"))?;
    }
    let uses: Vec<String> = found.uses.iter().map(ToString::to_string).collect();
    print(format_args!("usable to   {}", listed(&uses, "nothing in this program")))?;
    for key in [metadata::RUN, metadata::RECIPE_NAME, metadata::WRITTEN_BY] {
        if let Some(value) = found.metadata.get(key) {
            print(format_args!("{:<11} {value}", key.trim_start_matches("bench.")))?;
        }
    }
    Ok(())
}

/// The weights file that `name` refers to: a path, a folder of weights, or the id of a run in `runs`.
pub(super) fn file_of(name: &str, runs: &Path) -> Result<PathBuf> {
    let (place, key) = split_state_dict(name);
    let path = Path::new(place);
    if path.is_dir() {
        let found = weights_in(path).with_context(|| format!("`{place}`: {}", weight_files(path)))?;
        return Ok(with_state_dict(&found, key));
    }
    if path.is_file() || path.is_symlink() {
        return Ok(with_state_dict(path, key));
    }
    let run = RunStore::new(runs).find(name);
    Ok(run.with_context(|| format!("`{name}` is not a file, a folder or a run"))?.weights())
}

fn listed(words: &[String], none: &str) -> String {
    if words.is_empty() { none.into() } else { words.join(", ") }
}
