//! `bench recipe list|show`.

use super::flags::Include;
use super::{CommandResult, print};
use crate::config::{Library, Stage};
use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub(super) struct RecipeArgs {
    #[command(subcommand)]
    command: RecipeCommand,
}

#[derive(Subcommand, Debug)]
enum RecipeCommand {
    /// List all recipes
    List(Include),
    /// Print the file of a recipe, with its parts for single models and tasks
    Show {
        /// Name (`bench recipe list`) or path of the recipe
        recipe: String,
        #[command(flatten)]
        include: Include,
    },
}

pub(super) fn recipe(args: RecipeArgs) -> CommandResult {
    match args.command {
        RecipeCommand::List(include) => {
            let library = include.library()?;
            for (stage, name) in recipes(&library) {
                let (text, _) = library.text(&path(stage, &name))?;
                print(format_args!("{name:<18} {:<8}  {}", stage.as_str(), about(&text)))?;
            }
        }
        RecipeCommand::Show { recipe, include } => {
            let library = include.library()?;
            if recipe.ends_with(".toml") {
                let folder = format!("configs/{}", Stage::Pretrain.as_str());
                return Ok(print(library.file("recipe", &recipe, &folder)?.text.trim_end())?);
            }
            let found: Vec<_> = recipes(&library).into_iter().filter(|(_, name)| *name == recipe).collect();
            if found.is_empty() {
                let known: Vec<String> = recipes(&library).into_iter().map(|(_, name)| name).collect();
                let message = crate::config::unknown(&recipe, &known);
                return Err(
                    anyhow::anyhow!("recipe `{recipe}`: {message}; a path to a file ends in .toml").into()
                );
            }
            for (stage, name) in found {
                print(library.text(&path(stage, &name))?.0.trim_end())?;
            }
        }
    }
    Ok(())
}

/// All recipes, pre-training recipes first.
fn recipes(library: &Library) -> Vec<(Stage, String)> {
    let of = |stage: Stage| {
        let names = library.list(&format!("configs/{}", stage.as_str()));
        names.into_iter().map(move |name| (stage, name))
    };
    [Stage::Pretrain, Stage::Transfer].into_iter().flat_map(of).collect()
}

fn path(stage: Stage, name: &str) -> String {
    format!("configs/{}/{name}.toml", stage.as_str())
}

/// The first line of a file's leading comment that is not a command.
fn about(text: &str) -> &str {
    let mut comments = text.lines().map_while(|line| line.strip_prefix("# "));
    comments.find(|line| !line.starts_with("bench ")).unwrap_or_default()
}
