//! The Hub, simulated by a local server: pull, its cache and its failures; push; weights for `--init`.

mod server;

use crate::program::{Sandbox, small_pretrain, small_transfer, stderr};
use server::{COMMIT, Fault, OLD, Request, Server};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TOKEN: &str = "hf_SecretOfTheTest";

/// A sandbox with its own cache, and a Hub.
struct Hub {
    sandbox: Sandbox,
    server: Server,
}

impl Hub {
    fn new() -> Self {
        Self { sandbox: Sandbox::new(), server: Server::start() }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.sandbox.command(line);
        for name in
            ["HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"]
        {
            command.env_remove(name);
        }
        command.env_remove("HF_HUB_OFFLINE").env_remove("NO_PROXY").env("no_proxy", "127.0.0.1,localhost");
        command
            .env("HF_ENDPOINT", &self.server.address)
            .env("HF_HOME", self.sandbox.path("hf"))
            .env("HF_TOKEN", TOKEN);
        command
    }

    fn run(&self, line: &str) -> Output {
        let output = self.command(line).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert!(!said.contains("hf_Secret"), "the token is shown:\n{said}");
        output
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "bench {line}\n{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap().trim().into()
    }

    fn fails(&self, code: i32, line: &str, words: &[&str]) {
        let output = self.run(line);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "bench {line}\n{error}");
        words.iter().for_each(|word| assert!(error.contains(word), "no `{word}` in {error}"));
    }

    fn cache(&self, name: &str) -> PathBuf {
        self.sandbox.path("hf/hub").join(name)
    }

    /// `GET` of content since the last look, by the first byte that each asks for.
    fn read_from(&self) -> Vec<usize> {
        let from = |request: Request| {
            let range = request.headers.get("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok();
            range.or(Some(0))
        };
        let requests = self.server.requests().into_iter();
        let content = requests.filter(|r| r.method == "GET" && r.path.starts_with("/storage/"));
        content.map(|request| from(request).unwrap_or(0)).collect()
    }
}

/// Bytes of no pattern.
fn content(length: usize, seed: u8) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]);
    let mut bytes = vec![0; length];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

const FILE: &str = "model.safetensors";

fn key(commit: &str, file: &str) -> String {
    format!("me/vit@{commit}/{file}")
}

#[test]
fn a_file_is_fetched_once_and_lies_where_python_looks() {
    let hub = Hub::new();
    let bytes = content(300_000, 1);
    hub.server.put(&key(COMMIT, FILE), &bytes);
    hub.server.put(&key(COMMIT, "config.json"), b"{}");
    let path = hub.ok("pull hub:me/vit");
    let snapshot = hub.cache("models--me--vit/snapshots").join(COMMIT);
    assert_eq!(Path::new(&path), snapshot.join(FILE));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read(snapshot.join("config.json")).unwrap(), b"{}");
    assert_eq!(std::fs::read_to_string(hub.cache("models--me--vit/refs/main")).unwrap(), COMMIT);
    assert_eq!(hub.read_from(), [0]);

    assert_eq!(hub.ok("pull hub:me/vit"), path);
    let second = hub.server.requests();
    assert!(!second.is_empty() && second.iter().all(|request| request.method == "HEAD"), "{second:?}");

    let pinned = format!("pull hub:me/vit@{COMMIT}/{FILE}");
    for line in [pinned.as_str(), "pull --offline hub:me/vit"] {
        assert_eq!(hub.ok(line), path);
    }
    let offline = hub.command("pull hub:me/vit").env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(offline.status.success(), "{}", stderr(&offline));
    assert_eq!(hub.server.requests().len(), 0);
    hub.fails(1, "pull --offline hub:me/vit@old", &["hub:me/vit@old", "not in the cache", "--offline"]);
}

#[test]
fn inspect_fetches_what_it_shows() {
    let hub = Hub::new();
    let golden = crate::program::repository().join("tests/golden/dialects/vit_mae.safetensors");
    let bytes = std::fs::read(golden).unwrap();
    hub.server.put(&key(COMMIT, FILE), &bytes);
    let shown = hub.ok("inspect hub:me/vit");
    let from = format!("from        hub:me/vit@{COMMIT}/{FILE}");
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    for line in [from, format!("sha256      {sha256}"), "program     Hugging Face ViT or ViT-MAE".into()] {
        assert!(shown.contains(&line), "no `{line}` in:\n{shown}");
    }
    assert_eq!(hub.read_from(), [0]);
    assert_eq!(hub.ok("inspect --offline hub:me/vit"), shown);
    hub.fails(1, "inspect hub:me/none", &["hub:me/none"]);
    hub.fails(2, "inspect hub:me/../none", &["expected hub:owner/name"]);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let hub = Hub::new();
    hub.server.put(&key(COMMIT, FILE), &content(100, 1));
    hub.ok("pull hub:me/vit");
    let requests = hub.server.requests();
    let token = format!("Bearer {TOKEN}");
    let (elsewhere, hub): (Vec<&Request>, Vec<&Request>) =
        requests.iter().partition(|request| request.path.starts_with("/storage/"));
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|r| !r.headers.contains_key("authorization")));
    assert!(hub.len() > 1 && hub.iter().all(|request| request.headers.get("authorization") == Some(&token)));
}

#[test]
fn revisions_are_apart_and_pinned() {
    let hub = Hub::new();
    let (old, new) = (content(1000, 1), content(1000, 2));
    hub.server.put(&key(OLD, FILE), &old);
    hub.server.put(&key(COMMIT, FILE), &new);
    assert_eq!(std::fs::read(hub.ok("pull hub:me/vit")).unwrap(), new);
    for reference in ["hub:me/vit@old".to_string(), format!("hub:me/vit@{OLD}/{FILE}")] {
        assert_eq!(std::fs::read(hub.ok(&format!("pull {reference}"))).unwrap(), old);
    }
    hub.fails(1, "pull hub:me/vit@v9", &["no revision `v9`"]);
}

#[test]
fn the_older_name_of_weights_is_found() {
    let hub = Hub::new();
    hub.server.put(&key(COMMIT, "pytorch_model.bin"), &content(500, 3));
    assert!(hub.ok("pull hub:me/vit").ends_with("pytorch_model.bin"));
    hub.server.put("me/empty@0/x", b"");
    hub.server.put(&format!("me/empty@{COMMIT}/readme"), b"");
    hub.fails(1, "pull hub:me/empty", &["hub:me/empty", "model.safetensors", "pytorch_model.bin"]);
    hub.fails(1, "pull hub:me/vit/other.pth", &["no file `other.pth`"]);
}

#[test]
fn all_files_that_an_index_lists_are_fetched() {
    let hub = Hub::new();
    let golden = crate::program::repository().join("tests/golden/dialects/vit.safetensors");
    let tensors: std::collections::BTreeMap<_, _> =
        candle_core::safetensors::load(golden, &candle_core::Device::Cpu).unwrap().into_iter().collect();
    let shard = |i: usize| format!("model-0000{}-of-00002.safetensors", i + 1);
    let mut map = serde_json::Map::new();
    for i in 0..2 {
        let part: std::collections::HashMap<_, _> = tensors
            .clone()
            .into_iter()
            .enumerate()
            .filter(|(at, _)| at % 2 == i)
            .map(|(_, pair)| pair)
            .collect();
        map.extend(part.keys().map(|name| (name.clone(), shard(i).into())));
        hub.server.put(&key(COMMIT, &shard(i)), &safetensors::serialize(&part, None).unwrap());
    }
    let text = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    hub.server.put(&key(COMMIT, "model.safetensors.index.json"), text.as_bytes());
    let path = hub.ok("pull hub:me/vit");
    assert!(path.ends_with("model.safetensors.index.json"));
    assert!((0..2).all(|i| Path::new(&path).with_file_name(shard(i)).is_file()));
    for line in ["inspect hub:me/vit", "inspect --offline hub:me/vit"] {
        let shown = hub.ok(line);
        assert!(shown.contains(&format!("tensors     {}", 2 * 12 + 8)), "{shown}");
    }
    // A shard that is not there, and one that is damaged.
    assert_eq!(hub.ok("pull --offline hub:me/vit"), path);
    let blob = Path::new(&path).with_file_name(shard(1)).canonicalize().unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
    hub.fails(1, "pull --offline hub:me/vit", &[&shard(1), "damaged"]);
    hub.fails(1, "pull --offline hub:me/vit", &[&shard(1), "not in the cache"]);
    assert_eq!(hub.ok("pull hub:me/vit"), path);
    hub.server.put("me/odd@0/x", b"");
    let bad = serde_json::json!({ "weight_map": { "a": "../../x" } }).to_string();
    hub.server.put(&format!("me/odd@{COMMIT}/model.safetensors.index.json"), bad.as_bytes());
    hub.fails(1, "pull hub:me/odd", &["../../x", "not a file beside the index"]);
}

#[test]
fn the_environment_is_read_as_in_python_and_errors_name_the_variable() {
    let hub = Hub::new();
    hub.server.put(&key(COMMIT, FILE), &content(100, 1));
    let run = |line: &str, set: &[(&str, &str)]| {
        let mut command = hub.command(line);
        command.envs(set.iter().copied()).output().unwrap()
    };
    let home = hub.sandbox.path("home");
    std::fs::create_dir(&home).unwrap();
    let home = [("HOME", home.to_str().unwrap())];
    let output = run("pull hub:me/vit", &[&home[..], &[("HF_HOME", "~/x")]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(hub.sandbox.path("home/x/hub/models--me--vit").is_dir() && !hub.sandbox.path("~").exists());
    for endpoint in ["127.0.0.1:8799", "", "ftp://x", "https://"] {
        let output = run("pull hub:me/vit", &[("HF_ENDPOINT", endpoint)]);
        let error = stderr(&output);
        assert!(!output.status.success() && error.contains("HF_ENDPOINT"), "{error}");
        assert!(error.contains("https://huggingface.co"), "{error}");
        let cached = [&home[..], &[("HF_HOME", "~/x"), ("HF_ENDPOINT", endpoint)]].concat();
        let output = run("pull --offline hub:me/vit", &cached);
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let hub = Hub::new();
    let bytes = content(2_000_000, 4);
    hub.server.put(&key(COMMIT, FILE), &bytes);
    // In the same process, only the rest is requested.
    hub.server.fail("GET", 1, Fault::Cut(700_000));
    assert_eq!(std::fs::read(hub.ok("pull hub:me/vit")).unwrap(), bytes);
    let from = hub.read_from();
    assert!(from.len() == 2 && from[1] > 0 && from[1] <= 700_000, "{from:?}");

    // A second process continues the download of the first one.
    std::fs::remove_dir_all(hub.cache("models--me--vit")).unwrap();
    hub.server.fail("GET", 1, Fault::Cut(900_000));
    hub.server.fail("GET", 5, Fault::Status(503, vec![]));
    hub.fails(1, "pull hub:me/vit", &["503", "tried 5 times"]);
    assert!(!hub.cache("models--me--vit/snapshots").exists());
    hub.read_from();
    assert_eq!(std::fs::read(hub.ok("pull hub:me/vit")).unwrap(), bytes);
    let from = hub.read_from();
    assert!(from.len() == 1 && from[0] > 0 && from[0] <= 900_000, "{from:?}");
}

#[test]
fn a_server_without_ranges_and_a_wrong_beginning_start_anew() {
    let hub = Hub::new();
    let bytes = content(400_000, 5);
    hub.server.put(&key(COMMIT, FILE), &bytes);
    hub.server.fail("GET", 1, Fault::Cut(100_000));
    hub.server.fail("GET", 1, Fault::Whole);
    let path = hub.ok("pull hub:me/vit");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);

    let blob = Path::new(&path).canonicalize().unwrap();
    for beginning in [content(1000, 9), content(500_000, 9)] {
        std::fs::remove_file(&blob).unwrap();
        std::fs::write(format!("{}.incomplete", blob.display()), beginning).unwrap();
        assert_eq!(std::fs::read(hub.ok("pull hub:me/vit")).unwrap(), bytes);
    }
}

#[test]
fn wrong_content_never_enters_the_cache() {
    let hub = Hub::new();
    let bytes = content(5000, 6);
    hub.server.put(&key(COMMIT, FILE), &bytes);
    hub.server.fail("GET", 1, Fault::Flip);
    hub.fails(1, "pull hub:me/vit", &["hub:me/vit/model.safetensors", "SHA-256", "discarded"]);
    let blobs = std::fs::read_dir(hub.cache("models--me--vit/blobs")).unwrap();
    assert_eq!(blobs.count(), 0);
    // A damaged copy in the cache is detected.
    let path = hub.ok("pull hub:me/vit");
    std::fs::write(Path::new(&path).canonicalize().unwrap(), content(5000, 7)).unwrap();
    hub.fails(1, "pull --offline hub:me/vit", &["damaged", "removed"]);
    assert_eq!(std::fs::read(hub.ok("pull hub:me/vit")).unwrap(), bytes);
}

#[test]
fn refusals_say_what_to_do() {
    let hub = Hub::new();
    hub.server.put(&key(COMMIT, FILE), &content(100, 1));
    hub.fails(1, "pull hub:me/other", &["hub:me/other", "no such repository, or a private one", "HF_TOKEN"]);
    for status in [401, 403] {
        hub.server.fail("HEAD", 1, Fault::Status(status, vec![("X-Error-Code", "GatedRepo")]));
        hub.fails(1, "pull hub:me/vit", &["gated repository: accept its conditions at", "/me/vit", "token"]);
    }
    hub.server.fail("HEAD", 1, Fault::Status(403, vec![("X-Error-Message", "blocked here")]));
    hub.fails(1, "pull hub:me/vit", &["access denied", "blocked here"]);
    hub.server.fail("HEAD", 1, Fault::Status(200, vec![("ETag", "../../../x"), ("X-Repo-Commit", COMMIT)]));
    hub.fails(1, "pull hub:me/vit", &["unexpected response from"]);
    for bad in ["hub:me/../../etc", "hub:me/vit/../../x", "hub:me/vit@..%2F../x", "me/vit"] {
        hub.server.requests();
        hub.fails(2, &format!("pull {bad}"), &[bad, "expected hub:owner/name"]);
        assert_eq!(hub.server.requests().len(), 0);
    }
}

#[test]
fn what_may_pass_is_tried_again() {
    let hub = Hub::new();
    let bytes = content(100, 1);
    hub.server.put(&key(COMMIT, FILE), &bytes);
    hub.server.fail("HEAD", 2, Fault::Status(500, vec![]));
    hub.server.fail("HEAD", 1, Fault::Status(429, vec![("Retry-After", "1")]));
    hub.server.fail("GET", 2, Fault::Status(503, vec![]));
    let began = std::time::Instant::now();
    assert_eq!(std::fs::read(hub.ok("pull hub:me/vit")).unwrap(), bytes);
    assert!(began.elapsed().as_secs_f64() >= 1., "the pause that was asked for is kept");
    // If the Hub is unreachable, the cached file is used.
    hub.server.fail("HEAD", 5, Fault::Status(500, vec![]));
    let output = hub.run("pull hub:me/vit");
    assert!(
        output.status.success() && stderr(&output).contains("the copy in the cache is used"),
        "{output:?}"
    );
}

#[test]
fn a_run_is_pushed_and_starts_another() {
    let hub = Hub::new();
    hub.ok(&small_pretrain());
    let run = hub.sandbox.only_run("runs");
    let id = run.file_name().unwrap().to_str().unwrap();
    hub.ok(&format!("push {id} hub:me/vit"));
    assert_eq!(hub.server.repositories(), ["me/vit"]);
    let weights = std::fs::read(run.join(FILE)).unwrap();
    assert_eq!(hub.server.file(&key(COMMIT, FILE)), Some(weights));
    let pushed = |file: &str| String::from_utf8(hub.server.file(&key(COMMIT, file)).unwrap()).unwrap();
    let card = pushed("README.md");
    for part in ["---\nlibrary_name: bench\n", id, "hub:me/vit", "vit_tiny_test", "mae_demo", "| seed"] {
        assert!(card.contains(part), "no `{part}` in\n{card}");
    }
    let config: serde_json::Value = serde_json::from_str(&pushed("config.json")).unwrap();
    assert_eq!(config["model_name"], "vit_tiny_test");
    let record: serde_json::Value = serde_json::from_str(&pushed("run.json")).unwrap();
    assert_eq!(record["id"], id);

    // Into the repository that is there now; then a transfer from it, whose record names commit and file.
    hub.ok(&format!("push {id} hub:me/vit"));
    hub.ok(&format!("{} --init hub:me/vit --runs second", small_transfer()));
    let record = std::fs::read_to_string(hub.sandbox.only_run("second").join("run.json")).unwrap();
    assert!(record.contains(&format!("hub:me/vit@{COMMIT}/{FILE}")), "{record}");

    // In the names of transformers, with a config.json that it reads; they start a run as well.
    hub.ok(&format!("push {id} hub:me/vit --to hf"));
    let config: serde_json::Value = serde_json::from_str(&pushed("config.json")).unwrap();
    assert_eq!(config["model_type"], "vit_mae");
    assert_eq!(config["bench"]["model_name"], "vit_tiny_test");
    assert!(pushed("README.md").starts_with("---\nlibrary_name: transformers\n"));
    assert_ne!(hub.server.file(&key(COMMIT, FILE)).unwrap(), std::fs::read(run.join(FILE)).unwrap());
    hub.ok(&format!("{} --init hub:me/vit --model vit_tiny_test --runs third", small_transfer()));

    hub.server.requests();
    let card = hub.ok(&format!("push {id} hub:me/vit --dry-run --license cc-by-nc-4.0"));
    assert!(card.contains("license: cc-by-nc-4.0\n") && hub.server.requests().is_empty(), "{card}");
    hub.fails(1, &format!("push --offline {id} hub:me/vit"), &["cannot push in offline mode"]);
    hub.server.fail("POST", 1, Fault::Status(401, vec![]));
    hub.fails(1, &format!("push {id} hub:me/vit"), &["hub:me/vit", "HF_TOKEN"]);
    hub.fails(2, "push nothing hub:me/vit", &["nothing"]);
    hub.fails(2, &format!("push {id} hub:me/vit/x"), &["hub:me/vit/x"]);
}

#[test]
fn a_backbone_of_the_catalogue_brings_its_label_and_its_target() {
    let hub = Hub::new();
    hub.ok(&small_pretrain());
    let weights = std::fs::read(hub.sandbox.only_run("runs").join(FILE)).unwrap();
    hub.server.put(&key(COMMIT, FILE), &weights);
    hub.sandbox.write(
        "mine/configs/catalogue.toml",
        "[[backbone]]\nhub = \"me/vit\"\nmodel = \"vit_tiny_test\"\nprogram = \"bench\"\nlicense = \"mit\"\ninit = \"mae_of_me\"\n\
         target = \"pixel\"\ndata = \"shapes\"\nrows = []\n",
    );
    hub.ok(&format!("{} --include mine --init hub:me/vit --runs second", small_transfer()));
    let record = std::fs::read_to_string(hub.sandbox.only_run("second").join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let init = &record["init"];
    assert_eq!(
        (init["label"].as_str(), init["target"].as_str()),
        (Some("mae_of_me"), Some("pixel")),
        "{init}"
    );
    assert!(hub.ok("model list --hub --include mine").contains("mae_of_me"));
    let known = hub.ok("model list --hub");
    assert!(
        known.contains("hub:timm/vit_base_patch16_224.mae") && known.contains("predicts normalised pixels")
    );

    // Runs of this program state their pre-training data too.
    let pretrained = hub.sandbox.only_run("runs");
    hub.ok(&format!("{} --init {} --runs third", small_transfer(), pretrained.display()));
    let record = std::fs::read_to_string(hub.sandbox.only_run("third").join("run.json")).unwrap();
    assert!(record.contains("\"target\": \"norm_pixel\""), "{record}");
}
