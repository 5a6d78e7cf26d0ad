//! Parameters and layers. Layers are plain structs over [`crate::ops`]; parameter names
//! follow the reference PyTorch checkpoints.

mod attention;
mod attention_pattern;
mod batch_norm;
mod block;
mod conv;
mod conv_norm;
mod linear;
mod losses;
mod norm;
mod norm2d;
mod params;
mod pass;
mod patch;
pub mod pos_embed;
mod rotary;
mod shapes;
mod teacher;
#[cfg(test)]
pub(crate) mod test_tolerance;

pub use attention::Attention;
pub(crate) use attention_pattern::is_relative_position;
pub use attention_pattern::{AttentionPattern, RelativePositionBias};
pub use batch_norm::BatchNorm;
pub use block::{Block, BlockConfig, Mlp};
pub use conv::{Conv2d, ConvConfig, ConvInit, ConvTranspose2d};
pub use conv_norm::ConvNorm;
pub use linear::Linear;
pub use losses::{LossMetric, Losses};
pub use norm::LayerNorm;
pub use norm2d::{Norm2d, NormKind};
pub use params::{Parameter, Params};
pub use pass::{Pass, drop_path};
pub(crate) use patch::resize_kernel;
pub use patch::{PatchEmbed, patchify, unpatchify};
pub use rotary::{RotaryGrid, rotary_of_grid};
pub use shapes::parameter_shapes;
pub use teacher::MomentumTeacher;
