//! `bench push`: uploads the weights of a run, its record and a model card to the Hugging Face Hub.

use super::convert::To;
use super::hub::hub_settings;
use super::{CommandResult, Failure, print};
use crate::config::{RunConfig, read};
use crate::record::{RunFolder, RunRecord, RunStore, model_card};
use crate::weights::{self, CheckpointHints, Hub, HubFile, UploadContent};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub(super) struct PushArgs {
    /// Id or folder of the run
    run: String,
    /// Destination: hub:owner/name[@branch]
    repository: String,
    /// Program whose tensor names the uploaded weights use [default: those of facebookresearch/mae, with our metadata]
    #[arg(long, value_name = "PROGRAM")]
    to: Option<To>,
    /// Make the repository private if it is created
    #[arg(long)]
    private: bool,
    /// Licence of the weights for the model card, as the Hub spells it (`cc-by-nc-4.0`)
    #[arg(long)]
    license: Option<String>,
    /// Print the model card and the names of the files, and upload nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not contact the Hub; only useful with --dry-run
    #[arg(long)]
    offline: bool,
    /// Folder that contains all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

pub(super) fn push(args: PushArgs) -> CommandResult {
    let target = HubFile::parse(&args.repository)?;
    if let Some(file) = &target.file {
        return Err(anyhow::anyhow!(
            "`{}`: expected a repository without a file, found the file `{file}`",
            args.repository
        )
        .into());
    }
    let store = RunStore::new(&args.runs);
    let folder = match Path::new(&args.run) {
        path if path.is_dir() => RunFolder::at(path),
        _ => store.find(&args.run)?,
    };
    let record = folder.read_record()?;
    let library = match args.to {
        Some(To::Hf) => "transformers",
        Some(To::Timm) => "timm",
        Some(To::Fair) | None => "bench",
    };
    let card = model_card(&record, &store.records()?, &args.repository, (library, args.license.as_deref()))?;
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let files = files(&folder, &record, card.clone(), args.to, scratch.path())?;
    if args.dry_run {
        print(card)?;
        files.iter().for_each(|(path, _)| eprintln!("{path}"));
        return Ok(());
    }
    let message = format!("Run {}", record.id);
    let pushed = Hub::new(hub_settings(args.offline))?
        .push(&target, &files, &message, args.private)
        .map_err(|e| Failure::Run(e.into()))?;
    print(pushed.url)?;
    eprintln!("{} files, commit {}", files.len(), pushed.commit.as_deref().unwrap_or("not named"));
    Ok(())
}

/// The files to upload, by path in the repository. Converted weights are written to `scratch` first.
fn files(
    folder: &RunFolder,
    record: &RunRecord,
    card: String,
    to: Option<To>,
    scratch: &Path,
) -> Result<Vec<(String, UploadContent)>> {
    let mut weights = folder.weights();
    ensure!(weights.is_file(), "run `{}` has no weights (`{}`)", record.id, weights.display());
    let config: RunConfig = read(&folder.config())?;
    let mut described = serde_json::json!({
        "library_name": "bench",
        "bench_version": record.environment.version,
        "model_name": config.run.model,
        "model": config.model,
        "stage": record.stage,
        "task": record.task,
        "recipe_name": record.recipe,
    });
    if let Some(to) = to {
        let converted = scratch.join("model.safetensors");
        let done = weights::convert_weights(&weights, to.program(), &converted, &CheckpointHints::default())?;
        done.notes.iter().for_each(|note| eprintln!("note: {note}"));
        if !done.left_out.is_empty() {
            eprintln!("left out: {}", done.left_out.join(", "));
        }
        if let Some(path) = done.config {
            // transformers preserves keys that it does not know.
            let theirs = std::fs::read_to_string(&path)?;
            let mut theirs: serde_json::Value = serde_json::from_str(&theirs)?;
            theirs["bench"] = described;
            described = theirs;
        }
        weights = converted;
    }
    let text = |path: &Path| {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        anyhow::Ok(UploadContent::Text(text))
    };
    Ok(vec![
        ("README.md".into(), UploadContent::Text(card)),
        ("config.json".into(), UploadContent::Text(serde_json::to_string_pretty(&described)?)),
        ("config.toml".into(), text(&folder.config())?),
        ("run.json".into(), text(&folder.record())?),
        ("model.safetensors".into(), UploadContent::File(weights)),
    ])
}
