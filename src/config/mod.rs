//! TOML files to typed structs. One way to read a configuration, for every file of the project.

mod attention;
mod augment;
mod catalogue;
mod dvae;
mod foreign;
mod load;
mod model;
mod named;
mod optim;
mod recipe;
mod run;

pub use attention::{Attention, GlobalBlocks, Quarters, RelativePosition, quarters};
pub use augment::{
    Erase, Interpolation, Normalize, Operation, OperationKey, OperationOwner, View, complete_operations,
};
pub use catalogue::{Catalogue, KnownBackbone};
pub use dvae::{Anneal, DvaeSizes, DvaeTraining, PixelLoss};
pub use foreign::Foreign;
pub use load::{ConfigError, Library, apply_set, parse, parse_table, read, unknown};
pub use model::{Decoder, ModelConfig, Pool, ResizePositions};
pub use named::{Named, Tag, Tagged, schema_with};
pub use optim::{Exempt, Optim, OptimName, Schedule, ScheduleName};
pub use recipe::{Beit, Mae, MaskKind, Pretrain, Recipe, Reconstruct, ReconstructionTarget, Transfer, Tune};
pub use run::{Choice, Dtype, Run, RunConfig, SCRATCH, Stage};
