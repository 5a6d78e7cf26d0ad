//! Pooling and classifier. Parameter names are those of facebookresearch/mae: `fc_norm.*`, `head.*`, and `head.0`,
//! `head.1` for the linear probe.

use super::config::{ClassificationHeadConfig, Classifier};
use super::knn::Neighbours;
use super::target::ClassTarget;
use crate::config::Pool;
use crate::data::{Batch, SourceTransform};
use crate::models::{BackboneSpec, Features};
use crate::nn::{BatchNorm, LayerNorm, Linear, Losses, Pass};
use crate::ops;
use crate::task::Head;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// ε of `fc_norm` and of the probe's BatchNorm.
const EPS: f64 = 1e-6;

/// Computes one score per class from the features of a backbone.
pub struct ClassificationHead {
    taps: Vec<usize>,
    classes: usize,
    label_smoothing: f64,
    classifier: Layers,
}

enum Layers {
    Linear { norm: Option<LayerNorm>, linear: Linear },
    Probe { norm: BatchNorm, linear: Linear },
    Neighbours(Neighbours),
}

impl ClassificationHead {
    pub(super) fn new(
        backbone: &BackboneSpec,
        pool: Pool,
        config: &ClassificationHeadConfig,
        classes: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let width = backbone.width;
        let linear = |vb| Linear::with_std(width, classes, config.init_std, vb);
        let classifier = match config.classifier {
            Classifier::Linear => Layers::Linear {
                norm: match pool {
                    Pool::Mean => Some(LayerNorm::new(width, EPS, vb.pp("fc_norm"))?),
                    Pool::Cls => None,
                },
                linear: linear(vb.pp("head"))?,
            },
            Classifier::Probe => Layers::Probe {
                norm: BatchNorm::new(width, EPS, false, vb.pp("head.0"))?,
                linear: linear(vb.pp("head.1"))?,
            },
            Classifier::Knn => {
                Layers::Neighbours(Neighbours::new(config.neighbours, config.temperature, classes))
            }
        };
        let taps = match pool {
            Pool::Mean => vec![backbone.depth - 1],
            Pool::Cls => vec![],
        };
        Ok(Self { taps, classes, label_smoothing: config.label_smoothing, classifier })
    }

    /// One vector per image. [B, C]
    fn pooled(&self, features: &Features) -> Result<Tensor> {
        match (features.taps.first(), &features.cls) {
            (Some(tokens), _) => tokens.mean(1),
            (None, Some(cls)) => Ok(cls.clone()),
            (None, None) => candle_core::bail!("classification: the backbone has no class token"),
        }
    }

    /// One score per class. [B, K]
    fn logits(&self, features: &Features, pass: &mut Pass) -> Result<Tensor> {
        let x = self.pooled(features)?;
        match &self.classifier {
            Layers::Linear { norm: Some(norm), linear } => linear.forward(&norm.forward(&x)?),
            Layers::Linear { norm: None, linear } => linear.forward(&x),
            Layers::Probe { norm, linear } => linear.forward(&norm.forward(&x, pass)?),
            Layers::Neighbours(neighbours) => neighbours.vote(&x),
        }
    }
}

impl Head for ClassificationHead {
    type Target = ClassTarget;
    type Prediction = Vec<f32>;

    fn taps(&self) -> &[usize] {
        &self.taps
    }

    fn reads_cls(&self) -> bool {
        self.taps.is_empty()
    }

    fn loss(&self, features: &Features, batch: &Batch<ClassTarget>, pass: &mut Pass) -> Result<Losses> {
        let logits = self.logits(features, pass)?;
        let row = |target: &ClassTarget| target.distribution(self.classes, self.label_smoothing);
        let targets: Vec<f32> = batch.targets.iter().flat_map(row).collect();
        let targets = Tensor::from_vec(targets, (batch.len(), self.classes), logits.device())?;
        Ok(Losses::of("cross_entropy", ops::softmax_cross_entropy(&logits, &targets)?))
    }

    fn fits(&self) -> bool {
        matches!(self.classifier, Layers::Neighbours(_))
    }

    fn fit(&mut self, features: &Features, batch: &Batch<ClassTarget>) -> Result<()> {
        let x = self.pooled(features)?;
        match &mut self.classifier {
            Layers::Neighbours(neighbours) => {
                neighbours.add(&x, batch.targets.iter().map(ClassTarget::label))
            }
            _ => Ok(()),
        }
    }

    fn predict(&self, features: &Features, _: &[SourceTransform]) -> Result<Vec<Vec<f32>>> {
        self.logits(features, &mut Pass::Eval)?.to_vec2()
    }
}
