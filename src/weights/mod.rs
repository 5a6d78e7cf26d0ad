//! Reading and writing weights: files, what they hold, and how they fit a model.
//!
//! Read: `.safetensors` and zip-format `.pth`, in the names of facebookresearch/mae (which timm shares) or in those of
//! the programs of `names.rs`; [`convert`] writes the latter. Loading is strict both ways with named exceptions.

mod convert;
mod file;
mod finite;
mod hub;
mod inspect;
mod load;
mod names;
mod pickle;
mod relative;
mod save;
mod tokenizer;
mod torch;
mod translation;

pub use convert::{ConvertError, Converted, Program, convert};
pub use file::{FileError, WeightEntry, WeightFile};
pub use finite::{NotFinite, refuse_not_finite};
pub use hub::{Fetched, HUB, Hub, HubError, HubFile, Pushed, Upload};
pub use inspect::{Dialect, Guess, Inspection, inspect};
pub use load::{LoadError, LoadReport, load_backbone, load_exact};
pub use save::{SaveError, save, save_tensors};
pub use tokenizer::{TokenizerError, load_tokenizer};

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod tests;
