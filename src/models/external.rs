//! Networks of candle-transformers as frozen backbones, for comparing a ViT with them by linear probes and k-NN.
//!
//! They give one vector per image: the mean over the last map, after the final norm if there is one. The grid is 1 × 1,
//! so that detection and segmentation cannot use them. They are built from the tensors of a file and are never trained
//! here, because some operators of candle have no reliable gradient. Names of tensors are those of timm, which ResNet
//! shares with torchvision.

use super::{Backbone, BackboneKind, BackboneSpec, BackboneUsage, Features, NoOptions};
use crate::config::ModelConfig;
use crate::nn::{LayerNorm, Pass};
use candle_core::{DType, Device, Module, Result, Shape, Tensor};
use candle_nn::{Func, Init, VarBuilder, var_builder::SimpleBackend};
use candle_transformers::models::{convnext, resnet};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// ε of ConvNeXt's norms.
const EPS: f64 = 1e-6;

/// Tensors that a file may hold beyond those of the features: classifiers, and counters of batch norms.
const LEFT_OUT: [&str; 4] = ["fc.", "head.", "fc_norm.", "num_batches_tracked"];

/// An architecture of candle-transformers.
struct Architecture {
    name: &'static str,
    /// Channels of the pooled features.
    width: usize,
    /// Builds the network up to its pooled features.
    build: fn(VarBuilder<'static>) -> Result<Func<'static>>,
    /// Whether a layer norm `head.norm` follows the pooling.
    norm: bool,
}

/// ResNet-18 (arXiv:1512.03385).
pub const RESNET18: usize = 0;
/// ResNet-34 (arXiv:1512.03385).
pub const RESNET34: usize = 1;
/// ResNet-50 (arXiv:1512.03385).
pub const RESNET50: usize = 2;
/// ResNet-101 (arXiv:1512.03385).
pub const RESNET101: usize = 3;
/// ConvNeXt-Atto, a small variant of timm of arXiv:2201.03545.
pub const CONVNEXT_ATTO: usize = 4;
/// ConvNeXt-T (arXiv:2201.03545).
pub const CONVNEXT_TINY: usize = 5;
/// ConvNeXt-S (arXiv:2201.03545).
pub const CONVNEXT_SMALL: usize = 6;
/// ConvNeXt-B (arXiv:2201.03545).
pub const CONVNEXT_BASE: usize = 7;
/// ConvNeXt-L (arXiv:2201.03545).
pub const CONVNEXT_LARGE: usize = 8;

/// Architectures by the constants above.
const ARCHITECTURES: [Architecture; 9] = [
    resnet("resnet18", 512, resnet::resnet18_no_final_layer),
    resnet("resnet34", 512, resnet::resnet34_no_final_layer),
    resnet("resnet50", 2048, resnet::resnet50_no_final_layer),
    resnet("resnet101", 2048, resnet::resnet101_no_final_layer),
    convnext("convnext_atto", 320, |vb| convnext::convnext_no_final_layer(&convnext::Config::atto(), vb)),
    convnext("convnext_tiny", 768, |vb| convnext::convnext_no_final_layer(&convnext::Config::tiny(), vb)),
    convnext("convnext_small", 768, |vb| convnext::convnext_no_final_layer(&convnext::Config::small(), vb)),
    convnext("convnext_base", 1024, |vb| convnext::convnext_no_final_layer(&convnext::Config::base(), vb)),
    convnext("convnext_large", 1536, |vb| convnext::convnext_no_final_layer(&convnext::Config::large(), vb)),
];

const fn resnet(
    name: &'static str,
    width: usize,
    build: fn(VarBuilder<'static>) -> Result<Func<'static>>,
) -> Architecture {
    Architecture { name, width, build, norm: false }
}

const fn convnext(
    name: &'static str,
    width: usize,
    build: fn(VarBuilder<'static>) -> Result<Func<'static>>,
) -> Architecture {
    Architecture { name, width, build, norm: true }
}

/// The network of candle-transformers with number `N`: one of the constants of this module, such as [`RESNET50`].
pub struct ExternalNetwork<const N: usize> {
    spec: BackboneSpec,
    pooled: Func<'static>,
    norm: Option<LayerNorm>,
}

impl<const N: usize> ExternalNetwork<N> {
    /// Pooled features [B, C] of `images` [B, 3, H, W]. On the CPU every image is a task of its own, because the program
    /// leaves candle's own operators one thread.
    fn pool(&self, images: &Tensor) -> Result<Tensor> {
        let count = images.dim(0)?;
        if !images.device().is_cpu() || count == 0 {
            return self.pooled.forward(images)?.contiguous();
        }
        let features = (0..count).into_par_iter().map(|i| self.pooled.forward(&images.narrow(0, i, 1)?));
        Tensor::cat(&features.collect::<Result<Vec<_>>>()?, 0)
    }
}

impl<const N: usize> Backbone for ExternalNetwork<N> {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(&self, images: &Tensor, taps: &[usize], _: &mut Pass) -> Result<Features> {
        let pooled = self.pool(images)?; // [B, C]
        let pooled = self.norm.as_ref().map_or(Ok(pooled.clone()), |norm| norm.forward(&pooled))?;
        let token = pooled.unsqueeze(1)?; // [B, 1, C]
        Ok(Features { taps: vec![token; taps.len()], cls: Some(pooled), grid: (1, 1) })
    }

    fn layer_of(&self, _: &str) -> usize {
        0
    }
}

impl<const N: usize> BackboneKind for ExternalNetwork<N> {
    const NAME: &'static str = ARCHITECTURES[N].name;
    const TRAINABLE: bool = false;
    type Options = NoOptions;

    fn check(config: &ModelConfig, _: &NoOptions) -> std::result::Result<(), String> {
        let width = ARCHITECTURES[N].width;
        match (config.width, config.depth) == (width, 1) {
            true => Ok(()),
            false => Err(format!("expected width {width} and depth 1 in its file")),
        }
    }

    fn build(
        config: &ModelConfig,
        _: &NoOptions,
        usage: BackboneUsage,
        vb: VarBuilder<'static>,
        weights: Option<&[(String, Tensor)]>,
    ) -> Result<Box<dyn Backbone>> {
        let Architecture { name, width, build, norm } = ARCHITECTURES[N];
        if usage.taps.len() > 1 {
            candle_core::bail!("{name} gives one vector per image, but this head reads maps");
        }
        let tensors = weights.unwrap_or_default().iter().cloned().collect();
        let given = FileTensors { params: vb.clone(), tensors: Arc::new(tensors), used: Arc::default() };
        let vb = VarBuilder::from_backend(Box::new(given.clone()), DType::F32, vb.device().clone());
        let norm = norm.then(|| LayerNorm::new(width, EPS, vb.pp("head.norm"))).transpose()?;
        let pooled = build(vb)?;
        let unused = given.unused();
        if !unused.is_empty() {
            candle_core::bail!("{name} has no parameter `{}`", unused.join("`, `"));
        }
        let spec = BackboneSpec { width: config.width, depth: config.depth, patch: config.patch };
        Ok(Box::new(Self { spec, pooled, norm }))
    }
}

/// The tensors of a file, which become parameters when they are requested.
#[derive(Clone)]
struct FileTensors {
    /// Creates the parameters.
    params: VarBuilder<'static>,
    tensors: Arc<BTreeMap<String, Tensor>>,
    used: Arc<Mutex<BTreeSet<String>>>,
}

impl FileTensors {
    fn unused(&self) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |name: &str| LEFT_OUT.iter().any(|part| name.starts_with(part) || name.ends_with(part));
        let unused = self.tensors.keys().filter(|name| !used.contains(*name) && !known(name));
        unused.cloned().collect()
    }

    fn find(&self, name: &str) -> Result<&Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("the weights lack `{name}`"),
        }
    }
}

impl SimpleBackend for FileTensors {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> Result<Tensor> {
        let tensor = self.find(name)?;
        if *tensor.shape() != shape {
            candle_core::bail!(
                "`{name}` has shape {:?} in the weights and {shape:?} in the model",
                tensor.shape()
            );
        }
        let parameter = self.params.get_with_hints(shape, name, Init::Const(0.))?.detach();
        let values = tensor.to_dtype(DType::F32)?.to_device(parameter.device())?.contiguous()?;
        parameter.slice_set(&values, 0, 0)?;
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        Ok(parameter) // shares the values of the parameter, and no gradient reaches it
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.get(self.find(name)?.shape().clone(), name, Init::Const(0.), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Backbones;
    use crate::nn::Params;
    use crate::nn::test_tolerance;
    use candle_core::safetensors;

    /// The values that `scripts/golden/external.py` gives the tensor that is the `k`-th by name.
    fn fill(k: usize, name: &str, shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        let fan_in: usize = shape[1..].iter().product::<usize>().max(1);
        let value = |i: usize| {
            let wave = (((i * 7919) % 10007) as f64 * 0.1 + k as f64).sin();
            match name.rsplit('.').next().unwrap() {
                "running_var" => 1. + 0.5 * wave,
                "weight" if shape.len() > 1 => wave * (2. / fan_in as f64).sqrt(),
                "weight" => 1. + 0.1 * wave,
                "gamma" => 0.5 + 0.1 * wave,
                _ => 0.1 * wave,
            }
        };
        Tensor::from_vec((0..count).map(|i| value(i) as f32).collect(), shape, &Device::Cpu).unwrap()
    }

    fn config<const N: usize>() -> ModelConfig {
        let Architecture { name, width, .. } = ARCHITECTURES[N];
        let text = format!("image = [64, 64]\npatch = 32\nwidth = {width}\ndepth = 1\nbackbone = \"{name}\"");
        toml::from_str(&text).unwrap()
    }

    fn build(
        config: &ModelConfig,
        tensors: &[(String, Tensor)],
        params: &Params,
    ) -> Result<Box<dyn Backbone>> {
        let usage = BackboneUsage { taps: vec![0], ..BackboneUsage::default() };
        Backbones::builtin().build(config, usage, params.builder(), Some(tensors))
    }

    fn agrees<const N: usize>() -> Result<()> {
        let path = format!("{}/../tests/golden/external.safetensors", env!("CARGO_MANIFEST_DIR"));
        let golden = safetensors::load(&path, &Device::Cpu)?;
        let name = ARCHITECTURES[N].name;
        let shapes = std::fs::read_to_string(path.replace(".safetensors", ".json")).unwrap();
        let shapes: BTreeMap<String, BTreeMap<String, Vec<usize>>> = serde_json::from_str(&shapes).unwrap();
        let shapes = shapes[name].iter().enumerate();
        let tensors: Vec<_> = shapes.map(|(k, (name, shape))| (name.clone(), fill(k, name, shape))).collect();
        let params = Params::new(0, &Device::Cpu);
        let backbone = build(&config::<N>(), &tensors, &params)?;
        let found = backbone.forward(&fill(0, "x.weight", &[2, 3, 64, 64]), &[0], &mut Pass::Eval)?;
        let cls = found.cls.unwrap();
        let error = test_tolerance::relative(&cls, &golden[name]);
        assert!(error < 1e-4, "{name}: {error}");
        assert_eq!(found.taps[0].squeeze(1)?.to_vec2::<f32>()?, cls.to_vec2::<f32>()?);
        assert!(params.get("fc.weight").is_none() && params.all().len() > 50);
        Ok(())
    }

    #[test]
    fn features_are_those_of_torchvision_and_timm() -> Result<()> {
        agrees::<RESNET18>()?;
        agrees::<RESNET50>()?;
        agrees::<CONVNEXT_ATTO>()
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let params = || Params::new(0, &Device::Cpu);
        let config = config::<RESNET18>();
        let fails =
            |tensors: &[(String, Tensor)]| build(&config, tensors, &params()).err().unwrap().to_string();
        assert!(fails(&[]).contains("the weights lack `conv1.weight`"));
        let wrong = [("conv1.weight".to_string(), fill(0, "x.weight", &[64, 3, 3, 3]))];
        let error = fails(&wrong);
        assert!(error.contains("`conv1.weight` has shape [64, 3, 3, 3]"), "{error}");
        let narrow = ModelConfig { width: 8, ..config.clone() };
        let error = build(&narrow, &[], &params()).err().unwrap().to_string();
        assert!(error.contains("width 512"), "{error}");
        let maps = BackboneUsage { taps: vec![0; 4], ..BackboneUsage::default() };
        let built = Backbones::builtin().build(&config, maps, params().builder(), Some(&[]));
        assert!(built.err().unwrap().to_string().contains("this head reads maps"));
        let built = Backbones::builtin().build(&config, BackboneUsage::default(), params().builder(), None);
        assert!(built.err().unwrap().to_string().contains("is built from a file of weights"));
    }
}
