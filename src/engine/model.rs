//! [`TaskModel`]: a backbone with the head of a task, which a transfer run trains, evaluates and uses to
//! predict.

use super::RunInputs;
use crate::config::{Transfer, Tune};
use crate::data::Batch;
use crate::models::{Backbone, BackboneSpec, BackboneUsage};
use crate::nn::{Losses, Params, Pass};
use crate::pretrain::Objective;
use crate::task::{Head, Task};
use crate::weights::{WeightFile, refuse_not_finite};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::sync::Arc;

/// A task, with a head for it on a backbone.
pub struct TaskModel<T: Task> {
    /// The task of the head.
    pub task: Arc<T>,
    /// The encoder.
    pub backbone: Box<dyn Backbone>,
    /// The head, which maps features to predictions.
    pub head: T::Head,
}

impl<T: Task> Objective for TaskModel<T> {
    type Target = T::Target;

    fn losses(&self, batch: &Batch<T::Target>, pass: &mut Pass) -> candle_core::Result<Losses> {
        let features = self.backbone.forward(&batch.images, self.head.taps(), pass)?;
        self.head.loss(&features, batch, pass)
    }

    fn layer_of(&self, parameter: &str) -> usize {
        self.backbone.layer_of(parameter)
    }
}

impl RunInputs<'_> {
    /// `[transfer]` of the recipe.
    pub(super) fn transfer(&self) -> Result<&Transfer> {
        let transfer = self.config.recipe.transfer.as_ref();
        transfer.with_context(|| format!("recipe `{}` has no `[transfer]`", self.config.run.recipe))
    }
}

impl<T: Task> TaskModel<T> {
    /// Builds the model and its parameters; `transfer.tune` decides which parameters are trained. The head is
    /// built first, so that a head that uses the name of a backbone parameter is an error. `weights` are the
    /// weights from which a frozen backbone is built.
    ///
    /// # Errors
    /// A recipe that does not fit the model, a head that does not fit the backbone.
    pub fn build(task: &Arc<T>, run: &RunInputs, weights: Option<&Path>) -> Result<(Params, Self)> {
        let (config, transfer) = (&run.config.model, run.transfer()?);
        let (tune, depth) = (transfer.tune, config.depth);
        if let Tune::Blocks(k) = tune {
            ensure!(
                k <= depth as f64,
                "transfer.tune: {k} blocks, but model `{}` has {depth}",
                run.config.run.model
            );
        }
        let params = run.params();
        // The specification does not depend on parameters: it is known before the backbone is built.
        let spec = BackboneSpec { width: config.width, depth, patch: config.patch };
        let head = task.head(&spec, params.builder())?;
        let of_head: Vec<String> = params.all().into_iter().map(|p| p.name).collect();
        let frozen = match tune {
            Tune::All => 0,
            Tune::Head => depth,
            Tune::Blocks(k) => depth - k.ceil() as usize,
        };
        let usage = BackboneUsage {
            drop_path: run.config.recipe.drop_path,
            final_norm: head.reads_cls(),
            frozen,
            taps: head.taps().to_vec(),
            attention: transfer.attention.clone(),
            pretrains: false,
        };
        let backbones = &run.components.backbones;
        let backbone = if backbones.trainable(config)? {
            backbones.build(config, usage, params.builder(), None)?
        } else {
            let name = &config.backbone;
            let path = weights
                .with_context(|| format!("{name} is not trainable here; pass its weights with --init"))?;
            let tensors = WeightFile::open(path)?.read(run.device)?;
            let unfit = || format!("weights `{}` do not fit {name}", path.display());
            refuse_not_finite(&tensors).with_context(unfit)?;
            backbones.build(config, usage, params.builder(), Some(&tensors)).with_context(unfit)?
        };
        params.set_trainable(|name| {
            of_head.iter().any(|head| head == name) || tuned(tune, name, backbone.layer_of(name), depth)
        });
        Ok((params, Self { task: task.clone(), backbone, head }))
    }
}

/// Whether `tune` trains a parameter of the backbone. Layers are those of [`Backbone::layer_of`]. Half a block
/// is the MLP of the last block (arXiv:2111.06377 §4.3). The paper does not say whether `norm2` is part of it;
/// here it is. All blocks are the whole backbone with its embeddings: the last point of the paper's Figure 9 is full
/// fine-tuning.
fn tuned(tune: Tune, name: &str, layer: usize, depth: usize) -> bool {
    match tune {
        Tune::All => true,
        Tune::Head => false,
        Tune::Blocks(0.) => false,
        Tune::Blocks(k) if k < 1. => {
            layer > depth || (layer == depth && (name.contains(".mlp.") || name.contains(".norm2.")))
        }
        Tune::Blocks(k) => k as usize == depth || layer + k as usize > depth,
    }
}
