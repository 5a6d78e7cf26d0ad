//! Hash, size and content (from any offset) of a file on the Hub: the part of its protocol that `hf-hub` does not offer.

use super::error::HubError;
use super::reference::{HubFile, is_commit, is_hex};
use hf_hub::HFError;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use std::time::Duration;
use tokio::runtime::Runtime;

/// How often a request is tried if it fails for a temporary reason.
pub(super) const TRIES: usize = 5;
/// Pause before the second try; doubled before each further one, unless the Hub states a duration.
const PAUSE: Duration = Duration::from_millis(200);
/// Upper limit of the pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum time without receiving a byte.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of redirects within the Hub, which occur for renamed repositories.
const REDIRECTS: usize = 5;

/// Hash and size of a file, as the Hub states them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// SHA-256 of the content of a large file; the git hash of a small one.
    pub etag: String,
    pub size: u64,
}

impl Entry {
    pub(crate) fn sha256(&self) -> Option<String> {
        is_hex(&self.etag, 64).then(|| self.etag.clone())
    }
}

pub(super) struct Remote {
    endpoint: Url,
    token: Option<String>,
    /// Does not follow redirects: the headers of the Hub matter, not those of its storage.
    ask: Client,
    read: Client,
    runtime: Runtime,
}

impl Remote {
    pub(crate) fn new(endpoint: &str, token: Option<String>) -> Result<Self, HubError> {
        let fail = |e: &dyn std::fmt::Display| HubError::Client(e.to_string());
        let agent = concat!("bench/", env!("CARGO_PKG_VERSION"));
        let builder = || {
            Client::builder().user_agent(agent).connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT)
        };
        Ok(Self {
            endpoint: endpoint
                .parse()
                .map_err(|e| HubError::Client(format!("HF_ENDPOINT `{endpoint}`: {e}")))?,
            token,
            ask: builder().redirect(redirect::Policy::none()).build().map_err(|e| fail(&e))?,
            read: builder().build().map_err(|e| fail(&e))?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| fail(&e))?,
        })
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Hash and size of the file `name` in the repository of `file`.
    pub(crate) fn entry(&self, file: &HubFile, name: &str) -> Result<Entry, HubError> {
        let mut url = self.url(file, name);
        let wrong = |what: &str| HubError::Refused {
            reference: file.to_string(),
            reason: format!("unexpected response from `{}`: {what}", self.endpoint),
        };
        for _ in 0..=REDIRECTS {
            let response =
                self.runtime.block_on(self.send(file, || self.ask.request(Method::HEAD, url.clone())))?;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let linked = header("x-linked-etag");
            if linked.is_none()
                && response.status().is_redirection()
                && let Some(place) = header(LOCATION.as_str())
                    .filter(|place| place.starts_with('/') && !place.starts_with("//"))
            {
                url = url.join(place).map_err(|e| wrong(&e.to_string()))?;
                continue;
            }
            let etag = linked.or_else(|| header(ETAG.as_str())).ok_or_else(|| wrong("no ETag"))?;
            let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
            let commit = header("x-repo-commit").ok_or_else(|| wrong("no X-Repo-Commit"))?;
            let size =
                header("x-linked-size").or_else(|| header("content-length")).and_then(|n| n.parse().ok());
            // Both are used in paths.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if !is_commit(commit) || etag.is_empty() || !etag.chars().all(plain) {
                return Err(wrong("commit or ETag is not a hash"));
            }
            return Ok(Entry { etag, size: size.ok_or_else(|| wrong("no length"))? });
        }
        Err(wrong("too many redirects"))
    }

    /// Requests the content of `name` from byte `from` on; returns the response and the byte at which it starts.
    pub(crate) async fn content(
        &self,
        file: &HubFile,
        name: &str,
        from: u64,
    ) -> Result<(Response, u64), HubError> {
        let url = self.url(file, name);
        let request = || {
            let request = self.read.get(url.clone());
            if from > 0 { request.header(RANGE, format!("bytes={from}-")) } else { request }
        };
        let response = self.send(file, request).await?;
        let start = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok()?.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        Ok((response, if partial { start.unwrap_or(0) } else { 0 }))
    }

    fn url(&self, file: &HubFile, name: &str) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend([&file.owner, &file.name, "resolve"]);
            path.push(file.revision.as_deref().unwrap_or("main")).extend(name.split('/'));
        }
        url
    }

    /// Sends a request until it succeeds, is refused, or has been tried [`TRIES`] times.
    async fn send(&self, file: &HubFile, request: impl Fn() -> RequestBuilder) -> Result<Response, HubError> {
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            let request = request().header(ACCEPT_ENCODING, "identity"); // so that lengths are those of the file
            let request = match &self.token {
                Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
                None => request,
            };
            let (reason, wait) = match request.send().await {
                Ok(response) => {
                    let status = response.status();
                    if status.is_success() || status.is_redirection() {
                        return Ok(response);
                    }
                    if !passes(status) {
                        let text = |name| header_text(response.headers(), name);
                        return Err(self.refusal(
                            file,
                            status,
                            &text("x-error-code"),
                            &text("x-error-message"),
                        ));
                    }
                    let asked = header_text(response.headers(), RETRY_AFTER.as_str())
                        .parse()
                        .map(Duration::from_secs);
                    (format!("the Hub responds with {status}"), asked.ok())
                }
                Err(error) => (chain(&error.without_url()), None),
            };
            if tries == TRIES {
                let reason = format!("{reason} ({}; tried {TRIES} times)", self.endpoint);
                return Err(HubError::Unreachable { reference: file.to_string(), reason });
            }
            tokio::time::sleep(wait.unwrap_or(pause).min(LONGEST_PAUSE)).await;
            pause *= 2;
            tries += 1;
        }
    }

    /// The error for a response. `code` and `message` are those of the Hub; both may be empty.
    fn refusal(&self, file: &HubFile, status: StatusCode, code: &str, message: &str) -> HubError {
        let reference = file.to_string();
        let page = format!("{}/{}", self.endpoint.as_str().trim_end_matches('/'), file.repository());
        let token = match self.token {
            Some(_) => "the current token (HF_TOKEN, or that of `hf auth login`)",
            None => "anonymous access (set HF_TOKEN, or run `hf auth login`)",
        };
        let reason = match (code, status) {
            ("GatedRepo", _) => {
                let token = if self.token.is_some() { "use a token of that account" } else { "set HF_TOKEN" };
                format!("gated repository: accept its conditions at {page}, and {token}")
            }
            ("EntryNotFound", _) => {
                let file = file.file.as_deref().unwrap_or_default();
                return HubError::Missing {
                    reference,
                    reason: format!("the repository has no file `{file}`"),
                };
            }
            ("RevisionNotFound", _) => {
                format!("the repository has no revision `{}`", file.revision.as_deref().unwrap_or("main"))
            }
            ("RepoNotFound", _) | (_, StatusCode::UNAUTHORIZED) => {
                format!("no such repository, or a private one: {token} does not give access")
            }
            (_, StatusCode::FORBIDDEN) => format!("access denied: {token} is not sufficient"),
            (_, StatusCode::NOT_FOUND) => return HubError::Missing { reference, reason: "not found".into() },
            _ => format!("the Hub responds with {status}"),
        };
        let reason = if message.is_empty() { reason } else { format!("{reason} (the Hub: {message})") };
        HubError::Refused { reference, reason }
    }

    /// Converts an error of `hf-hub`.
    pub(crate) fn explain(&self, file: &HubFile, error: HFError) -> HubError {
        let context = match error {
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RateLimited { context, .. }
            | HFError::RepoNotFound { context: Some(context), .. } => context,
            other => return HubError::Refused { reference: file.to_string(), reason: chain(&other) },
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (code, message) = (text(&context.error_code), text(&context.server_message));
        match StatusCode::from_u16(context.status.as_u16()) {
            Ok(status) if passes(status) => {
                let reason = format!("the Hub responds with {status} ({})", self.endpoint);
                HubError::Unreachable { reference: file.to_string(), reason }
            }
            Ok(status) => self.refusal(file, status, &code, &message),
            Err(_) => HubError::Refused { reference: file.to_string(), reason: message },
        }
    }
}

/// Whether another try may succeed.
fn passes(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || status.is_server_error()
}

fn header_text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().into()
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    let mut texts: Vec<String> = causes.collect();
    texts.dedup();
    texts.join(": ")
}
