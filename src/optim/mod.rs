//! Optimisers, parameter groups, schedules, gradient arithmetic and weight averaging.
//!
//! candle-nn's optimisers have one learning rate for all variables, do not expose their moments and allocate several
//! copies of the model in every step. Here a step updates the variables, their moments and their moving average in
//! place, in one pass over memory; every parameter has its own learning-rate scale and weight decay; and all state can
//! be saved and restored exactly. State is f32, on CPU or CUDA.

mod adamw;
mod build;
mod ema;
mod gradients;
mod groups;
mod lars;
mod optimizer;
mod schedule;
mod sgd;
mod storage;
mod update;

pub use adamw::AdamW;
pub use build::{OptimError, build_optimizer};
pub use ema::Ema;
pub use gradients::{Gradients, clip_factor};
pub use groups::{ParamGroup, param_groups};
pub use lars::Lars;
pub use optimizer::{Optimizer, Step};
pub use schedule::{LrSchedule, WeightDecaySchedule};
pub use sgd::Sgd;

#[cfg(test)]
mod golden;
