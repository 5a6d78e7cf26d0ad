//! The backbone interface, the registry of backbones, and the models of the crate.

mod backbone;
mod backbones;
mod cost;
pub mod dvae;
mod external;
pub mod pyramid;
pub mod vit;

pub use backbone::{
    Backbone, BackboneKind, BackboneSpec, BackboneUsage, Features, NoOptions, WeightMatching,
};
pub use backbones::Backbones;
pub use cost::mae_gmacs;
pub use external::{
    CONVNEXT_ATTO, CONVNEXT_BASE, CONVNEXT_LARGE, CONVNEXT_SMALL, CONVNEXT_TINY, ExternalNetwork, RESNET18,
    RESNET34, RESNET50, RESNET101,
};
pub use vit::Vit;

#[cfg(test)]
mod tests;
