//! `bench runs`: the runs of a folder, of both stages, with how far they are and how well they do.

use super::output::duration;
use super::{CommandResult, print};
use crate::config::{Run, RunConfig, Stage, read};
use crate::record::{BestScore, Curve, RunFolder, RunRecord, RunStore, Status};
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

#[derive(Args, Debug)]
pub(super) struct RunsArgs {
    /// Show only runs whose id contains all of these words
    words: Vec<String>,
    /// Show only runs of this stage
    #[arg(long)]
    stage: Option<StageName>,
    /// Show only runs on this task
    #[arg(long)]
    task: Option<String>,
    /// Show only runs in this state
    #[arg(long)]
    status: Option<State>,
    /// Print JSON with all digits
    #[arg(long)]
    json: bool,
    /// Folder that contains all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

/// The stages, as values of a flag.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum StageName {
    Pretrain,
    Transfer,
}

impl From<StageName> for Stage {
    fn from(name: StageName) -> Self {
        match name {
            StageName::Pretrain => Self::Pretrain,
            StageName::Transfer => Self::Transfer,
        }
    }
}

/// What a run does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum State {
    /// A process is training it
    Running,
    /// All planned steps are done
    Finished,
    /// Stopped at --max-steps
    Truncated,
    /// Stopped by Ctrl-C or killed; --resume continues it
    Interrupted,
    /// Ended with an error
    Failed,
}

/// A run as the list shows it.
#[derive(Debug, Serialize)]
struct Listed {
    id: String,
    stage: Stage,
    state: State,
    /// Task of a transfer, data set of a pre-training.
    on: String,
    model: String,
    recipe: String,
    init: String,
    seed: u64,
    steps_done: u64,
    /// 0 if unknown, and for heads that are fitted without steps.
    steps_planned: u64,
    loss: Option<f64>,
    lowest_loss: Option<f64>,
    lowest_loss_step: Option<u64>,
    /// Name of the primary score.
    score_name: Option<String>,
    score: Option<f64>,
    stderr: Option<f64>,
    /// The best score, if the run kept the weights that have it.
    best: Option<BestScore>,
    best_on: Option<String>,
    seconds: f64,
    /// Seconds since 1970 of the last change of its record or log.
    changed: u64,
    error: Option<String>,
    folder: PathBuf,
}

pub(super) fn runs(args: RunsArgs) -> CommandResult {
    let store = RunStore::new(&args.runs);
    let (mut found, mut total) = (vec![], 0);
    for id in store.ids()? {
        total += 1;
        match listed(&RunFolder::at(store.path(&id))) {
            Ok(run) => found.push(run),
            Err(error) => eprintln!("warning: {error:#}"),
        }
    }
    let stage = args.stage.map(Stage::from);
    found.retain(|run| {
        args.words.iter().all(|word| run.id.contains(word))
            && stage.is_none_or(|stage| run.stage == stage)
            && args.task.as_ref().is_none_or(|task| run.stage == Stage::Transfer && run.on == *task)
            && args.status.is_none_or(|state| run.state == state)
    });
    found.sort_by(|a, b| (a.changed, &a.id).cmp(&(b.changed, &b.id)));
    if args.json {
        return Ok(print(serde_json::to_string_pretty(&found)?)?);
    }
    if found.is_empty() {
        eprintln!(
            "no runs in `{}`{}",
            args.runs.display(),
            if total > 0 { format!(" match ({total} there)") } else { String::new() }
        );
        return Ok(());
    }
    print(table(&found))?;
    for run in found.iter().filter(|run| run.state == State::Failed) {
        let error = run.error.as_deref().unwrap_or("no message").lines().next().unwrap_or_default();
        eprintln!("{}: {error}", run.id);
    }
    Ok(())
}

/// What is known about the run in `folder`.
fn listed(folder: &RunFolder) -> Result<Listed> {
    let record = folder.record().is_file().then(|| folder.read_record()).transpose()?;
    let curve = Curve::read(&folder.log())?;
    let files = [folder.record(), folder.log(), folder.config()];
    let changed = files.iter().filter_map(|file| file.metadata().ok()?.modified().ok()).max();
    let changed =
        changed.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    let state = match (folder.is_in_use(), &record) {
        (true, _) => State::Running,
        (false, None) => State::Interrupted,
        (false, Some(record)) => match record.status {
            Status::Finished => State::Finished,
            Status::Truncated => State::Truncated,
            Status::Interrupted => State::Interrupted,
            Status::Failed => State::Failed,
        },
    };
    let (last, lowest) = (curve.losses.last(), curve.best());
    let logged = last.map_or(0, |point| point.step);
    let run = |run: Run| Listed {
        id: folder.id(),
        stage: run.stage,
        state,
        on: run.task.unwrap_or(run.dataset),
        model: run.model,
        recipe: run.recipe,
        init: run.init_label,
        seed: run.seed,
        steps_done: logged.max(record.as_ref().map_or(0, |record| record.steps_done)),
        steps_planned: record.as_ref().map_or(0, |record| record.steps_planned),
        loss: last.map(|point| point.loss),
        lowest_loss: lowest.map(|point| point.loss),
        lowest_loss_step: lowest.map(|point| point.step),
        score_name: record.as_ref().and_then(|record| record.primary.clone()),
        score: None,
        stderr: None,
        best: None,
        best_on: None,
        seconds: record.as_ref().map_or(0., |record| record.throughput.wall_seconds),
        changed: changed.as_secs(),
        error: record.as_ref().and_then(|record| record.error.clone()),
        folder: folder.path().to_path_buf(),
    };
    let mut listed = match (&record, folder.config().is_file()) {
        (_, true) => run(read::<RunConfig>(&folder.config())?.run),
        (Some(record), false) => run(of_record(record)?), // a record alone, copied from elsewhere
        (None, false) => anyhow::bail!("`{}` holds no run", folder.path().display()),
    };
    if let Some(record) = &record {
        let primary = record.primary.as_deref().and_then(|name| record.scores.get(name));
        (listed.score, listed.stderr) =
            (primary.map(|score| score.value), primary.and_then(|score| score.stderr));
        let evaluation = record.evaluation.as_ref();
        listed.best = evaluation.and_then(|evaluation| evaluation.best);
        listed.best_on = evaluation.and_then(|evaluation| evaluation.best_on.clone());
    }
    if let (State::Running, Some(name), Some(point)) = (state, &listed.score_name, curve.scores.last()) {
        let score = point.scores.get(name);
        (listed.score, listed.stderr) =
            (score.map(|score| score.value), score.and_then(|score| score.stderr));
    }
    Ok(listed)
}

/// `[run]` of a record without a `config.toml` beside it.
fn of_record(record: &RunRecord) -> Result<Run> {
    let config = record.config.clone().ok_or_else(|| {
        anyhow::anyhow!(
            "run `{}` has neither `config.toml` nor a record that holds its configuration",
            record.id
        )
    })?;
    Ok(serde_json::from_value(config["run"].clone())?)
}

/// The runs as aligned columns.
fn table(runs: &[Listed]) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let head = ["run", "state", "steps", "loss", "score", "best", "time", "changed"].map(String::from);
    let optional = |text: Option<String>| text.unwrap_or_else(|| "–".into());
    let row = |run: &Listed| {
        let steps = match (run.steps_done, run.steps_planned) {
            (0, 0) => "–".to_string(),
            (done, planned) if done == planned || planned == 0 => done.to_string(),
            (done, planned) => format!("{done}/{planned}"),
        };
        let loss = run.loss.map(|loss| match run.lowest_loss.filter(|lowest| *lowest < loss) {
            Some(lowest) => format!("{loss:.4} (lowest {lowest:.4})"),
            None => format!("{loss:.4}"),
        });
        let score = run.score_name.as_ref().zip(run.score).map(|(name, score)| match run.stderr {
            Some(error) => format!("{name} {score:.2} ± {error:.2}"),
            None => format!("{name} {score:.2}"),
        });
        let best = run.best.map(|best| {
            let on = run.best_on.as_ref().map_or(String::new(), |split| format!(" on {split}"));
            format!("{:.2} at step {}{on}", best.value, best.step)
        });
        let time = (run.seconds > 0.).then(|| duration(Duration::from_secs_f64(run.seconds)));
        [
            run.id.clone(),
            format!("{:?}", run.state).to_lowercase(),
            steps,
            optional(loss),
            optional(score),
            optional(best),
            optional(time),
            format!("{} ago", duration(Duration::from_secs(now.saturating_sub(run.changed)))),
        ]
    };
    columns(&head, &runs.iter().map(row).collect::<Vec<_>>())
}

/// Rows below a head, each column as wide as its widest cell. Columns in which every cell is `–` are left out.
pub(super) fn columns<const N: usize>(head: &[String; N], rows: &[[String; N]]) -> String {
    let shown: Vec<usize> = (0..N).filter(|&i| rows.iter().any(|row| row[i] != "–")).collect();
    let width =
        |i: usize| std::iter::once(head).chain(rows).map(|row| row[i].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; N]| {
        let cells = shown.iter().map(|&i| format!("{:<width$}", row[i], width = width(i)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    std::iter::once(head).chain(rows).map(line).collect::<Vec<_>>().join("\n")
}
