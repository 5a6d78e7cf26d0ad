//! Version, commit and sources of this program, which `build.rs` of the package finds.

use crate::record::Build;
use std::collections::BTreeMap;

/// Version and commit, as `bench --version` prints them: `0.1.0 (6c6692f1a2b3)`.
pub(super) const VERSION: &str = env!("BENCH_VERSION");

/// The sources of this program, for the records of its runs. A program with parts of its own in other crates has the same, although it
/// does not consist of these sources alone.
pub fn build() -> Build {
    let commit = env!("BENCH_COMMIT");
    let versions = [("rustc", env!("BENCH_RUSTC")), ("candle", env!("BENCH_CANDLE"))];
    Build {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: (!commit.is_empty()).then(|| commit.into()),
        dirty: env!("BENCH_DIRTY") != "false",
        sources: Some(env!("BENCH_SOURCES").into()),
        versions: BTreeMap::from(versions.map(|(name, version)| (name.into(), version.into()))),
    }
}
