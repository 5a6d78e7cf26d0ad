//! Flags that mean the same in every command, and what they make of the environment.

use super::hub::hub_settings;
use super::progress::Screen;
use crate::config::{Dtype, Library};
use crate::engine::Control;
use crate::record::RunStore;
use crate::registry::Registry;
use crate::runs::{Request, RunContext, open_device};
use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

/// Extra folders of manifests and recipes.
#[derive(Args, Clone, Debug, Default)]
pub struct Include {
    /// Folder with `tasks/`, `datasets/`, `configs/` of your own (repeatable; searched before the built-in ones)
    #[arg(long, value_name = "DIR")]
    pub include: Vec<PathBuf>,
}

impl Include {
    pub fn library(&self) -> Result<Library> {
        Ok(Library::new(&self.include)?)
    }
}

/// Where to compute and where runs and data lie.
#[derive(Args, Clone, Debug)]
pub struct PlaceFlags {
    #[command(flatten)]
    pub include: Include,
    /// Device to compute on: cpu, cuda or cuda:<number>
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Threads that read and augment images [default: 1 to 4, by cores]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
    /// Ask the Hugging Face Hub for nothing: use what is in its cache [also: HF_HUB_OFFLINE=1]
    #[arg(long)]
    pub offline: bool,
}

/// What is run.
#[derive(Args, Clone, Debug, Default)]
pub struct RequestFlags {
    /// Model (`bench model list`)
    #[arg(long)]
    pub model: Option<String>,
    /// Recipe (`bench recipe list`)
    #[arg(long)]
    pub recipe: Option<String>,
    /// Initial weights: `scratch`, a run id or folder, a weights file, or hub:owner/name[@revision][/file]
    #[arg(long, value_name = "WEIGHTS")]
    pub init: Option<String>,
    /// Root of the data set [default: $BENCH_DATA/<data set>]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Seed of everything random [default: 0, or that of --config]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Type in which matrix products are computed: f32, tf32 (CUDA devices) or bf16 [default: f32 on the CPU, bf16 on
    /// CUDA devices]
    #[arg(long)]
    pub dtype: Option<Dtype>,
    /// Change a value of the recipe, or of the model with `model.` before it (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Repeat a run: its `config.toml`, which --seed and --set may change
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "recipe", "init", "dtype"])]
    pub config: Option<PathBuf>,
}

impl RequestFlags {
    pub fn request(&self, task: Option<String>, dataset: Option<String>) -> Request {
        let Self { model, recipe, init, data, seed, dtype, set, config } = self.clone();
        Request { config, task, dataset, model, recipe, init, data, seed, dtype, set }
    }
}

/// Owns what a [`RunContext`] borrows.
pub struct CliContext {
    pub library: Library,
    pub store: RunStore,
    device: Device,
    device_name: String,
    workers: usize,
    offline: bool,
    screen: Screen,
}

impl PlaceFlags {
    /// The arguments that say the same once more.
    pub fn arguments(&self) -> Vec<String> {
        let Self { include: Include { include }, device, workers, runs, offline } = self;
        let path = |path: &Path| path.display().to_string();
        let mut given = vec![];
        given.extend(include.iter().map(|folder| ("--include", path(folder))));
        given.extend((device != "cpu").then(|| ("--device", device.clone())));
        given.extend(workers.map(|workers| ("--workers", workers.to_string())));
        given.extend((runs != Path::new("runs")).then(|| ("--runs", path(runs))));
        let given = given.into_iter().flat_map(|(flag, value)| [flag.into(), value]);
        given.chain(offline.then(|| "--offline".into())).collect()
    }

    pub fn context(&self) -> Result<CliContext> {
        let device = open_device(&self.device)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if self.workers == Some(0) {
            bail!("--workers 0: at least 1 is needed");
        }
        Ok(CliContext {
            library: self.include.library()?,
            store: RunStore::new(&self.runs),
            device,
            device_name: self.device.clone(),
            workers: self.workers.unwrap_or(cores.clamp(1, 4)),
            offline: self.offline,
            screen: Screen::new(),
        })
    }
}

impl CliContext {
    pub fn run_context<'a>(&'a self, registry: &'a Registry) -> RunContext<'a> {
        RunContext {
            registry,
            library: &self.library,
            store: &self.store,
            bench_data: bench_data(),
            device: self.device.clone(),
            device_name: self.device_name.clone(),
            workers: self.workers,
            command: command_line(std::env::args().skip(1)),
            control: Control { stop: &STOP, observer: &self.screen },
            hub: hub_settings(self.offline),
        }
    }

    /// The same context with the runs elsewhere.
    pub fn with_store(mut self, store: RunStore) -> Self {
        self.store = store;
        self
    }

    pub fn screen(&self) -> &Screen {
        &self.screen
    }
}

/// `$BENCH_DATA`.
pub fn bench_data() -> Option<PathBuf> {
    std::env::var_os("BENCH_DATA").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `bench` with these arguments, quoted where a shell would need it.
pub fn command_line(args: impl IntoIterator<Item = String>) -> String {
    let quote = |arg: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) {
            arg
        } else {
            format!("'{}'", arg.replace('\'', "'\\''"))
        }
    };
    let args = args.into_iter().map(quote);
    std::iter::once("bench".to_string()).chain(args).collect::<Vec<_>>().join(" ")
}

/// From now on Ctrl-C asks the loop to stop, and so do SIGTERM and SIGHUP, which schedulers send; a second one ends the
/// program at once.
pub fn catch_ctrl_c() -> Result<()> {
    static CAUGHT: AtomicBool = AtomicBool::new(false);
    if CAUGHT.swap(true, Ordering::Relaxed) {
        return Ok(()); // by an earlier command of this process
    }
    let hangups = Hangups::now();
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; Ctrl-C again ends at once");
    })
    .context("cannot handle signals")?;
    hangups.restore();
    Ok(())
}

/// Whether SIGHUP is ignored, as `nohup` has it; the handler above must not change that.
struct Hangups {
    #[cfg(unix)]
    ignored: bool,
}

impl Hangups {
    #[cfg(unix)]
    fn now() -> Self {
        // SAFETY: asks for the present action, which fills the struct; a zeroed one is a valid value.
        let ignored = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGHUP, std::ptr::null(), &mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        };
        Self { ignored }
    }

    #[cfg(unix)]
    fn restore(&self) {
        if self.ignored {
            // SAFETY: to ignore a signal is always allowed.
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        }
    }

    #[cfg(not(unix))]
    fn now() -> Self {
        Self {}
    }

    #[cfg(not(unix))]
    fn restore(&self) {}
}
