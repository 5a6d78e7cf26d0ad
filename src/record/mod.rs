//! Records of runs, and the tables made from them. Independent of tensors and of kinds of task.

mod atomic;
mod card;
mod folder;
mod reference;
pub mod render;
mod run;
mod speed;
mod store;
pub mod table;

pub use atomic::write_atomic;
pub use card::model_card;
pub use folder::{RunFolder, StoreError, read_record};
pub use reference::{Origin, Reference};
pub use run::{
    Better, Environment, InitRecord, InitTraining, RunRecord, Score, ScoreSpec, Scores, Status, Throughput,
    Unit,
};
pub use speed::{SpeedRecord, render_speed};
pub use store::RunStore;

/// Version and commit of this build, as `bench --version` prints them: `0.1.0 (6c6692f1a2b3)`.
pub const VERSION: &str = env!("BENCH_VERSION");
