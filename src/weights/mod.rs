//! Reading and writing weights: files, what they hold, and how they fit a model.
//!
//! Read: `.safetensors` (sharded too), zip-format `.pth` and `.npz`, in the names of facebookresearch/mae (which timm
//! shares) or in those of the programs of `names.rs`; [`convert`] writes the latter. Loading is strict both ways with named
//! exceptions.

mod archive;
mod convert;
mod file;
mod finite;
mod hub;
mod inspect;
mod load;
mod names;
pub mod notes;
mod npz;
mod pickle;
mod relative;
mod save;
mod shards;
mod tokenizer;
mod torch;
mod transformers;
mod translation;

pub use convert::{ConvertError, Converted, Program, convert};
pub use file::{FileError, WeightEntry, WeightFile};
pub use finite::{NotFinite, refuse_not_finite};
pub use hub::{Fetched, HUB, Hub, HubError, HubFile, Pushed, Upload};
pub use inspect::{Contents, InferredVit, Inspection, inspect};
pub use load::{LoadError, LoadReport, load_backbone, load_exact, load_initial, load_model};
pub use save::{SaveError, save, save_tensors};
pub use shards::weights_in;
pub use tokenizer::{TokenizerError, load_tokenizer};
pub use transformers::{CheckpointHints, HfConfig};

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod tests;
