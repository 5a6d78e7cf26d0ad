//! `bench pull`: downloads weights from the Hugging Face Hub into the cache that `--init hub:…` and Python's library read.

use super::hub::hub_settings;
use super::progress::Screen;
use super::{CommandResult, Failure, print};
use crate::engine::{Event, Observer};
use crate::weights::{Hub, HubFile};
use clap::Args;

#[derive(Args, Debug)]
pub(super) struct PullArgs {
    /// hub:owner/name[@revision][/file]; without a file, the repository's weights and their config.json
    reference: String,
    /// Do not contact the Hub; check the cached copy
    #[arg(long)]
    offline: bool,
}

/// Prints the path of the file to standard output, and everything else to standard error.
pub(super) fn pull(args: PullArgs) -> CommandResult {
    let file = HubFile::parse(&args.reference)?;
    let hub = Hub::new(hub_settings(args.offline))?;
    let screen = Screen::new();
    let fetch = || hub.fetch(&file, &|done, total| screen.event(&Event::Fetching { done, total }));
    let found = fetch();
    screen.clear();
    let found = found.map_err(|e| Failure::Run(e.into()))?;
    if let Some(reason) = &found.stale {
        eprintln!("the copy in the cache is used: {reason}");
    }
    if found.cached {
        hub.check(&found).map_err(|e| Failure::Run(e.into()))?;
    }
    let hash = match &found.sha256 {
        Some(hash) => format!("SHA-256 {hash} matches the Hub's"),
        None => "a small file without a SHA-256 on the Hub".into(),
    };
    let how = if found.cached { "in the cache" } else { "downloaded" };
    eprintln!("{}: {how}, {:.1} MB, {hash}", found.reference, found.bytes as f64 / 1e6);
    print(found.path.display())?;
    Ok(())
}
