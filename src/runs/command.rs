//! The command line that makes a run, for its record: everything that the program chose on behalf of the user is written out.

use super::RunContext;
use crate::config::{FOLDER, Reported, Run, RunConfig, SCRATCH, Stage};
use std::path::Path;

/// A command line of `bench` with these arguments, quoted for a shell.
pub fn command_line(args: impl IntoIterator<Item = String>) -> String {
    let quote = |arg: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) {
            arg
        } else {
            format!("'{}'", arg.replace('\'', "'\\''"))
        }
    };
    let args = args.into_iter().map(quote);
    std::iter::once("bench".to_string()).chain(args).collect::<Vec<_>>().join(" ")
}

/// The arguments that make the run `config`. The request named the task `task`, whose data a pre-training run reads, and the model if
/// `model`.
pub(super) fn arguments(
    context: &RunContext,
    (task, model): (Option<&str>, bool),
    config: &RunConfig,
) -> Vec<String> {
    let run = &config.run;
    let path = |path: &Path| path.display().to_string();
    let or_path =
        |file: &Option<std::path::PathBuf>, name: &str| file.as_deref().map_or(name.to_string(), path);
    let mut pairs: Vec<(&str, String)> = vec![];
    match (run.stage, task) {
        (Stage::Transfer, _) => pairs.extend(run.task_source().map(|task| ("--task", task))),
        (Stage::Pretrain, Some(task)) => pairs.push(("--task", task.into())),
        (Stage::Pretrain, None) if run.dataset == FOLDER => {} // `--data` alone
        (Stage::Pretrain, None) => pairs.push(("--dataset", run.dataset_source())),
    }
    // Weights bring their model with them; its name alone would mean the file of that name.
    if model || run.init == SCRATCH {
        pairs.push(("--model", or_path(&run.model_path, &run.model)));
    }
    pairs.push(("--recipe", or_path(&run.recipe_path, &run.recipe)));
    if run.stage == Stage::Transfer || run.init != SCRATCH {
        pairs.push(("--init", run.init.clone()));
    }
    pairs.push(("--seed", run.seed.to_string()));
    pairs.push(("--dtype", run.dtype.as_str().into()));
    pairs.extend(run.overrides.iter().map(|set| ("--set", set.clone())));
    finish(context, run, pairs)
}

/// The arguments that repeat the run of the file `config`, which no other arguments describe.
pub(super) fn repetition(context: &RunContext, file: &Path, run: &Run) -> Vec<String> {
    let pairs = vec![("--config", file.display().to_string()), ("--seed", run.seed.to_string())];
    finish(context, run, pairs)
}

fn finish(context: &RunContext, run: &Run, mut pairs: Vec<(&str, String)>) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    if run.report != Reported::default() {
        pairs.push(("--report", run.report.as_str().into()));
    }
    pairs.extend(run.data.iter().map(|folder| ("--data", path(folder))));
    pairs.extend(context.library.includes().iter().map(|folder| ("--include", path(folder))));
    if context.device_name != "cpu" {
        pairs.push(("--device", context.device_name.clone()));
    }
    let pairs = pairs.into_iter().flat_map(|(flag, value)| [flag.to_string(), value]);
    std::iter::once(run.stage.as_str().to_string()).chain(pairs).collect()
}
