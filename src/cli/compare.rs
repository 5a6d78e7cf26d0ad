//! `bench compare`: runs side by side: their configurations, losses and scores.

use super::runs::columns;
use super::{CommandResult, print};
use crate::config::{Change, RunConfig, read};
use crate::record::{
    Curve, RunFolder, RunRecord, RunStore, ScorePair, SeedPairs, repetitions, score_pairs, seed_pairs,
    write_atomic,
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Rows of the table of losses.
const ROWS: usize = 10;
/// Longest value of a key that is shown.
const VALUE_WIDTH: usize = 60;

#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// Id (or its unique beginning) or folder of the first run
    first: String,
    /// Id (or its unique beginning) or folder of the second run
    second: String,
    /// Also write all losses and scores of both runs to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print JSON with all digits
    #[arg(long)]
    json: bool,
    /// Folder that contains all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

/// What is known about one of the two runs.
struct Side {
    folder: RunFolder,
    config: RunConfig,
    record: Option<RunRecord>,
    curve: Curve,
}

impl Side {
    fn open(store: &RunStore, name: &str) -> Result<Self> {
        let path = Path::new(name);
        let folder = match path.is_dir() && RunFolder::at(path).config().is_file() {
            true => RunFolder::at(path),
            false => store.find(name)?,
        };
        ensure!(folder.config().is_file(), "`{}` has no config.toml", folder.path().display());
        let record = folder.record().is_file().then(|| folder.read_record()).transpose()?;
        Ok(Self { config: read(&folder.config())?, record, curve: Curve::read(&folder.log())?, folder })
    }
}

pub(super) fn compare(args: CompareArgs) -> CommandResult {
    let store = RunStore::new(&args.runs);
    let sides = [Side::open(&store, &args.first)?, Side::open(&store, &args.second)?];
    let [a, b] = &sides;
    if let Some(path) = &args.csv {
        write_atomic(path, points(&sides).as_bytes())
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    let changes = a.config.changes(&b.config)?;
    let scores = a.record.as_ref().zip(b.record.as_ref()).map(|(a, b)| score_pairs(a, b)).unwrap_or_default();
    let seeds = by_seed(&store, &sides, scores.first());
    if args.json {
        return Ok(print(format_args!("{:#}", as_json(&sides, &changes, &scores, seeds.as_ref())))?);
    }
    print(format_args!("A  {}\nB  {}\n", a.folder.id(), b.folder.id()))?;
    print(settings(&changes))?;
    if let Some(losses) = losses(&sides) {
        print(format_args!("\n{losses}"))?;
    }
    if !scores.is_empty() {
        print(format_args!("\n{}", score_table(&scores)))?;
    }
    if let Some(pairs) = seeds {
        print(format_args!("\n{}", sentence(&scores[0].name, &pairs, &sides)))?;
    }
    Ok(())
}

/// The primary score of the repetitions of both runs, if there is more than one pair.
fn by_seed(store: &RunStore, [a, b]: &[Side; 2], score: Option<&ScorePair>) -> Option<SeedPairs> {
    let (a, b) = (a.record.as_ref()?, b.record.as_ref()?);
    let (records, _) = store.readable_records().ok()?;
    let pairs = seed_pairs(&repetitions(a, &records), &repetitions(b, &records), &score?.name)?;
    (pairs.seeds.len() > 1).then_some(pairs)
}

fn settings(changes: &[Change]) -> String {
    let text = |value: &Option<toml::Value>| match value.as_ref().map(ToString::to_string) {
        None => "not set".to_string(),
        Some(text) if text.chars().count() > VALUE_WIDTH => {
            format!("{} …", text.chars().take(VALUE_WIDTH).collect::<String>())
        }
        Some(text) => text,
    };
    if changes.is_empty() {
        return "the two configurations are the same".into();
    }
    let rows: Vec<_> = changes
        .iter()
        .map(|change| [change.key.clone(), text(&change.values[0]), text(&change.values[1])])
        .collect();
    columns(&["setting", "A", "B"].map(String::from), &rows)
}

/// Losses at the same epochs; `None` where a run has none.
fn losses([a, b]: &[Side; 2]) -> Option<String> {
    let end = |side: &Side| side.curve.losses.last().map(|point| point.epoch);
    let last = end(a)?.min(end(b)?);
    let text = |side: &Side, epoch: f64| {
        side.curve.at_epoch(epoch).map_or("–".into(), |point| format!("{:.4}", point.loss))
    };
    let mut epochs: Vec<f64> = (1..=ROWS).map(|row| last * row as f64 / ROWS as f64).collect();
    epochs.dedup_by(|x, y| {
        a.curve.at_epoch(*x) == a.curve.at_epoch(*y) && b.curve.at_epoch(*x) == b.curve.at_epoch(*y)
    });
    let mut rows: Vec<_> =
        epochs.iter().map(|&epoch| [format!("{epoch:.1}"), text(a, epoch), text(b, epoch)]).collect();
    let lowest = |side: &Side| side.curve.best().map_or("–".into(), |point| format!("{:.4}", point.loss));
    rows.push(["lowest".into(), lowest(a), lowest(b)]);
    Some(columns(&["epoch", "loss of A", "loss of B"].map(String::from), &rows))
}

fn score_table(scores: &[ScorePair]) -> String {
    let row = |pair: &ScorePair| {
        let [a, b] = pair.values;
        let error = pair.stderr.map_or("–".into(), |error| format!("{error:.2}"));
        [pair.name.clone(), format!("{a:.2}"), format!("{b:.2}"), format!("{:+.2}", b - a), error]
    };
    let head = ["score", "A", "B", "B − A", "± (size of the evaluation split)"].map(String::from);
    columns(&head, &scores.iter().map(row).collect::<Vec<_>>())
}

fn sentence(name: &str, pairs: &SeedPairs, sides: &[Side; 2]) -> String {
    let seeds = pairs.seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let error = pairs.stderr.map_or(String::new(), |error| format!(" ± {error:.2}"));
    let hashes: BTreeSet<_> = sides.iter().filter_map(|side| side.config.run.init_hash.as_ref()).collect();
    let caution = match hashes.is_empty() {
        true => "",
        false => "; it says nothing about other pre-trainings if all runs start from the same weights",
    };
    format!(
        "{name}, B − A over {} pairs of runs with the same seed ({seeds}): {:+.2}{error} (standard error of the mean{caution})",
        pairs.seeds.len(),
        pairs.mean
    )
}

/// All points of both runs: a row for each value.
fn points(sides: &[Side; 2]) -> String {
    let mut text = String::from("run,step,epoch,kind,name,value\n");
    for side in sides {
        let id = side.folder.id();
        for point in &side.curve.losses {
            let values = [("loss", point.loss), ("lr", point.lr)].into_iter();
            let values = values.chain(point.values.iter().map(|(name, value)| (name.as_str(), *value)));
            let mut seen = BTreeSet::new();
            for (name, value) in values.filter(|(name, _)| seen.insert(name.to_string())) {
                text += &format!("{id},{},{},training,{name},{value}\n", point.step, point.epoch);
            }
        }
        for point in &side.curve.scores {
            let kind = if point.select { "select" } else { "eval" };
            for (name, score) in &point.scores.0 {
                text += &format!("{id},{},,{kind},{name},{}\n", point.step, score.value);
            }
        }
    }
    text
}

fn as_json(sides: &[Side; 2], changes: &[Change], scores: &[ScorePair], seeds: Option<&SeedPairs>) -> Value {
    let losses = |side: &Side| {
        let point = |point: &crate::record::LossPoint| json!({ "step": point.step, "epoch": point.epoch, "lr": point.lr, "loss": point.loss, "values": point.values });
        side.curve.losses.iter().map(point).collect::<Vec<_>>()
    };
    json!({
        "runs": sides.each_ref().map(|side| side.folder.id()),
        "settings": changes.iter().map(|change| json!({ "key": change.key, "values": change.values })).collect::<Vec<_>>(),
        "losses": sides.each_ref().map(losses),
        "scores": scores.iter().map(|pair| json!({
            "name": pair.name, "values": pair.values, "difference": pair.values[1] - pair.values[0], "stderr": pair.stderr,
        })).collect::<Vec<_>>(),
        "by_seed": seeds.map(|pairs| json!({ "seeds": pairs.seeds, "mean": pairs.mean, "stderr": pairs.stderr })),
    })
}
