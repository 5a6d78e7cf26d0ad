//! Features of a frozen backbone, computed once: a linear probe without its augmentation. This differs from the
//! protocol of the paper and has its own label; it saves time when the backbone dominates.

use super::batches::{Batches, Source};
use super::observer::Event;
use super::{RunInputs, TaskModel};
use crate::data::loader::{Loaded, Loader};
use crate::data::{Batch, Geometric, SampleId, SourceTransform};
use crate::models::Features;
use crate::nn::{Losses, Pass};
use crate::ops::no_grad;
use crate::pretrain::Objective;
use crate::rng::Rng;
use crate::task::{Head, Task};
use anyhow::{Result, ensure};
use candle_core::Tensor;
use rand::seq::SliceRandom;

/// The layout of [`Features`] in one tensor [R, C] per image: the taps one after the other, then the class
/// token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    taps: usize,
    cls: bool,
    grid: (usize, usize),
}

impl Layout {
    /// -> [B, R, C]
    fn pack(self, features: &Features) -> candle_core::Result<Tensor> {
        let mut parts = features.taps.clone();
        if self.cls {
            parts.extend(features.cls.as_ref().map(|cls| cls.unsqueeze(1)).transpose()?);
        }
        Tensor::cat(&parts, 1)
    }

    fn unpack(self, packed: &Tensor) -> candle_core::Result<Features> {
        let patches = self.grid.0 * self.grid.1;
        let taps =
            (0..self.taps).map(|i| packed.narrow(1, i * patches, patches)).collect::<Result<_, _>>()?;
        let cls = match self.cls {
            true => Some(packed.narrow(1, self.taps * patches, 1)?.squeeze(1)?.contiguous()?),
            false => None,
        };
        Ok(Features { taps, cls, grid: self.grid })
    }
}

/// All features of a split, in memory.
pub(super) struct CachedFeatures<T> {
    layout: Layout,
    /// [n, R, C]
    features: Tensor,
    ids: Vec<SampleId>,
    source_transforms: Vec<SourceTransform>,
    targets: Vec<T>,
    seed: u64,
    batch: usize,
}

impl<T: Geometric + Clone + Send + Sync + 'static> CachedFeatures<T> {
    pub fn compute<K: Task<Target = T>>(
        model: &TaskModel<K>,
        loader: &Loader<T>,
        batch: usize,
        run: &RunInputs,
    ) -> Result<Self> {
        let mut layout = None;
        let (mut parts, mut ids, mut source_transforms, mut targets) = (vec![], vec![], vec![], vec![]);
        let total = run.splits.train.len();
        for loaded in loader.epoch(0, 0) {
            let batch = loaded?.batch;
            let forward = || model.backbone.forward(&batch.images, model.head.taps(), &mut Pass::Eval);
            let features = no_grad(forward)?;
            let layout = layout.insert(Layout {
                taps: features.taps.len(),
                cls: model.head.reads_cls(),
                grid: features.grid,
            });
            parts.push(layout.pack(&features)?.detach());
            ids.extend(batch.ids);
            source_transforms.extend(batch.source_transforms);
            targets.extend(batch.targets);
            run.control.tell(Event::Evaluating { done: ids.len(), total });
            ensure!(!run.control.stopped(), "stopped after {} of {total} images", ids.len());
        }
        let Some(layout) = layout else { anyhow::bail!("the training split is empty") };
        let features = Tensor::cat(&parts, 0)?;
        Ok(Self { layout, features, ids, source_transforms, targets, seed: run.config.run.seed, batch })
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    fn gather(&self, rows: &[u32]) -> candle_core::Result<Batch<T>> {
        let pick = |i: &u32| *i as usize;
        let index = Tensor::new(rows, self.features.device())?;
        Ok(Batch {
            ids: rows.iter().map(|i| self.ids[pick(i)].clone()).collect(),
            images: self.features.index_select(&index, 0)?,
            views: vec![],
            source_transforms: rows.iter().map(|i| self.source_transforms[pick(i)]).collect(),
            targets: rows.iter().map(|i| self.targets[pick(i)].clone()).collect(),
        })
    }
}

impl<T: Geometric + Clone + Send + Sync + 'static> Source<T> for CachedFeatures<T> {
    fn epoch(&self, epoch: u64, start: usize) -> Batches<'_, T> {
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.shuffle(&mut Rng::new(self.seed, "shuffle", &[epoch]));
        let batches = order.len() / self.batch;
        Box::new((start..batches).map(move |i| {
            let batch = self.gather(&order[i * self.batch..(i + 1) * self.batch])?;
            Ok(Loaded { batch, skipped: vec![] })
        }))
    }
}

/// A head on precomputed features: `images` of its batches are packed features.
pub(super) struct OnFeatures<'a, H> {
    pub head: &'a H,
    pub layout: Layout,
}

impl<H: Head> Objective for OnFeatures<'_, H> {
    type Target = H::Target;

    fn losses(&self, batch: &Batch<H::Target>, pass: &mut Pass) -> candle_core::Result<Losses> {
        self.head.loss(&self.layout.unpack(&batch.images)?, batch, pass)
    }

    /// Only the head learns, and it is the last layer.
    fn layer_of(&self, _: &str) -> usize {
        usize::MAX
    }
}
