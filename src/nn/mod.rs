//! Parameters and layers, each once. Layers are plain structs over [`crate::ops`]; parameter names
//! follow the reference PyTorch checkpoints.

mod attention;
mod batch_norm;
mod block;
mod linear;
mod losses;
mod norm;
mod params;
mod pass;
pub mod pos_embed;

pub use losses::Losses;
pub use params::{Parameter, Params};
pub use pass::{Pass, drop_path};
