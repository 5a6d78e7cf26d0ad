//! [`HubSettings`]: address, cache and token of the Hub.

use std::path::PathBuf;

/// Settings of the Hugging Face Hub. The library itself does not read environment variables: the program that uses it
/// fills these fields, as `bench` does from `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and others.
#[derive(Clone)]
pub struct HubSettings {
    /// Address of the Hub.
    pub endpoint: String,
    /// Folder of the cache, in the layout of Python's `huggingface_hub`.
    pub cache: PathBuf,
    /// Access token; `None` for anonymous downloads. Without a token, [`Hub::push`](super::Hub::push) uses the one that
    /// the `hf-hub` crate finds.
    pub token: Option<String>,
    /// Whether only the cache is used, and the Hub is never contacted.
    pub offline: bool,
}

impl HubSettings {
    /// Address of the public Hub.
    pub const ENDPOINT: &str = "https://huggingface.co";

    /// The public Hub with the cache in `cache`, without a token.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self { endpoint: Self::ENDPOINT.into(), cache: cache.into(), token: None, offline: false }
    }
}
