//! Reading and writing weights: file formats, what files hold, and how weights fit a model.
//!
//! Supported formats are `.safetensors` and zip-format `.pth` (both also sharded), `.npz`, and `.pkl` of NumPy arrays. Tensor
//! names are those of facebookresearch/mae, which timm shares; files of other programs are loaded through their key mapping, and
//! [`convert_weights`] writes them. Loading is strict in both directions, with named exceptions.

mod archive;
mod content;
mod convert;
mod distilled;
mod entry;
mod error;
mod file;
mod finite;
mod hub;
mod inspect;
mod key_bias;
mod key_mapping;
mod load;
mod mapped;
pub mod metadata;
mod npz;
mod numpy_array;
mod numpy_pickle;
mod parsed;
mod pickle;
mod relative;
mod rope;
mod safetensors_header;
mod save;
mod search;
mod shards;
mod sincos;
mod state_dicts;
mod tokenizer;
mod torch;
mod transformers;
mod unmerged;

pub use convert::{ConvertError, Converted, Program, convert_weights};
pub use entry::{Unusable, WeightEntry};
pub use error::{WeightFileError, WeightLoadError};
pub use file::WeightFile;
pub use finite::NotFinite;
pub use hub::{Fetched, HUB, Hub, HubError, HubFile, HubSettings, Pushed, UploadContent};
pub use inspect::{Contents, InferredVit, Inspection, inspect_weights};
pub(crate) use load::refuse_not_finite;
pub use load::{LoadReport, load_backbone, load_exact, load_initial, load_model};
pub use save::{WeightSaveError, save, save_tensors};
pub use shards::{weight_files, weights_in};
pub use state_dicts::{split_state_dict, with_state_dict};
pub use tokenizer::{TokenizerError, load_tokenizer};
pub use transformers::CheckpointHints;
pub(crate) use transformers::HfConfig;

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod tests;
