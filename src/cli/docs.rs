//! `bench docs`: the reference of commands, configuration keys and scores, written from the program itself.

use super::flags::Include;
use super::schema_page;
use super::schemas::{SchemaName, file_schema};
use super::task::without_data;
use super::{CommandResult, print};
use crate::config::Library;
use crate::record::{Better, ScoreSpec, Unit, write_atomic};
use crate::registry::{Registry, manifest};
use anyhow::{Context, Result};
use clap::{Arg, Args, Command};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct DocsArgs {
    /// Folder of the reference
    #[arg(long, value_name = "DIR", default_value = "docs/reference")]
    out: PathBuf,
    /// Write nothing; fail if a file of the folder differs from what would be written
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    include: Include,
}

/// Pages of configuration files: file name, schema, title, and where such files are.
const FILES: [(&str, SchemaName, &str, &str); 6] = [
    (
        "recipe.md",
        SchemaName::Recipe,
        "Recipe",
        "`configs/pretrain/<name>.toml` and `configs/transfer/<name>.toml`",
    ),
    ("model.md", SchemaName::Model, "Model", "`configs/models/<name>.toml`"),
    ("task.md", SchemaName::Task, "Task", "`tasks/<name>/task.toml`"),
    ("dataset.md", SchemaName::Dataset, "Data set", "`datasets/<name>/dataset.toml`"),
    ("suite.md", SchemaName::Suite, "Suite", "`configs/suites/<name>.toml`"),
    ("table.md", SchemaName::Table, "Table", "`configs/tables/<name>.toml`"),
];

/// Stands below the title of every page.
const GENERATED: &str = "<!-- Written by `bench docs`; edit the program instead. -->";

pub(super) fn docs(registry: &Registry, program: Command, args: DocsArgs) -> CommandResult {
    let pages = pages(registry, program, &args.include.library()?)?;
    if args.check {
        let stale: Vec<String> = pages
            .iter()
            .map(|(name, text)| (args.out.join(name), text))
            .filter(|(path, text)| std::fs::read_to_string(path).ok().as_ref() != Some(text))
            .map(|(path, _)| path.display().to_string())
            .collect();
        if !stale.is_empty() {
            let out = args.out.display();
            return Err(anyhow::anyhow!(
                "out of date: {}; `bench docs --out {out}` writes the reference again",
                stale.join(", ")
            )
            .into());
        }
        return Ok(());
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{}`", args.out.display()))?;
    for (name, text) in &pages {
        let path = args.out.join(name);
        write_atomic(&path, text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    print(format_args!("{} pages in {}", pages.len(), args.out.display()))?;
    Ok(())
}

/// All pages, by file name.
fn pages(registry: &Registry, program: Command, library: &Library) -> Result<Vec<(&'static str, String)>> {
    let mut pages = vec![("commands.md", commands(program)), ("scores.md", scores(registry, library)?)];
    for (name, file, title, place) in FILES {
        let mut text = format!(
            "# {title}\n\n{GENERATED}\n\nKeys of {place}. A key whose default is – may be left \
             out.\n"
        );
        schema_page::append(&mut text, &serde_json::to_value(file_schema(registry, file))?);
        pages.push((name, text));
    }
    Ok(pages)
}

/// Every command with its arguments.
fn commands(mut program: Command) -> String {
    program.build();
    let mut text = format!(
        "# Commands\n\n{GENERATED}\n\nExit codes: 0 if the command succeeded, 1 if a run failed or was stopped or a \
         record does not hold, 2 if the request was wrong, 3 if records cannot be verified here.\n"
    );
    program.get_subcommands_mut().filter(|command| documented(command)).for_each(|c| section(&mut text, c));
    text
}

fn documented(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

fn section(text: &mut String, command: &mut Command) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let name = command.get_bin_name().unwrap_or(command.get_name());
    text.push_str(&format!("\n## `{name}`\n\n{}.\n", about.trim_end_matches('.')));
    if command.get_subcommands().any(documented) {
        command.get_subcommands_mut().filter(|c| documented(c)).for_each(|c| section(text, c));
        return;
    }
    text.push_str(&format!("\n```text\n{usage}\n```\n"));
    let shown = |argument: &&Arg| {
        !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str())
    };
    let rows: Vec<String> = command.get_arguments().filter(shown).map(argument).collect();
    if !rows.is_empty() {
        text.push_str("\n| argument | meaning |\n|---|---|\n");
        text.push_str(&rows.concat());
    }
}

/// A row of the table of arguments.
fn argument(argument: &Arg) -> String {
    let names: Vec<&str> =
        argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let value = if argument.get_action().takes_values() { names.join(" ") } else { String::new() };
    let value = if value.is_empty() { value } else { format!("<{value}>") };
    let shown = match argument.get_long() {
        Some(long) => format!("--{long} {value}"),
        None => value,
    };
    let mut meaning = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let possible: Vec<String> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if !possible.is_empty() && argument.get_action().takes_values() {
        meaning.push_str(&format!(" [one of {}]", possible.join(", ")));
    }
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if !defaults.is_empty() && argument.get_action().takes_values() {
        meaning.push_str(&format!(" [default: {}]", defaults.join(" ")));
    }
    format!("| `{}` | {} |\n", shown.trim(), meaning.trim().replace('|', "\\|"))
}

/// The scores of each kind of task, the tasks that report them, and the tasks that are ranked by them.
fn scores(registry: &Registry, library: &Library) -> Result<String> {
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    for name in library.list("tasks") {
        let manifest = manifest(library, registry.components(), &name)?;
        let kind = kinds.entry(manifest.kind.clone()).or_default();
        for spec in without_data(registry, library, &manifest)?.scores() {
            let score = kind.scores.entry(spec.name).or_insert((spec, vec![], vec![]));
            score.1.push(name.clone());
            if spec.name == manifest.primary {
                score.2.push(name.clone());
            }
        }
        kind.tasks += 1;
    }
    let mut text = format!(
        "# Scores\n\n{GENERATED}\n\nWhat the tasks of each kind report. A percentage runs from 0 to 100.\n"
    );
    for (name, kind) in kinds {
        text.push_str(&format!(
            "\n## `{name}`\n\n| score | unit | better | reported by | primary score of |\n|---|---|---|---|---|\n"
        ));
        for (score, (spec, reported, ranked)) in kind.scores {
            let unit = match spec.unit {
                Unit::Percent => "percent",
                Unit::Plain => "number",
            };
            let better = match spec.better {
                Better::Higher => "higher",
                Better::Lower => "lower",
            };
            let by = if reported.len() == kind.tasks { "all tasks".into() } else { reported.join(", ") };
            text.push_str(&format!("| `{score}` | {unit} | {better} | {by} | {} |\n", ranked.join(", ")));
        }
    }
    Ok(text)
}

/// The tasks of a kind in the library.
#[derive(Default)]
struct Kind {
    tasks: usize,
    /// By name: the specification, the tasks that report it, and the tasks whose primary score it is.
    scores: BTreeMap<&'static str, (ScoreSpec, Vec<String>, Vec<String>)>,
}
