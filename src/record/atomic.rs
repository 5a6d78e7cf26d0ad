//! [`write_atomic`]: writes files that are never left incomplete, even after a crash.

use std::fs::File;
use std::io::{Result, Write as _};
use std::path::Path;

/// Writes `bytes` to a temporary file beside `path`, syncs it, renames it to `path` and syncs the folder.
///
/// # Errors
/// A file that cannot be written; `path` is unchanged then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = folder.join(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, path)) {
        let _ = std::fs::remove_file(&temporary); // the first error is the one to report
        return Err(error);
    }
    File::open(folder)?.sync_all()
}
