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
mod patch;
pub mod pos_embed;
mod shapes;

pub use attention::Attention;
pub use batch_norm::BatchNorm;
pub use block::{Block, BlockConfig, Mlp};
pub use linear::Linear;
pub use losses::Losses;
pub use norm::LayerNorm;
pub use params::{Parameter, Params};
pub use pass::{Pass, drop_path};
pub use patch::{PatchEmbed, patchify, unpatchify};
pub use shapes::parameter_shapes;
