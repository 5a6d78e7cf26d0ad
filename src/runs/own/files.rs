//! Writes manifests that were made, and never over one that a person has edited.

use crate::record::write_atomic;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Begins the last line of a file: the checksum of the lines before it tells whether somebody has edited them.
const SEAL: &str = "# An edited copy of this file is never overwritten; checksum of what the program wrote: ";
/// Digits of the checksum.
const DIGITS: usize = 16;

/// A manifest that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its path in the tree of the library: `tasks/flowers/task.toml`.
    pub path: String,
    /// Its text, with a last line by which an edited copy is recognised.
    pub text: String,
}

/// What became of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They were written.
    New,
    /// They were there already, as they would have been written.
    Unchanged,
    /// They were there, made of the same folder when it held other data, and were written anew.
    Renewed,
}

impl ManifestFile {
    pub(super) fn new(path: String, text: String) -> Self {
        let seal = format!("{SEAL}{}\n", digest(&text));
        Self { path, text: text + &seal }
    }
}

fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..DIGITS].to_string()
}

/// Whether the text is as the program has written it.
fn is_sealed(text: &str) -> bool {
    let Some((body, seal)) = text.rsplit_once(SEAL) else { return false };
    seal.trim() == digest(body)
}

/// The line that names the folder of the data.
fn origin(text: &str) -> Option<&str> {
    text.lines().find(|line| line.starts_with("get = "))
}

/// Writes `files` below `folder`. Nothing is written if one of them is there and may not be replaced.
///
/// # Errors
/// A file that somebody has edited, or that was made of another folder; one that cannot be written.
pub fn write_files(folder: &Path, files: &[ManifestFile]) -> Result<Written> {
    let mut state = Written::Unchanged;
    for ManifestFile { path, text } in files {
        let file = folder.join(path);
        let there = match std::fs::read_to_string(&file) {
            Ok(there) => there,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if state == Written::Unchanged {
                    state = Written::New;
                }
                continue;
            }
            Err(e) => bail!("`{}` cannot be read: {e}", file.display()),
        };
        if there == *text {
            continue;
        }
        ensure!(
            is_sealed(&there),
            "`{}` has been edited and is not overwritten; use it with --task and --include {}, or give another name \
             (--save-task NAME)",
            file.display(),
            folder.display()
        );
        if origin(&there).is_some_and(|there| origin(text) != Some(there)) {
            bail!(
                "`{}` was made of another folder ({}); give this one a name of its own: --save-task NAME",
                file.display(),
                origin(&there).unwrap_or_default()
            );
        }
        state = Written::Renewed;
    }
    if state == Written::Unchanged {
        return Ok(state);
    }
    for ManifestFile { path, text } in files {
        let file = folder.join(path);
        let home = file.parent().unwrap_or(folder);
        std::fs::create_dir_all(home).with_context(|| format!("cannot make `{}`", home.display()))?;
        write_atomic(&file, text.as_bytes()).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    Ok(state)
}

/// The name of a task that is made of the folder `root`: that of the folder, in letters, digits and `_`.
pub fn name_of(root: &Path) -> String {
    // `.` and `..` have a name only when they are resolved.
    let resolved = if root.file_name().is_none() { root.canonicalize().ok() } else { None };
    let name =
        resolved.as_deref().unwrap_or(root).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name = name.chars().map(plain).collect::<String>();
    match name.trim_matches('_') {
        "" => "data".into(),
        name => name.into(),
    }
}

/// `name` as that of a task in the folder `home`.
///
/// # Errors
/// A name that cannot be that of a folder, or that a task or data set elsewhere has: `known` are those of the program, and
/// `includes` the folders that are searched.
pub fn checked_name(name: &str, home: &Path, known: &[String], includes: &[PathBuf]) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    ensure!(
        !name.is_empty() && name.chars().all(plain),
        "`{name}` cannot be the name of a task; use letters, digits, `_` and `-`"
    );
    ensure!(!known.iter().any(|known| known == name), "a task or data set of the program is called `{name}`");
    let real = |folder: &Path| folder.canonicalize().unwrap_or(folder.into());
    for folder in includes.iter().filter(|folder| real(folder) != real(home)) {
        let there = ["tasks", "datasets"]
            .map(|kind| folder.join(kind).join(name))
            .into_iter()
            .find(|path| path.exists());
        if let Some(path) = there {
            bail!("`{}` has that name; --task {name} uses it", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(body: &str) -> [ManifestFile; 2] {
        [
            ManifestFile::new("datasets/a/dataset.toml".into(), format!("get = \"here\"\n{body}\n")),
            ManifestFile::new("tasks/a/task.toml".into(), format!("{body}\n")),
        ]
    }

    #[test]
    fn what_somebody_has_edited_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let task = folder.path().join("tasks/a/task.toml");
        assert_eq!(write_files(folder.path(), &files("x = 1")).unwrap(), Written::New);
        assert_eq!(write_files(folder.path(), &files("x = 1")).unwrap(), Written::Unchanged);
        assert_eq!(write_files(folder.path(), &files("x = 2")).unwrap(), Written::Renewed);
        assert!(std::fs::read_to_string(&task).unwrap().starts_with("x = 2\n# An edited"));
        let edited = std::fs::read_to_string(&task).unwrap().replace("x = 2", "x = 3");
        std::fs::write(&task, &edited).unwrap();
        let error = write_files(folder.path(), &files("x = 4")).unwrap_err().to_string();
        assert!(
            error.contains("tasks/a/task.toml` has been edited") && error.contains("--include"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(&task).unwrap(), edited);
        let dataset = std::fs::read_to_string(folder.path().join("datasets/a/dataset.toml")).unwrap();
        assert!(dataset.contains("x = 2"), "nothing is written if one file may not be");
        std::fs::remove_file(&task).unwrap();
        assert_eq!(write_files(folder.path(), &files("x = 2")).unwrap(), Written::New);
    }

    #[test]
    fn files_of_another_folder_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), &files("x = 1")).unwrap();
        let mut others = files("x = 1");
        others[0] = ManifestFile::new(others[0].path.clone(), "get = \"there\"\nx = 1\n".into());
        let error = write_files(folder.path(), &others).unwrap_err().to_string();
        assert!(error.contains("made of another folder") && error.contains("--save-task"), "{error}");
    }

    #[test]
    fn names_of_tasks() {
        assert_eq!(name_of(Path::new("/data/My flowers (2)")), "My_flowers__2");
        assert_eq!(name_of(Path::new("/")), "data");
        let here = std::env::current_dir().unwrap();
        assert_eq!(name_of(Path::new(".")), name_of(&here));
        let home = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("tasks/mine")).unwrap();
        std::fs::create_dir_all(other.path().join("datasets/theirs")).unwrap();
        let includes = [home.path().to_path_buf(), other.path().to_path_buf()];
        let check = |name: &str| checked_name(name, home.path(), &["coco".into()], &includes);
        assert!(check("mine").is_ok() && check("new").is_ok());
        assert!(check("coco").unwrap_err().to_string().contains("of the program is called `coco`"));
        assert!(check("theirs").unwrap_err().to_string().contains("--task theirs"));
        assert!(check("../a").unwrap_err().to_string().contains("letters, digits"));
    }
}
