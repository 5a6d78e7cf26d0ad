//! Backbones of candle-transformers, frozen: what a linear probe or k-NN compares a ViT with.
//!
//! They give one vector per image, the mean over the last map, after the final norm where there is one: a grid of 1 × 1,
//! which is of no use to a detector. They are built from the tensors of a file, never from scratch.

use super::{Backbone, BackboneSpec, Features};
use crate::config::{Foreign, ModelConfig};
use crate::nn::{LayerNorm, Params, Pass};
use candle_core::{DType, Device, Module, Result, Shape, Tensor};
use candle_nn::{Func, Init, VarBuilder, var_builder::SimpleBackend};
use candle_transformers::models::{convnext, resnet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// ε of ConvNeXt's norms.
const EPS: f64 = 1e-6;

/// What a file may hold beyond the features: classifiers, and counters of batch norms.
const LEFT_OUT: [&str; 4] = ["fc.", "head.", "fc_norm.", "num_batches_tracked"];

struct ForeignBackbone {
    spec: BackboneSpec,
    pooled: Func<'static>,
    norm: Option<LayerNorm>,
}

impl Backbone for ForeignBackbone {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(&self, images: &Tensor, taps: &[usize], _: &mut Pass) -> Result<Features> {
        let pooled = self.pooled.forward(images)?.contiguous()?; // [B, C]
        let pooled = self.norm.as_ref().map_or(Ok(pooled.clone()), |norm| norm.forward(&pooled))?;
        let token = pooled.unsqueeze(1)?; // [B, 1, C]
        Ok(Features { taps: vec![token; taps.len()], cls: Some(pooled), grid: (1, 1) })
    }

    fn layer_of(&self, _: &str) -> usize {
        0
    }
}

/// Builds the network that `config` names from `tensors`, and leaves what it reads in `params`.
///
/// # Errors
/// A config without such a backbone or of another width; a tensor that is missing, of another shape, or unused.
pub fn foreign(
    config: &ModelConfig,
    tensors: &[(String, Tensor)],
    params: &Params,
) -> Result<Box<dyn Backbone>> {
    let Some(kind) = config.foreign else {
        candle_core::bail!("the model is not one of candle-transformers")
    };
    if (config.width, config.depth) != (kind.width(), 1) {
        candle_core::bail!("{kind:?}: width {} and depth 1 are expected in its file", kind.width());
    }
    let tensors: BTreeMap<String, Tensor> = tensors.iter().cloned().collect();
    let given = Given { params: params.clone(), tensors: Arc::new(tensors), used: Arc::default() };
    let vb = VarBuilder::from_backend(Box::new(given.clone()), DType::F32, params.device().clone());
    let norm = |vb: &VarBuilder| LayerNorm::new(kind.width(), EPS, vb.pp("head.norm")).map(Some);
    let (pooled, norm) = match kind {
        Foreign::Resnet18 => (resnet::resnet18_no_final_layer(vb)?, None),
        Foreign::Resnet34 => (resnet::resnet34_no_final_layer(vb)?, None),
        Foreign::Resnet50 => (resnet::resnet50_no_final_layer(vb)?, None),
        Foreign::Resnet101 => (resnet::resnet101_no_final_layer(vb)?, None),
        Foreign::ConvnextAtto => {
            (convnext::convnext_no_final_layer(&convnext::Config::atto(), vb.clone())?, norm(&vb)?)
        }
        Foreign::ConvnextTiny => {
            (convnext::convnext_no_final_layer(&convnext::Config::tiny(), vb.clone())?, norm(&vb)?)
        }
        Foreign::ConvnextSmall => {
            (convnext::convnext_no_final_layer(&convnext::Config::small(), vb.clone())?, norm(&vb)?)
        }
        Foreign::ConvnextBase => {
            (convnext::convnext_no_final_layer(&convnext::Config::base(), vb.clone())?, norm(&vb)?)
        }
        Foreign::ConvnextLarge => {
            (convnext::convnext_no_final_layer(&convnext::Config::large(), vb.clone())?, norm(&vb)?)
        }
    };
    let unused = given.unused();
    if !unused.is_empty() {
        candle_core::bail!("{kind:?} has no place for `{}`", unused.join("`, `"));
    }
    let spec = BackboneSpec { width: config.width, depth: config.depth, patch: config.patch };
    Ok(Box::new(ForeignBackbone { spec, pooled, norm }))
}

/// Tensors of a file, which become parameters when they are asked for.
#[derive(Clone)]
struct Given {
    params: Params,
    tensors: Arc<BTreeMap<String, Tensor>>,
    used: Arc<Mutex<BTreeSet<String>>>,
}

impl Given {
    fn unused(&self) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |name: &str| LEFT_OUT.iter().any(|part| name.starts_with(part) || name.ends_with(part));
        let unused = self.tensors.keys().filter(|name| !used.contains(*name) && !known(name));
        unused.cloned().collect()
    }
}

impl SimpleBackend for Given {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> Result<Tensor> {
        let Some(tensor) = self.tensors.get(name) else { candle_core::bail!("the weights lack `{name}`") };
        if *tensor.shape() != shape {
            candle_core::bail!(
                "`{name}` has shape {:?} in the weights and {shape:?} in the model",
                tensor.shape()
            );
        }
        self.params.builder().get_with_hints(shape, name, Init::Const(0.))?;
        let Some(parameter) = self.params.get(name) else { candle_core::bail!("no parameter `{name}`") };
        parameter.var.set(&tensor.to_dtype(DType::F32)?.to_device(self.params.device())?)?;
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        Ok(parameter.var.as_tensor().detach()) // shares the values, and no gradient comes this way
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(tensor) = self.tensors.get(name) else { candle_core::bail!("the weights lack `{name}`") };
        self.get(tensor.shape().clone(), name, Init::Const(0.), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::safetensors;

    /// The values that `scripts/golden/foreign.py` gives the tensor that is the `k`-th by name.
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

    fn config(kind: Foreign) -> ModelConfig {
        let text = format!(
            "image = [64, 64]\npatch = 32\nwidth = {}\ndepth = 1\nheads = 1\nforeign = {}",
            kind.width(),
            serde_json::to_string(&kind).unwrap()
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn features_are_those_of_torchvision_and_timm() -> Result<()> {
        let path = format!("{}/tests/golden/foreign.safetensors", env!("CARGO_MANIFEST_DIR"));
        let golden = safetensors::load(&path, &Device::Cpu)?;
        for (name, kind) in [
            ("resnet18", Foreign::Resnet18),
            ("resnet50", Foreign::Resnet50),
            ("convnext_atto", Foreign::ConvnextAtto),
        ] {
            let shapes = std::fs::read_to_string(path.replace(".safetensors", ".json")).unwrap();
            let shapes: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
                serde_json::from_str(&shapes).unwrap();
            let shapes = shapes[name].iter().enumerate();
            let tensors: Vec<_> =
                shapes.map(|(k, (name, shape))| (name.clone(), fill(k, name, shape))).collect();
            let params = Params::new(0, &Device::Cpu);
            let backbone = foreign(&config(kind), &tensors, &params)?;
            let found = backbone.forward(&fill(0, "x.weight", &[2, 3, 64, 64]), &[0], &mut Pass::Eval)?;
            let (cls, expected) = (found.cls.unwrap(), &golden[name]);
            let scale = expected.abs()?.max_all()?.to_scalar::<f32>()?;
            let error = (&cls - expected)?.abs()?.max_all()?.to_scalar::<f32>()? / scale;
            assert!(error < 1e-4, "{name}: {error}");
            assert_eq!(found.taps[0].squeeze(1)?.to_vec2::<f32>()?, cls.to_vec2::<f32>()?);
            assert!(params.get("fc.weight").is_none() && params.all().len() > 50);
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let params = || Params::new(0, &Device::Cpu);
        let fails = |tensors: &[(String, Tensor)]| {
            foreign(&config(Foreign::Resnet18), tensors, &params()).err().unwrap().to_string()
        };
        assert!(fails(&[]).contains("the weights lack `conv1.weight`"));
        let wrong = [("conv1.weight".to_string(), fill(0, "x.weight", &[64, 3, 3, 3]))];
        let error = fails(&wrong);
        assert!(error.contains("`conv1.weight` has shape [64, 3, 3, 3]"), "{error}");
        let narrow = ModelConfig { width: 8, ..config(Foreign::Resnet18) };
        assert!(foreign(&narrow, &[], &params()).err().unwrap().to_string().contains("width 512"));
    }
}
