//! Typed structs for TOML files. Every configuration file of the project is read in the same way.

mod attention;
mod augment;
mod catalogue;
mod dvae;
mod identity;
mod keys;
mod load;
mod model;
mod named;
mod optim;
mod owners;
mod recipe;
mod run;
mod size;
mod stage;

pub use attention::{AttentionConfig, GlobalBlocks, Quarters, RelativePosition, quarters};
pub use augment::{Erase, Interpolation, Normalize, Operation, OperationKey, View};
pub use catalogue::{Catalogue, KnownBackbone};
pub use dvae::{Anneal, DvaeSizes, DvaeTraining, PixelLoss};
pub use identity::{Change, changing};
pub use load::{ConfigError, Library, NamedFile, apply_set, parse, parse_table, read, unknown};
pub use model::{DecoderConfig, MlpKind, ModelConfig, Pool, ResizePositions, VIT};
pub use named::{Named, Tag, Tagged, schema_with};
pub use optim::{Exempt, Optim, OptimName, Ramp, RampName, Schedule, ScheduleName};
pub use owners::{Owners, complete_operations, complete_recipe};
pub use recipe::{ObjectiveKey, ObjectiveTable, Recipe, ReconstructionTarget, Transfer, Tune};
pub use run::{Choice, FOLDER, Run, RunConfig, SCRATCH};
pub use size::{SquareOrSize, optional_side, optional_size, size};
pub use stage::{Dtype, Reported, Stage};
