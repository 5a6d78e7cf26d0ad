//! Unreadable images: how many a run may leave out, and what to do about them.

use super::super::checkpoint::Progress;
use super::super::log::RunLog;
use super::super::observer::{Control, Event};
use crate::data::SampleId;
use crate::data::loader::LoaderError;
use anyhow::{Error, Result, anyhow, bail};
use serde_json::json;

/// The remedy for unreadable images.
const SKIPPING: &str = "Repair or remove it, or continue the run with --resume --set allowed_skips=N, which skips up to N images and \
                        counts them in the record";

/// The error of a loader in training, with the remedy if an image is to blame.
pub(super) fn unreadable(error: LoaderError) -> Error {
    match error {
        LoaderError::Sample { .. } | LoaderError::TooMany { .. } => anyhow!("{error}. {SKIPPING}"),
        error => error.into(),
    }
}

/// Logs the unreadable images of a micro-batch, each once.
///
/// # Errors
/// More than `allowed` since the start of the run.
pub(super) fn count_skips(
    skipped: &[SampleId],
    allowed: usize,
    progress: &mut Progress,
    log: &mut RunLog,
    control: &Control,
) -> Result<()> {
    for id in skipped {
        if !progress.skipped_images.insert(id.as_str().into()) {
            continue; // read again in a later epoch
        }
        control.tell(Event::Skipped { id: id.as_str() });
        log.line(&json!({ "step": progress.steps, "skipped": id.as_str() }))?;
        progress.skipped += 1;
        let count = progress.skipped;
        if count > allowed as u64 {
            bail!(
                "{count} unreadable images so far, and {allowed} are allowed; the last is `{id}`. {SKIPPING}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Silent;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn an_image_counts_once_however_often_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = RunLog::open(&folder.path().join("log.jsonl"), 0).unwrap();
        let (mut progress, stop) = (Progress::default(), AtomicBool::new(false));
        let control = Control { stop: &stop, observer: &Silent };
        let ids = |names: &[&str]| names.iter().map(|name| SampleId::new(*name)).collect::<Vec<_>>();
        let mut count = |names: &[&str]| count_skips(&ids(names), 2, &mut progress, &mut log, &control);
        count(&["a.png", "b.png"]).unwrap();
        count(&["b.png", "a.png"]).unwrap();
        let error = count(&["a.png", "c.png"]).unwrap_err().to_string();
        assert!(
            error.starts_with("3 unreadable images so far, and 2 are allowed; the last is `c.png`"),
            "{error}"
        );
        assert!(error.contains("--resume --set allowed_skips=N"), "{error}");
        let text = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
        assert_eq!((progress.skipped, text.lines().count()), (3, 3));
    }
}
