//! Records of runs, and the tables made from them. Independent of tensors and of kinds of task.

mod atomic;
mod card;
mod curve;
mod digest;
mod environment;
mod folder;
mod pairs;
mod publish;
mod reference;
pub mod render;
mod run;
mod score;
mod speed;
mod store;
pub mod table;
mod today;

pub use atomic::write_atomic;
pub use card::model_card;
pub use curve::{Curve, LossPoint, ScorePoint};
pub use digest::{digest, file_hash, task_hash};
pub use environment::{Build, Environment, Processor, Throughput};
pub use folder::{RunFolder, StoreError, read_record};
pub use pairs::{ScorePair, SeedPairs, repetitions, score_pairs, seed_pairs};
pub use publish::{PublishError, Published, publish};
pub use reference::{Origin, Reference};
pub use run::{
    BestScore, DataCover, DataRecord, EvaluationRecord, InitRecord, InitTraining, RunRecord, Status,
    TokenizerRecord,
};
pub use score::{Better, ErrorMethod, EvaluationSample, SampleUnit, Score, ScoreSpec, Scores, Unit};
pub use speed::{SpeedRecord, render_speed};
pub use store::RunStore;
pub use today::{Fault, Today};
