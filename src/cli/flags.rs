//! Flags that mean the same in every command, and the environment variables that supplement them.

use super::hub::hub_settings;
use super::progress::Screen;
use super::version::build;
use crate::config::{Dtype, Library, RunConfig, read};
use crate::engine::Control;
use crate::record::{RunFolder, RunStore};
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
pub(super) struct Include {
    /// Folder with your own `tasks/`, `datasets/` and `configs/` (repeatable; searched before the built-in ones)
    #[arg(long, value_name = "DIR")]
    pub(super) include: Vec<PathBuf>,
}

impl Include {
    /// Adds the folders that the configuration `config` of a run names and that are still there.
    pub(super) fn remember(&mut self, config: &Path) {
        let Ok(config) = read::<RunConfig>(config) else { return }; // whoever needs it will say what is wrong
        let same = |a: &Path, b: &Path| std::path::absolute(a).ok() == std::path::absolute(b).ok();
        for folder in config.run.include {
            if folder.is_dir() && !self.include.iter().any(|given| same(given, &folder)) {
                self.include.push(folder);
            }
        }
    }

    pub(super) fn library(&self) -> Result<Library> {
        Ok(Library::new(&self.include)?)
    }
}

/// Where to compute, and where runs and data are.
#[derive(Args, Clone, Debug)]
pub(super) struct PlaceFlags {
    #[command(flatten)]
    pub(super) include: Include,
    /// Device to compute on: cpu, cuda or cuda:<number>
    #[arg(long, default_value = "cpu")]
    pub(super) device: String,
    /// Number of threads that read and augment images [default: the number of cores, at most 4]
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<usize>,
    /// Folder that contains all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub(super) runs: PathBuf,
    /// Do not contact the Hugging Face Hub; use its local cache only [also: HF_HUB_OFFLINE=1]
    #[arg(long)]
    pub(super) offline: bool,
}

/// The flags that describe a run.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct RequestFlags {
    /// Name (`bench model list`) or path of the model
    #[arg(long)]
    pub(super) model: Option<String>,
    /// Name (`bench recipe list`) or path of the recipe
    #[arg(long)]
    pub(super) recipe: Option<String>,
    /// Initial weights: `scratch`, a run id or folder, a weights file, or hub:owner/name[@revision][/file]
    #[arg(long, value_name = "WEIGHTS")]
    pub(super) init: Option<String>,
    /// Root folder of the data set [default: $BENCH_DATA/<data set>]
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Seed of all random numbers [default: 0, or that of --config]
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Number format of matrix products: f32, tf32 (CUDA only) or bf16 [default: f32 on the CPU, bf16 on CUDA devices]
    #[arg(long)]
    pub(super) dtype: Option<Dtype>,
    /// Override a value of the recipe, or of the model if the key begins with `model.` (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Number of passes over the training split; short for --set epochs=N
    #[arg(long, value_name = "N")]
    pub(super) epochs: Option<usize>,
    /// Images per optimiser step, over all micro-batches; short for --set batch=N
    #[arg(long, value_name = "N")]
    pub(super) batch_size: Option<usize>,
    /// Peak learning rate, whatever the batch; short for --set optim.lr=X (recipes give it per 256 images: optim.base_lr)
    #[arg(long, value_name = "X")]
    pub(super) lr: Option<f64>,
    /// Weight decay; short for --set optim.weight_decay=X
    #[arg(long, value_name = "X")]
    pub(super) weight_decay: Option<f64>,
    /// Size of the model's input in pixels: N for a square, or HEIGHTxWIDTH; short for --set model.image=[HEIGHT,WIDTH]
    #[arg(long, value_name = "N", value_parser = image_size)]
    pub(super) img_size: Option<[usize; 2]>,
    /// Repeat a run from its `config.toml`; --seed and --set override it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "recipe", "init", "dtype"])]
    pub(super) config: Option<PathBuf>,
}

impl RequestFlags {
    /// The request that the flags describe.
    ///
    /// # Errors
    /// A key that is set twice: by a flag of its own and by --set.
    pub(super) fn request(&self, task: Option<String>, dataset: Option<String>) -> Result<Request> {
        let set = self.settings()?;
        let Self { model, recipe, init, data, seed, dtype, config, .. } = self.clone();
        Ok(Request {
            config,
            task,
            dataset,
            model,
            recipe,
            init,
            data,
            seed,
            dtype,
            report: None,
            set,
            like_other_runs: true,
        })
    }

    /// `--set` as typed, and the assignments that flags stand for.
    fn settings(&self) -> Result<Vec<String>> {
        let short = [
            ("--epochs", self.epochs.map(|n| format!("epochs={n}"))),
            ("--batch-size", self.batch_size.map(|n| format!("batch={n}"))),
            ("--lr", self.lr.map(|lr| format!("optim.lr={lr:?}"))),
            ("--weight-decay", self.weight_decay.map(|decay| format!("optim.weight_decay={decay:?}"))),
            ("--img-size", self.img_size.map(|[height, width]| format!("model.image=[{height},{width}]"))),
        ];
        let key = |assignment: &str| assignment.split('=').next().unwrap_or_default().trim().to_string();
        let mut set = self.set.clone();
        for (flag, assignment) in short {
            let Some(assignment) = assignment else { continue };
            if let Some(other) = self.set.iter().find(|other| key(other) == key(&assignment)) {
                bail!("{flag} and --set {other} set the same key; give one of them");
            }
            set.push(assignment);
        }
        Ok(set)
    }
}

/// Reads `224` or `224x320` as [height, width].
fn image_size(text: &str) -> Result<[usize; 2], String> {
    let side = |text: &str| text.trim().parse::<usize>().ok().filter(|side| *side > 0);
    let size = match text.split_once(['x', 'X']) {
        Some((height, width)) => side(height).zip(side(width)),
        None => side(text).map(|side| (side, side)),
    };
    let wrong = || "expected a number of pixels, as in 224, or HEIGHTxWIDTH, as in 224x320".to_string();
    size.map(|(height, width)| [height, width]).ok_or_else(wrong)
}

/// Owns what a [`RunContext`] borrows.
pub(super) struct CliContext {
    pub(super) library: Library,
    pub(super) store: RunStore,
    device: Device,
    device_name: String,
    workers: usize,
    offline: bool,
    screen: Screen,
}

impl PlaceFlags {
    /// The command-line arguments that would produce these flags.
    pub(super) fn arguments(&self) -> Vec<String> {
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

    /// The same flags, where the folders of --include that the run `name` was started with are searched after those given. `name` is an
    /// id, a folder, or the file of weights of a run; anything else adds none.
    pub(super) fn with_includes_of(&self, name: &str) -> Self {
        let path = Path::new(name);
        let folder = match (path.is_dir(), path.is_file()) {
            (true, _) => Some(path.to_path_buf()),
            (_, true) => path.parent().map(Path::to_path_buf),
            _ => RunStore::new(&self.runs).find(name).ok().map(|folder| folder.path().to_path_buf()),
        };
        match folder {
            Some(folder) => self.with_includes_in(&RunFolder::at(folder).config()),
            None => self.clone(),
        }
    }

    /// The same flags with the folders of --include that the configuration `config` of a run names.
    pub(super) fn with_includes_in(&self, config: &Path) -> Self {
        let mut flags = self.clone();
        flags.include.remember(config);
        flags
    }

    pub(super) fn context(&self) -> Result<CliContext> {
        let device = open_device(&self.device)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if self.workers == Some(0) {
            bail!("--workers 0: at least 1 is required");
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
    pub(super) fn run_context<'a>(&'a self, registry: &'a Registry) -> RunContext<'a> {
        RunContext {
            registry,
            library: &self.library,
            store: &self.store,
            bench_data: bench_data(),
            device: self.device.clone(),
            device_name: self.device_name.clone(),
            workers: self.workers,
            build: build(),
            control: Control { stop: &STOP, observer: &self.screen },
            hub: hub_settings(self.offline),
        }
    }

    /// The same context with another folder of runs.
    pub(super) fn with_store(mut self, store: RunStore) -> Self {
        self.store = store;
        self
    }

    pub(super) fn screen(&self) -> &Screen {
        &self.screen
    }
}

/// The value of `$BENCH_DATA`, if it is set and not empty.
pub(super) fn bench_data() -> Option<PathBuf> {
    std::env::var_os("BENCH_DATA").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// From now on Ctrl-C, SIGTERM and SIGHUP (which schedulers send) ask the loop to stop. A second signal ends the program
/// immediately.
pub(super) fn catch_ctrl_c() -> Result<()> {
    static CAUGHT: AtomicBool = AtomicBool::new(false);
    if CAUGHT.swap(true, Ordering::Relaxed) {
        return Ok(()); // An earlier command of this process has done it.
    }
    let hangups = Hangups::now();
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to end immediately");
    })
    .context("cannot install the signal handler")?;
    hangups.restore();
    Ok(())
}

/// Whether SIGHUP is ignored, as it is under `nohup`. The handler above must not change that.
struct Hangups {
    #[cfg(unix)]
    ignored: bool,
}

impl Hangups {
    #[cfg(unix)]
    fn now() -> Self {
        // SAFETY: the call reads the current action into the struct, for which all zeros are a valid value.
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
            // SAFETY: ignoring a signal is always allowed.
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
