//! `bench` measures how well the features of self-supervised vision transformers transfer. It pre-trains a ViT with masked
//! autoencoding (MAE) or BEiT, or reads published weights, and trains and evaluates it on image classification, object
//! detection and semantic segmentation, on the CPU or on NVIDIA devices, with [candle](https://docs.rs/candle-core).
//!
//! Most users need the program `bench` and no Rust: models, recipes, tasks, data sets and tables are TOML files under `configs/`,
//! `tasks/` and `datasets/`. The library is for two purposes: to add a kind of task, an objective, a format, an augmentation or a
//! backbone to the program, and to use its parts (operators, layers, readers of weights, metrics) elsewhere. The
//! [`prelude`] holds what an extension needs; `docs/guides/extend.md` in the repository explains each kind of extension, and
//! `docs/architecture.md` how the modules depend on each other.
//!
//! # Modules
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | TOML files as typed structs: models, recipes, `--set` |
//! | [`data`] | data set manifests, annotation formats, images, geometry, augmentation, the loader, the synthetic set `shapes` |
//! | [`draw`] | pictures of predictions |
//! | [`ops`] | differentiable operators on tensors, for CPU and CUDA |
//! | [`nn`] | parameters and layers |
//! | [`optim`] | AdamW, SGD, LARS, parameter groups, schedules, exponential moving averages |
//! | [`models`] | the interface of backbones, the ViT, feature pyramids, the discrete VAE, frozen external backbones |
//! | [`weights`] | reading and writing checkpoints, and the Hugging Face Hub |
//! | [`pretrain`] | objectives: MAE, BEiT and the discrete VAE, with their masks and targets |
//! | [`task`] | the interface of kinds of task: `Task`, `Head`, manifests |
//! | [`kinds`] | the built-in kinds: classification, detection, segmentation |
//! | [`metrics`] | accuracy, average precision, mean IoU |
//! | [`engine`] | the training loop, evaluation, prediction, checkpoints |
//! | [`record`] | records of runs, and the tables made from them |
//! | [`components`] | registered objectives and other parts of runs |
//! | [`registry`] | everything that a program knows by name |
//! | [`runs`] | from a request to a finished run |
//! | [`suite`] | a file of runs as a resumable plan |
//! | [`process`] | settings of the process: subnormal numbers, memory allocation, threads |
//! | [`rng`] | random numbers as a function of seed, purpose and step |
//! | [`selftest`] | comparison of a device with the CPU |
//! | [`cli`] | the command-line program |
//!
//! # A program
//!
//! A program with the built-in parts is [`cli::main`] on [`registry::Registry::builtin`]; one with parts of its own registers
//! them on the way (`Registry::builtin().with_objective::<Mine>()`):
//!
//! ```no_run
//! use bench::registry::Registry;
//!
//! fn main() -> std::process::ExitCode {
//!     bench::cli::main(Registry::builtin())
//! }
//! ```
//!
//! # Training without the command line
//!
//! [`runs`] does what the commands `bench pretrain` and `bench transfer` do. This program pre-trains a small MAE on a folder
//! of images for two steps; a later call with `resume` would go on with the third:
//!
//! ```
//! use bench::config::{Library, Stage};
//! use bench::engine::{Control, Silent};
//! use bench::record::{RunStore, Status};
//! use bench::registry::Registry;
//! use bench::runs::{Request, RunContext, Start, prepare};
//! use bench::weights::HubSettings;
//! use std::sync::atomic::AtomicBool;
//!
//! # fn main() -> anyhow::Result<()> {
//! # let temporary = tempfile::tempdir()?;
//! # let folder = temporary.path();
//! bench::process::prepare_process(); // before the first computation: subnormal numbers are zero
//! let context = RunContext {
//!     registry: &Registry::builtin(),
//!     library: &Library::new(&[])?, // the built-in models, recipes, tasks and data sets
//!     store: &RunStore::new(folder.join("runs")),
//!     bench_data: Some(folder.join("data")),
//!     device: candle_core::Device::Cpu,
//!     device_name: "cpu".into(),
//!     workers: 1,
//!     build: bench::cli::build(), // for the record: commit, sources, compiler
//!     control: Control { stop: &AtomicBool::new(false), observer: &Silent },
//!     hub: HubSettings::new(folder.join("hub")),
//! };
//! let request = Request {
//!     data: Some("datasets/shapes/fixture/train".into()), // any folder of images
//!     recipe: Some("mae_demo".into()),
//!     set: vec!["batch=4".into()],
//!     ..Request::default()
//! };
//! let out = folder.join("run");
//! let tell = |note: &str| eprintln!("{note}");
//! let record = match prepare(&context, Stage::Pretrain, &request, Some(&out), false, &tell)? {
//!     Start::Ready(prepared) => prepared.run(&context, Some(2))?,
//!     Start::Done(record) => *record, // an earlier call has finished it
//! };
//! assert_eq!((record.status, record.steps_done), (Status::Truncated, 2));
//! assert!(record.losses["reconstruction"] > 0.);
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]

pub mod cli;

#[doc(inline)]
pub use bench_core::{
    components, config, data, draw, engine, kinds, metrics, models, nn, ops, optim, prelude, pretrain,
    process, record, registry, rng, runs, selftest, suite, task, weights,
};
