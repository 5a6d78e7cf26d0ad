//! A server on this machine that speaks the routes of the Hub, and fails as it is told.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Of the main branch, until somebody commits.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Of the branch `old`.
pub const OLD: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// What goes wrong with the next request that asks for it.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An answer with this status and these headers.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// The connection closes after so many bytes of content.
    Cut(usize),
    /// The whole file, whatever range is asked for.
    Whole,
    /// Content with one wrong byte.
    Flip,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// Content by `owner/name@commit/file`.
    files: BTreeMap<String, Vec<u8>>,
    repositories: Vec<String>,
    /// By method.
    faults: Vec<(&'static str, Fault)>,
    log: Vec<Request>,
}

#[derive(Clone)]
pub struct Server {
    pub address: String,
    state: Arc<Mutex<State>>,
}

type Answer = (u16, Vec<(String, String)>, Vec<u8>);

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { address, state: Arc::default() };
        let answering = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = answering.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    /// Puts a file into a repository: `me/vit@<commit>/model.safetensors`.
    pub fn put(&self, path: &str, content: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let repository = path.split('@').next().unwrap().to_string();
        state.repositories.push(repository);
        state.files.insert(path.into(), content.into());
    }

    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().files.get(path).cloned()
    }

    pub fn repositories(&self) -> Vec<String> {
        self.state.lock().unwrap().repositories.clone()
    }

    pub fn fail(&self, method: &'static str, times: usize, fault: Fault) {
        self.state.lock().unwrap().faults.extend(std::iter::repeat_n((method, fault), times));
    }

    /// The requests since the last call, as `GET /path`.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some(request) = read(&stream) else { return };
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.log.push(request.clone());
            // Redirects lead to the content: faults wait for it.
            let content = request.path.starts_with("/storage/") || request.method != "GET";
            let found = state.faults.iter().position(|(method, _)| content && *method == request.method);
            found.map(|i| state.faults.remove(i).1)
        };
        let (status, headers, mut body) = match &fault {
            Some(Fault::Status(status, headers)) => {
                let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
                (*status, headers.collect(), b"{}".to_vec())
            }
            Some(Fault::Whole) => {
                let mut whole = request.clone();
                whole.headers.remove("range");
                self.answer(&whole)
            }
            _ => self.answer(&request),
        };
        let length =
            headers.iter().find(|(name, _)| name == "Content-Length").map(|(_, length)| length.clone());
        let length = length.unwrap_or_else(|| body.len().to_string());
        match fault {
            Some(Fault::Cut(bytes)) => body.truncate(bytes),
            Some(Fault::Flip) => body[0] ^= 1,
            _ => {}
        }
        let mut head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n");
        for (name, value) in headers.iter().filter(|(name, _)| name != "Content-Length") {
            head += &format!("{name}: {value}\r\n");
        }
        let _ = stream.write_all(format!("{head}\r\n").as_bytes());
        if request.method != "HEAD" {
            let _ = stream.write_all(&body); // a client may have gone
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut state = self.state.lock().unwrap();
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        let json = |value: serde_json::Value| (200, vec![], value.to_string().into_bytes());
        match (request.method.as_str(), parts.as_slice()) {
            ("HEAD" | "GET", [owner, name, "resolve", revision, file @ ..]) => {
                let commit = match *revision {
                    "main" => COMMIT,
                    "old" => OLD,
                    other => other,
                };
                let path = format!("{owner}/{name}@{commit}/{}", file.join("/"));
                let repository = format!("{owner}/{name}");
                let known = |prefix: &str| state.files.keys().any(|key| key.starts_with(prefix));
                match state.files.get(&path) {
                    Some(content) => self.resolve(&path, content, commit),
                    None if !state.repositories.contains(&repository) => missing(401, "RepoNotFound", ""),
                    None if !known(&format!("{repository}@{commit}/")) => {
                        missing(404, "RevisionNotFound", "")
                    }
                    None => missing(404, "EntryNotFound", commit),
                }
            }
            ("HEAD" | "GET", ["storage", ..]) => {
                let content = &state.files[request.path.trim_start_matches("/storage/")];
                let range = request.headers.get("range").and_then(|range| {
                    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
                    Some((from.parse::<usize>().ok()?, to.parse().map_or(content.len(), |to: usize| to + 1)))
                });
                match range {
                    Some((from, to)) => {
                        let span = format!("bytes {from}-{}/{}", to - 1, content.len());
                        (206, vec![("Content-Range".into(), span)], content[from..to].to_vec())
                    }
                    None => (200, vec![], content.clone()),
                }
            }
            ("POST", ["api", "repos", "create"]) => {
                let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
                let name = format!("{}/{}", text(&body["organization"]), text(&body["name"]));
                if state.repositories.contains(&name) {
                    return (409, vec![], b"{\"error\": \"it exists\"}".to_vec());
                }
                state.repositories.push(name.clone());
                json(serde_json::json!({ "url": format!("{}/{name}", self.address) }))
            }
            ("POST", ["api", "models", _, _, "preupload", _]) => {
                let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
                let files = body["files"].as_array().unwrap().iter();
                let mode = |file: &serde_json::Value| match text(&file["path"]).ends_with(".safetensors") {
                    true => "lfs",
                    false => "regular",
                };
                let files =
                    files.map(|file| serde_json::json!({ "path": file["path"], "uploadMode": mode(file) }));
                json(serde_json::json!({ "files": files.collect::<Vec<_>>() }))
            }
            ("POST", [_, _, "info", "lfs", "objects", "batch"]) => {
                json(serde_json::json!({ "transfer": "basic", "objects": [] }))
            }
            ("POST", ["api", "models", owner, name, "commit", "main"]) => {
                for line in request.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let line: serde_json::Value = serde_json::from_slice(line).unwrap();
                    if line["key"] == "file" {
                        let path = format!("{owner}/{name}@{COMMIT}/{}", text(&line["value"]["path"]));
                        state.files.insert(path, decode(&text(&line["value"]["content"])));
                    }
                }
                json(serde_json::json!({ "success": true, "commitOid": COMMIT }))
            }
            _ => (404, vec![], b"{}".to_vec()),
        }
    }

    /// Large files are kept elsewhere, as the Hub does: the answer names the content and says where it lies.
    fn resolve(&self, path: &str, content: &[u8], commit: &str) -> Answer {
        let hash: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut headers = vec![("X-Repo-Commit".to_string(), commit.to_string())];
        if path.ends_with(".json") {
            headers.push(("ETag".into(), format!("\"{}\"", &hash[..40])));
            return (200, headers, content.into());
        }
        headers.push(("ETag".into(), "\"of-the-pointer\"".into()));
        headers.push(("X-Linked-Etag".into(), format!("\"{hash}\"")));
        headers.push(("X-Linked-Size".into(), content.len().to_string()));
        headers.push((
            "Location".into(),
            format!("{}/storage/{path}", self.address.replace("127.0.0.1", "localhost")),
        ));
        (302, headers, b"elsewhere".to_vec())
    }
}

fn missing(status: u16, code: &str, commit: &str) -> Answer {
    let commit = (!commit.is_empty()).then(|| ("X-Repo-Commit".to_string(), commit.to_string()));
    (status, [("X-Error-Code".to_string(), code.to_string())].into_iter().chain(commit).collect(), vec![])
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().into()
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(String::from);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_string());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path: path.split('?').next()?.into(), headers, body })
}

/// Base 64.
fn decode(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(digit).collect();
    let group = |digits: &[u8]| {
        let bits = digits.iter().enumerate().fold(0u32, |bits, (i, d)| bits | u32::from(*d) << (18 - 6 * i));
        bits.to_be_bytes()[1..digits.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
