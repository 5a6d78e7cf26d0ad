//! [`Backbones`]: the backbones that a model file can name, built in or registered by another crate.

use super::external::{
    CONVNEXT_ATTO, CONVNEXT_BASE, CONVNEXT_LARGE, CONVNEXT_SMALL, CONVNEXT_TINY, ExternalNetwork, RESNET18,
    RESNET34, RESNET50, RESNET101,
};
use super::{Backbone, BackboneKind, BackboneSpec, BackboneUsage, Vit, WeightMatching};
use crate::config::{ConfigError, ModelConfig, Named, parse_table};
use crate::nn::parameter_shapes;
use candle_core::{Error, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use schemars::{Schema, schema_for};
use std::marker::PhantomData;
use std::sync::Arc;

/// Registered backbones by name.
#[derive(Clone)]
pub struct Backbones(Named<Arc<dyn RegisteredBackbone>>);

impl std::fmt::Debug for Backbones {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Default for Backbones {
    fn default() -> Self {
        Self::builtin()
    }
}

impl Backbones {
    /// No backbones.
    pub fn empty() -> Self {
        Self(Named::new("backbone"))
    }

    /// The built-in backbones.
    pub fn builtin() -> Self {
        Self::empty()
            .with::<Vit>()
            .with::<ExternalNetwork<RESNET18>>()
            .with::<ExternalNetwork<RESNET34>>()
            .with::<ExternalNetwork<RESNET50>>()
            .with::<ExternalNetwork<RESNET101>>()
            .with::<ExternalNetwork<CONVNEXT_ATTO>>()
            .with::<ExternalNetwork<CONVNEXT_TINY>>()
            .with::<ExternalNetwork<CONVNEXT_SMALL>>()
            .with::<ExternalNetwork<CONVNEXT_BASE>>()
            .with::<ExternalNetwork<CONVNEXT_LARGE>>()
    }

    /// Registers `B`. [`Backbones::check`] reports a name that is registered twice.
    #[must_use]
    pub fn with<B: BackboneKind>(self) -> Self {
        Self(self.0.with(B::NAME, Arc::new(Typed::<B>(PhantomData))))
    }

    /// # Errors
    /// A name was registered twice.
    pub fn check(&self) -> std::result::Result<(), ConfigError> {
        self.0.check()
    }

    /// Names in order of registration.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.names()
    }

    /// The JSON schema of `[options]` of every backbone, by name.
    pub fn option_schemas(&self) -> impl Iterator<Item = (&'static str, Schema)> {
        self.0.iter().map(|(name, kind)| (name, kind.schema()))
    }

    /// Checks `config`: the keys that all backbones have, and those of its own backbone.
    ///
    /// # Errors
    /// An unknown backbone, or a message that names the key.
    pub fn check_model(&self, config: &ModelConfig) -> std::result::Result<(), ConfigError> {
        let fail = |message| ConfigError::new(format!("backbone `{}`", config.backbone), message);
        let kind = self.0.get(&config.backbone)?;
        config.check().map_err(fail)?;
        kind.check(config)
    }

    /// `config` with all defaults of its options written out, so that it describes the model completely.
    ///
    /// # Errors
    /// An unknown backbone, or options that it does not have.
    pub fn completed(&self, config: &ModelConfig) -> std::result::Result<ModelConfig, ConfigError> {
        let options = self.0.get(&config.backbone)?.completed(config)?;
        Ok(ModelConfig { options, ..config.clone() })
    }

    /// Whether the backbone of `config` can be trained. A backbone that cannot be trained is built from weights.
    ///
    /// # Errors
    /// An unknown backbone.
    pub fn trainable(&self, config: &ModelConfig) -> std::result::Result<bool, ConfigError> {
        Ok(self.0.get(&config.backbone)?.trainable())
    }

    /// How files of initial weights are read into the backbone of `config`.
    ///
    /// # Errors
    /// An unknown backbone.
    pub fn weight_matching(&self, config: &ModelConfig) -> std::result::Result<WeightMatching, ConfigError> {
        Ok(self.0.get(&config.backbone)?.weight_matching())
    }

    /// Builds the backbone that `config` describes; see [`BackboneKind::build`].
    ///
    /// # Errors
    /// The errors of [`Backbones::check_model`], or a backbone that cannot be built for this usage.
    pub fn build(
        &self,
        config: &ModelConfig,
        usage: BackboneUsage,
        vb: VarBuilder<'static>,
        weights: Option<&[(String, Tensor)]>,
    ) -> Result<Box<dyn Backbone>> {
        self.check_model(config).map_err(Error::wrap)?;
        let backbone =
            self.0.get(&config.backbone).map_err(Error::wrap)?.build(config, usage, vb, weights)?;
        let expected = BackboneSpec { width: config.width, depth: config.depth, patch: config.patch };
        if *backbone.spec() != expected {
            candle_core::bail!(
                "backbone `{}` has the sizes {:?}, but its model file has {expected:?}",
                config.backbone,
                backbone.spec()
            );
        }
        Ok(backbone)
    }

    /// Names and shapes of the parameters of the backbone that `config` describes, with its final norm.
    ///
    /// # Errors
    /// A backbone that is built from weights; otherwise the errors of [`Backbones::build`].
    pub fn parameters(&self, config: &ModelConfig) -> Result<Vec<(String, Shape)>> {
        let usage = BackboneUsage { final_norm: true, ..BackboneUsage::default() };
        parameter_shapes(|vb| self.build(config, usage, vb, None))
    }

    /// Number of values of all parameters, with class token, registers, positions and final norm for a ViT.
    ///
    /// # Errors
    /// The errors of [`Backbones::parameters`].
    pub fn parameter_count(&self, config: &ModelConfig) -> Result<usize> {
        Ok(self.parameters(config)?.iter().map(|(_, shape)| shape.elem_count()).sum())
    }

    /// Billions of multiply-accumulate operations of a forward pass for one image; `None` if the backbone does not say.
    ///
    /// # Errors
    /// An unknown backbone, or options that it does not have.
    pub fn gmacs(&self, config: &ModelConfig) -> std::result::Result<Option<f64>, ConfigError> {
        self.0.get(&config.backbone)?.gmacs(config)
    }
}

/// [`BackboneKind`] without its type.
trait RegisteredBackbone: Send + Sync {
    fn trainable(&self) -> bool;
    fn weight_matching(&self) -> WeightMatching;
    fn schema(&self) -> Schema;
    fn check(&self, config: &ModelConfig) -> std::result::Result<(), ConfigError>;
    fn completed(&self, config: &ModelConfig) -> std::result::Result<toml::Table, ConfigError>;
    fn gmacs(&self, config: &ModelConfig) -> std::result::Result<Option<f64>, ConfigError>;
    fn build(
        &self,
        config: &ModelConfig,
        usage: BackboneUsage,
        vb: VarBuilder<'static>,
        weights: Option<&[(String, Tensor)]>,
    ) -> Result<Box<dyn Backbone>>;
}

struct Typed<B>(PhantomData<fn() -> B>);

impl<B: BackboneKind> Typed<B> {
    fn options(config: &ModelConfig) -> std::result::Result<B::Options, ConfigError> {
        parse_table(config.options.clone(), format!("[options] of backbone `{}`", B::NAME))
    }
}

impl<B: BackboneKind> RegisteredBackbone for Typed<B> {
    fn trainable(&self) -> bool {
        B::TRAINABLE
    }

    fn weight_matching(&self) -> WeightMatching {
        B::weight_matching()
    }

    fn schema(&self) -> Schema {
        schema_for!(B::Options)
    }

    fn check(&self, config: &ModelConfig) -> std::result::Result<(), ConfigError> {
        let checked = B::check(config, &Self::options(config)?);
        checked.map_err(|message| ConfigError::new(format!("backbone `{}`", B::NAME), message))
    }

    fn completed(&self, config: &ModelConfig) -> std::result::Result<toml::Table, ConfigError> {
        toml::Table::try_from(Self::options(config)?)
            .map_err(|error| ConfigError::new(format!("[options] of backbone `{}`", B::NAME), error))
    }

    fn gmacs(&self, config: &ModelConfig) -> std::result::Result<Option<f64>, ConfigError> {
        Ok(B::gmacs(config, &Self::options(config)?))
    }

    fn build(
        &self,
        config: &ModelConfig,
        usage: BackboneUsage,
        vb: VarBuilder<'static>,
        weights: Option<&[(String, Tensor)]>,
    ) -> Result<Box<dyn Backbone>> {
        let options = Self::options(config).map_err(Error::wrap)?;
        if weights.is_none() && !B::TRAINABLE {
            candle_core::bail!("backbone `{}` is built from a file of weights", B::NAME);
        }
        if usage.attention.is_some() && !B::ATTENTION {
            candle_core::bail!("backbone `{}` does not support `[transfer.attention]`", B::NAME);
        }
        B::build(config, &options, usage, vb, weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AttentionConfig;
    use crate::models::Features;
    use crate::nn::{Linear, Params, Pass};
    use crate::ops;
    use candle_core::{DType, Device};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    /// One linear map of the mean colour of each patch, as another crate would write it.
    struct PatchMean {
        spec: BackboneSpec,
        map: Linear,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct PatchMeanOptions {
        #[serde(default)]
        squared: bool,
    }

    impl Backbone for PatchMean {
        fn spec(&self) -> &BackboneSpec {
            &self.spec
        }

        fn forward(&self, images: &Tensor, taps: &[usize], _: &mut Pass) -> Result<Features> {
            let (_, _, h, w) = images.dims4()?;
            let grid = (h / self.spec.patch, w / self.spec.patch);
            let means = ops::adaptive_avg_pool2d(images, grid)?; // [B, C, h, w]
            let tokens = self.map.forward(&means.flatten_from(2)?.transpose(1, 2)?.contiguous()?)?;
            Ok(Features { taps: vec![tokens; taps.len()], cls: None, grid })
        }

        fn layer_of(&self, _: &str) -> usize {
            1
        }
    }

    impl BackboneKind for PatchMean {
        const NAME: &'static str = "patch_mean";
        type Options = PatchMeanOptions;

        fn check(config: &ModelConfig, _: &Self::Options) -> std::result::Result<(), String> {
            if config.depth != 1 { Err(format!("depth is {}, expected 1", config.depth)) } else { Ok(()) }
        }

        fn build(
            config: &ModelConfig,
            _: &Self::Options,
            _: BackboneUsage,
            vb: VarBuilder<'static>,
            _: Option<&[(String, Tensor)]>,
        ) -> Result<Box<dyn Backbone>> {
            let ModelConfig { width, depth, patch, channels, .. } = *config;
            let spec = BackboneSpec { width, depth, patch };
            Ok(Box::new(Self { spec, map: Linear::new(channels, width, vb.pp("map"))? }))
        }
    }

    fn model(more: &str) -> ModelConfig {
        let sizes = "image = [8, 12]\npatch = 4\nwidth = 6\ndepth = 1\n";
        toml::from_str(&format!("{sizes}{more}")).unwrap()
    }

    #[test]
    fn a_backbone_of_another_crate_is_built_by_name() -> Result<()> {
        let backbones = Backbones::builtin().with::<PatchMean>();
        backbones.check().unwrap();
        let config = model("backbone = \"patch_mean\"");
        let params = Params::new(0, &Device::Cpu);
        let backbone = backbones.build(&config, BackboneUsage::default(), params.builder(), None)?;
        let images = Tensor::ones((2, 3, 8, 12), DType::F32, &Device::Cpu)?;
        let features = backbone.forward(&images, &[0], &mut Pass::Eval)?;
        assert_eq!((features.taps[0].dims(), features.map(0)?.dims()), (&[2, 6, 6][..], &[2, 6, 2, 3][..]));
        assert_eq!(backbones.parameter_count(&config)?, 3 * 6 + 6);
        assert_eq!(backbones.gmacs(&config).unwrap(), None);
        assert!(backbones.trainable(&config).unwrap());
        let windows =
            BackboneUsage { attention: Some(AttentionConfig::default()), ..BackboneUsage::default() };
        let error = backbones.build(&config, windows, Params::new(0, &Device::Cpu).builder(), None).err();
        assert!(error.unwrap().to_string().contains("does not support `[transfer.attention]`"));
        let text = toml::to_string(&backbones.completed(&config).unwrap()).unwrap();
        assert!(text.ends_with("[options]\nsquared = false\n"), "{text}");
        assert!(
            backbones
                .option_schemas()
                .any(|(name, schema)| name == "patch_mean"
                    && schema.as_value().to_string().contains("squared"))
        );
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let backbones = Backbones::builtin().with::<PatchMean>();
        let fails = |more: &str| backbones.check_model(&model(more)).unwrap_err().to_string();
        let error = fails("backbone = \"patch_maen\"");
        assert!(error.contains("did you mean `patch_mean`?"), "{error}");
        let error = fails("backbone = \"patch_mean\"\noptions = { cubed = true }");
        assert!(error.contains("[options] of backbone `patch_mean`") && error.contains("`cubed`"), "{error}");
        let error = fails("backbone = \"patch_mean\"\nheads = 2");
        assert!(error.contains("`heads` is a key of"), "{error}");
        assert!(fails("heads = 4").contains("width 6 is not a multiple of heads 4"));
        assert!(fails("heads = 3\noptions = { a = 1 }").contains("`a`"));
        let error = backbones.with::<PatchMean>().check().unwrap_err().to_string();
        assert!(error.starts_with("backbone `patch_mean`: is registered twice"), "{error}");
    }
}
