//! What the Hub says of a file, and its bytes from any place on: the part of its protocol that `hf-hub` does not offer.

use super::{HubError, HubFile, is_commit, is_hex};
use hf_hub::HFError;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Tries of a request that fails for reasons that may pass.
pub(super) const TRIES: usize = 5;
/// Before the second try; doubled before each further one, unless the Hub says how long.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause that the Hub may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Without a byte.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Redirects within the Hub, as of a repository that was renamed.
const REDIRECTS: usize = 5;

/// A file of a repository, as the Hub names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// SHA-256 of the content of a large file; of a small one, its hash in git.
    pub etag: String,
    pub size: u64,
}

impl Entry {
    pub fn sha256(&self) -> Option<String> {
        is_hex(&self.etag, 64).then(|| self.etag.clone())
    }
}

pub(super) struct Remote {
    endpoint: Url,
    token: Option<String>,
    /// Stays where it is asked to go: headers of the Hub's own answer count, not those of its storage.
    ask: Client,
    read: Client,
    runtime: Runtime,
}

impl Remote {
    pub fn new(endpoint: &str) -> Result<Self, HubError> {
        let fail = |e: &dyn std::fmt::Display| HubError::Client(e.to_string());
        let agent = concat!("bench/", env!("CARGO_PKG_VERSION"));
        let builder = || {
            Client::builder().user_agent(agent).connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT)
        };
        Ok(Self {
            endpoint: endpoint
                .parse()
                .map_err(|e| HubError::Client(format!("HF_ENDPOINT `{endpoint}`: {e}")))?,
            token: token(),
            ask: builder().redirect(redirect::Policy::none()).build().map_err(|e| fail(&e))?,
            read: builder().build().map_err(|e| fail(&e))?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| fail(&e))?,
        })
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What the Hub says of `name` in the repository of `file`.
    pub fn entry(&self, file: &HubFile, name: &str) -> Result<Entry, HubError> {
        let mut url = self.url(file, name);
        let wrong = |what: &str| HubError::Refused {
            reference: file.to_string(),
            reason: format!("`{}` does not answer as the Hub does: {what}", self.endpoint),
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
            // Both become parts of paths.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if !is_commit(commit) || etag.is_empty() || !etag.chars().all(plain) {
                return Err(wrong("its names of commit or content are not hashes"));
            }
            return Ok(Entry { etag, size: size.ok_or_else(|| wrong("no length"))? });
        }
        Err(wrong("redirected in circles"))
    }

    /// An answer with the content of `name` from byte `from` on, and the byte at which it does start.
    pub async fn content(&self, file: &HubFile, name: &str, from: u64) -> Result<(Response, u64), HubError> {
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

    /// Sends a request until it succeeds, is refused, or has been tried often enough.
    async fn send(&self, file: &HubFile, request: impl Fn() -> RequestBuilder) -> Result<Response, HubError> {
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            let request = request().header(ACCEPT_ENCODING, "identity"); // lengths are those of the file
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
                    (format!("the Hub answers {status}"), asked.ok())
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

    /// What an answer means to a user. `code` and `message` are the Hub's; both may be empty.
    fn refusal(&self, file: &HubFile, status: StatusCode, code: &str, message: &str) -> HubError {
        let reference = file.to_string();
        let page = format!("{}/{}", self.endpoint.as_str().trim_end_matches('/'), file.repository());
        let token = match self.token {
            Some(_) => "the token in use (HF_TOKEN, or that of `hf auth login`)",
            None => "no token is given (HF_TOKEN, or `hf auth login`), which",
        };
        let reason = match (code, status) {
            ("GatedRepo", _) => {
                let token = if self.token.is_some() {
                    "use a token of that account"
                } else {
                    "give a token (HF_TOKEN)"
                };
                format!("gated: accept its conditions at {page}, and {token}")
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
                format!("no such repository, or a private one: {token} does not open it")
            }
            (_, StatusCode::FORBIDDEN) => format!("not allowed: {token} does not suffice"),
            (_, StatusCode::NOT_FOUND) => return HubError::Missing { reference, reason: "not found".into() },
            _ => format!("the Hub answers {status}"),
        };
        let reason = if message.is_empty() { reason } else { format!("{reason} (the Hub: {message})") };
        HubError::Refused { reference, reason }
    }

    /// An error of `hf-hub` in the words of this module.
    pub fn explain(&self, file: &HubFile, error: HFError) -> HubError {
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
                let reason = format!("the Hub answers {status} ({})", self.endpoint);
                HubError::Unreachable { reference: file.to_string(), reason }
            }
            Ok(status) => self.refusal(file, status, &code, &message),
            Err(_) => HubError::Refused { reference: file.to_string(), reason: message },
        }
    }
}

/// Whether a later try may succeed.
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

/// The token of the environment, or the one that `hf auth login` has left.
fn token() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return None;
    }
    let file = || {
        let path = variable("HF_TOKEN_PATH").map_or_else(|| hf_hub::hf_home().join("token"), Into::into);
        std::fs::read_to_string(path).ok()
    };
    let token = variable("HF_TOKEN").or_else(file)?;
    Some(token.trim().to_string()).filter(|token| !token.is_empty())
}
