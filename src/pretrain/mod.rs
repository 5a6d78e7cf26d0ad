//! Pre-training objectives. An objective computes the losses of a batch; the training loop
//! does the rest.

pub mod beit;
pub mod dvae;
pub mod figure;
pub mod mae;
pub mod masks;
mod objective;
mod objectives;
mod pca;
pub mod targets;
mod tokens;

pub use beit::{Beit, BeitOptions};
pub use dvae::DiscreteAutoencoder;
pub use figure::{Reconstruction, figure_of_pairs, figure_of_reconstructions};
pub use mae::{LossPatches, MaeOptions, MaskedAutoencoder};
pub use masks::{MaskKind, MaskSampler, PatchMask};
pub use objective::{
    Moment, Objective, ObjectiveFacts, ObjectiveInputs, PretrainObjective, Pretraining, RecipeFacts,
    TokenizerUse,
};
pub use objectives::Objectives;
pub use targets::PatchTarget;
pub use tokens::TokenTarget;
