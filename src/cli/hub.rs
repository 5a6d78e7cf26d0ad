//! Settings of the Hugging Face Hub, from the environment variables that Python's `huggingface_hub` reads.

use crate::weights::HubSettings;
use std::path::PathBuf;

/// Reads `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN` and
/// `HF_HUB_OFFLINE`, which mean what they mean in Python. With `offline`, the Hub is not contacted in any case.
pub fn hub_settings(offline: bool) -> HubSettings {
    let variable = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    HubSettings {
        endpoint: std::env::var("HF_ENDPOINT").unwrap_or_else(|_| HubSettings::ENDPOINT.into()),
        cache: hf_hub::resolve_cache_dir(),
        token: token(),
        offline: offline || ["1", "true", "yes", "on"].contains(&variable.as_str()),
    }
}

/// The token in the environment, or the one that `hf auth login` has stored.
fn token() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return None;
    }
    let file = || {
        let path = variable("HF_TOKEN_PATH").map_or_else(|| hf_hub::hf_home().join("token"), PathBuf::from);
        std::fs::read_to_string(path).ok()
    };
    let token = variable("HF_TOKEN").or_else(file)?;
    Some(token.trim().to_string()).filter(|token| !token.is_empty())
}
