//! Tasks made of a folder of labelled images: `bench transfer --data DIR`, `bench task new`.

use super::flags::{Include, PlaceFlags};
use crate::config::{Choice, Library};
use crate::data::recognise::Labelling;
use crate::registry::Registry;
use crate::runs::Request;
use crate::runs::own::{OwnData, Written, checked_name, name_of, write_files};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// Ends the name of a task whose folder has the name of another task.
const OWN: &str = "own";

/// Flags for data without a task.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct OwnFlags {
    /// How the images of --data are labelled, where that can be understood in several ways and no --task is given
    #[arg(long, value_name = "KIND", requires = "data", conflicts_with_all = ["task", "config"])]
    kind: Option<KindName>,
    /// Without --task: write the task that is made of --data to `tasks/NAME` and `datasets/NAME` in the first --include, or here [default: in the folder of runs]
    #[arg(long, value_name = "NAME", requires = "data", conflicts_with_all = ["task", "config"])]
    save_task: Option<String>,
}

/// The built-in kinds of task.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KindName {
    Classification,
    Detection,
    Segmentation,
}

impl KindName {
    fn labelling(self) -> Labelling {
        match self {
            Self::Classification => Labelling::Classes,
            Self::Detection => Labelling::Objects,
            Self::Segmentation => Labelling::Pixels,
        }
    }
}

/// `request` as it is if it names a task or a configuration. Otherwise the task is made of the folder `--data`, and the request
/// names it, with values of the recipe that fit the data.
///
/// # Errors
/// A folder whose layout is unknown; files that are not overwritten.
pub(super) fn with_own_task(
    registry: &Registry,
    flags: &OwnFlags,
    request: Request,
    place: &mut PlaceFlags,
) -> Result<Request> {
    let Some(root) = request.data.clone().filter(|_| request.task.is_none() && request.config.is_none())
    else {
        return Ok(request);
    };
    let library = library(&place.include, flags.save_task.is_some())?;
    let data = OwnData::read(registry, &root, flags.kind.map(KindName::labelling))?;
    data.summary().iter().for_each(|line| eprintln!("{line}"));
    let include = &place.include.include;
    let (name, home) = match &flags.save_task {
        Some(name) => {
            let home = home(&place.include);
            checked_name(name, &home, &built_in(), include).context("--save-task: give another name")?;
            (name.clone(), home)
        }
        None => {
            let name = name_of(&root);
            let home = |name: &str| place.runs.join(OWN).join(name);
            match checked_name(&name, &home(&name), &built_in(), include) {
                Ok(()) => (name.clone(), home(&name)),
                Err(taken) => {
                    let other = format!("{name}_{OWN}");
                    eprintln!("note: {taken:#}; the one of this folder is called `{other}`");
                    checked_name(&other, &home(&other), &built_in(), include)?;
                    (other.clone(), home(&other))
                }
            }
        }
    };
    let choice = Choice { library: &library, owners: registry.components(), overrides: &request.set };
    let defaults = data.defaults(registry, &choice, &name, request.recipe.as_deref())?;
    write(registry, &data, &choice, &name, &home)?;
    if flags.save_task.is_none() {
        eprintln!("to keep and edit the task, write it to a folder of yours: --save-task NAME");
    }
    eprintln!("{}", defaults.said);
    if !place.include.include.contains(&home) {
        place.include.include.push(home);
    }
    let set = defaults.sets.into_iter().chain(request.set).collect();
    Ok(Request { task: Some(name), set, ..request })
}

/// Writes both manifests of the task `name` made of the folder `root`, and says what they hold.
///
/// # Errors
/// Those of [`with_own_task`].
pub(super) fn new_task(
    registry: &Registry,
    name: &str,
    root: &Path,
    kind: Option<KindName>,
    include: &Include,
) -> Result<()> {
    let (library, home) = (library(include, true)?, home(include));
    checked_name(name, &home, &built_in(), &include.include).context("give another name")?;
    let data = OwnData::read(registry, root, kind.map(KindName::labelling))?;
    data.summary().iter().for_each(|line| eprintln!("{line}"));
    let choice = Choice { library: &library, owners: registry.components(), overrides: &[] };
    write(registry, &data, &choice, name, &home)?;
    let defaults = data.defaults(registry, &choice, name, None)?;
    eprintln!("{}", defaults.said);
    Ok(())
}

/// The folder for tasks that a user keeps.
fn home(include: &Include) -> PathBuf {
    include.include.first().cloned().unwrap_or_else(|| ".".into())
}

/// The library of `include`. If files are to be saved, the folder for them need not exist yet.
fn library(include: &Include, saves: bool) -> Result<Library> {
    let home = home(include);
    let there = |folder: &&PathBuf| !saves || folder.is_dir() || **folder != home;
    Ok(Library::new(&include.include.iter().filter(there).cloned().collect::<Vec<_>>())?)
}

/// Names of all tasks and data sets of the program.
fn built_in() -> Vec<String> {
    let library = Library::default();
    ["tasks", "datasets"].iter().flat_map(|folder| library.list(folder)).collect()
}

fn write(registry: &Registry, data: &OwnData, choice: &Choice, name: &str, home: &Path) -> Result<()> {
    let files = data.files(registry, choice, name)?;
    let written = write_files(home, &files)?;
    let state = match written {
        Written::New => "written",
        Written::Unchanged => "unchanged",
        Written::Renewed => "written anew, because the data have changed",
    };
    let paths: Vec<String> =
        files.iter().map(|file| format!("`{}`", home.join(&file.path).display())).collect();
    eprintln!("task `{name}` {state}: {}", paths.join(" and "));
    Ok(())
}
