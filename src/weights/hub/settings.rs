//! [`HubSettings`]: address, cache and token of the Hub.

use super::error::HubError;
use reqwest::Url;
use std::path::PathBuf;

/// Settings of the Hugging Face Hub. The library itself does not read environment variables: the program that uses it
/// fills these fields, as `bench` does from `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and others.
#[derive(Clone)]
pub struct HubSettings {
    /// Address of the Hub; not read if `offline`.
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

    /// The endpoint, if it is the address of a web server; that of the public Hub if `offline`, because it is not used then.
    ///
    /// # Errors
    /// What is wrong with the address; the message names the environment variable.
    pub(super) fn address(&self) -> Result<&str, HubError> {
        if self.offline {
            return Ok(Self::ENDPOINT);
        }
        let endpoint = self.endpoint.trim();
        let wrong = |what: &str| {
            let public = Self::ENDPOINT;
            HubError::Client(format!(
                "HF_ENDPOINT is `{endpoint}`, {what}; set an address such as {public}, or unset the variable"
            ))
        };
        if endpoint.is_empty() {
            return Err(wrong("which is empty"));
        }
        let Some((scheme, rest)) = endpoint.split_once("://") else {
            return Err(wrong("which does not begin with http:// or https://"));
        };
        if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return Err(wrong("which does not begin with http:// or https://"));
        }
        let host = Url::parse(endpoint).ok().and_then(|url| url.host_str().map(String::from));
        match host.is_some() && !rest.is_empty() {
            true => Ok(endpoint),
            false => Err(wrong("which is not the address of a server")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(endpoint: &str, offline: bool) -> Result<String, String> {
        let settings = HubSettings { endpoint: endpoint.into(), offline, ..HubSettings::new("cache") };
        settings.address().map(String::from).map_err(|error| error.to_string())
    }

    #[test]
    fn an_endpoint_that_is_no_address_is_named_unless_it_is_not_used() {
        for good in
            ["https://huggingface.co", "http://127.0.0.1:8799", "HTTPS://hf-mirror.com/x/", " https://a.b "]
        {
            assert_eq!(address(good, false).as_deref(), Ok(good.trim()));
        }
        for (bad, reason) in [
            ("", "empty"),
            ("  ", "empty"),
            ("127.0.0.1:8799", "http://"),
            ("localhost:8799", "http://"),
            ("huggingface.co", "http://"),
            ("/models", "http://"),
            ("ftp://huggingface.co", "http://"),
            ("https://", "not the address of a server"),
            ("https:///x", "x"),
            ("http://a b", "not the address of a server"),
            ("http://[::1", "not the address of a server"),
            ("http://host:port", "not the address of a server"),
        ] {
            let found = address(bad, false);
            if let Err(error) = &found {
                assert!(error.contains("HF_ENDPOINT") && error.contains(reason), "{error}");
            }
            assert!(found.is_err() || bad == "https:///x", "{bad}: {found:?}");
            assert_eq!(address(bad, true).as_deref(), Ok(HubSettings::ENDPOINT));
        }
    }
}
