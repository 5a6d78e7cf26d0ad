//! Kind `classification`: one label per image, scored by top-1 and top-5 accuracy.
//!
//! Protocols of arXiv:2111.06377: end-to-end and partial fine-tuning (§4, A.1; mean of the patch tokens, `fc_norm`,
//! linear), linear probe (A.1; class token, BatchNorm without affine, linear), and k-NN on frozen features. What is
//! frozen is determined by `transfer.tune` of the recipe, not by this kind.

mod config;
mod head;
mod knn;
mod output;
mod report;
mod target;

pub use config::{ClassificationHeadConfig, ClassificationOptions, Classifier};
pub use head::ClassificationHead;
pub use target::ClassTarget;

use crate::config::Pool;
use crate::data::augment::mix_batch;
use crate::data::{Annotation, Batch, DatasetInfo, Entry, Image, SampleId};
use crate::draw::Drawing;
use crate::metrics::accuracy::Accuracy;
use crate::metrics::classification::{ClassificationReport, ScoreKind};
use crate::metrics::{Findings, Metric, MetricError};
use crate::models::BackboneSpec;
use crate::record::{ScoreSpec, Scores};
use crate::rng::Rng;
use crate::task::{DrawOptions, PredictionIo, PredictionWriter, Task};
use anyhow::{Result, bail, ensure};
use candle_nn::VarBuilder;
use std::path::Path;
use std::sync::Arc;

/// A classification task.
#[derive(Clone, Debug)]
pub struct ClassificationTask {
    pool: Pool,
    config: ClassificationHeadConfig,
    classes: Vec<String>,
}

impl Task for ClassificationTask {
    const KIND: &'static str = "classification";
    type Options = ClassificationOptions;
    type HeadConfig = ClassificationHeadConfig;
    type Target = ClassTarget;
    type Prediction = Vec<f32>;
    type Head = ClassificationHead;

    fn new(
        options: ClassificationOptions,
        config: ClassificationHeadConfig,
        dataset: &DatasetInfo,
    ) -> Result<Self> {
        let classes = dataset.classes.clone();
        ensure!(
            classes.len() > 1,
            "data set `{}` has {}, but at least 2 classes are needed",
            dataset.name,
            match classes.len() {
                0 => "no classes",
                _ => "1 class",
            }
        );
        let smoothing = config.label_smoothing;
        ensure!(
            (0. ..1.).contains(&smoothing),
            "label_smoothing is {smoothing}, expected 0 ≤ label_smoothing < 1"
        );
        ensure!(config.neighbours > 0, "neighbours is 0, expected at least 1");
        ensure!(config.temperature > 0., "temperature is {}, expected > 0", config.temperature);
        Ok(Self { pool: config.pool.unwrap_or(options.pool), config, classes })
    }

    fn scores(&self) -> &[ScoreSpec] {
        Accuracy::specs(self.classes.len())
    }

    fn target(&self, entry: &Entry) -> Result<ClassTarget> {
        match &entry.annotation {
            Annotation::Label(label) if (*label as usize) < self.classes.len() => {
                Ok(ClassTarget::Label(*label))
            }
            Annotation::Label(label) => {
                bail!("label {label} of `{}` is out of range for {} classes", entry.id, self.classes.len())
            }
            _ => bail!("`{}` has no class label, which classification needs", entry.id),
        }
    }

    fn head(&self, backbone: &BackboneSpec, params: VarBuilder) -> candle_core::Result<ClassificationHead> {
        ClassificationHead::new(backbone, self.pool, &self.config, self.classes.len(), params)
    }

    fn metric(&self) -> Box<dyn Metric<Target = ClassTarget, Prediction = Vec<f32>>> {
        Box::new(LabelMetric {
            accuracy: Accuracy::new(self.classes.len()),
            report: ClassificationReport::new(&self.classes, self.score_kind()),
        })
    }

    fn fits(&self) -> bool {
        self.score_kind() == ScoreKind::Votes
    }

    fn least_batch(&self) -> usize {
        match self.config.classifier {
            Classifier::Probe => 2,
            Classifier::Linear | Classifier::Knn => 1,
        }
    }

    fn usual_protocol(&self) -> &'static str {
        "eval = [{ op = \"resize_short\", crop_ratio = 0.875 }, { op = \"center_crop\" }]"
    }

    fn mix(&self, batch: &mut Batch<ClassTarget>, rng: &mut Rng) -> candle_core::Result<()> {
        let Some(mix) = &self.config.mix else { return Ok(()) };
        let labels: Vec<u32> = batch.targets.iter().map(ClassTarget::label).collect();
        let smoothing = self.config.label_smoothing;
        let (images, targets) = mix_batch(&batch.images, &labels, self.classes.len(), smoothing, mix, rng)?;
        batch.images = images;
        batch.targets = targets.to_vec2()?.into_iter().map(ClassTarget::Soft).collect();
        Ok(())
    }

    fn prediction_io(&self) -> Option<&dyn PredictionIo<Prediction = Vec<f32>>> {
        Some(self)
    }

    fn perfect(&self, target: &ClassTarget) -> Vec<f32> {
        target.distribution(self.classes.len(), 0.)
    }
}

impl PredictionIo for ClassificationTask {
    type Prediction = Vec<f32>;

    fn draw(&self, image: &Image, scores: &Vec<f32>, _: &DrawOptions) -> Result<Option<Drawing>> {
        output::draw(image, scores, self.score_kind(), &self.classes).map(Some)
    }

    fn writer(&self, folder: &Path) -> Option<Box<dyn PredictionWriter<Prediction = Vec<f32>>>> {
        Some(Box::new(output::LabelWriter::new(folder, &self.classes, self.score_kind())))
    }
}

impl ClassificationTask {
    fn score_kind(&self) -> ScoreKind {
        match self.config.classifier {
            Classifier::Knn => ScoreKind::Votes,
            Classifier::Linear | Classifier::Probe => ScoreKind::Logits,
        }
    }
}

/// [`Accuracy`] and [`ClassificationReport`] for the targets of this kind.
struct LabelMetric {
    accuracy: Accuracy,
    report: ClassificationReport,
}

impl Metric for LabelMetric {
    type Target = ClassTarget;
    type Prediction = Vec<f32>;

    fn update(
        &mut self,
        id: &SampleId,
        prediction: Vec<f32>,
        target: &ClassTarget,
    ) -> Result<(), MetricError> {
        let label = target.label();
        self.report.add(id, &prediction, label as usize);
        self.accuracy.update(id, prediction, &label)
    }

    fn finish(self: Box<Self>) -> Result<Scores, MetricError> {
        Box::new(self.accuracy).finish()
    }

    fn finish_in_full(self: Box<Self>) -> Result<Findings, MetricError> {
        let Self { accuracy, report } = *self;
        let scores = Box::new(accuracy).finish()?;
        Ok(Findings { scores, by_class: report.by_class(), report: Some(Arc::new(report)) })
    }
}

#[cfg(test)]
mod tests;
