//! The metric of detection, and perfect detections.

use super::target::DetectionTarget;
use crate::data::{DatasetInfo, Object, SampleId, xyxy};
use crate::metrics::coco::{CocoScorer, Detection, Protocol};
use crate::metrics::{Findings, Metric, MetricError};
use crate::record::Scores;

/// The scores of COCO and LVIS for the targets of this kind.
pub(super) struct CocoMetric(CocoScorer);

impl CocoMetric {
    /// A metric for the classes of `info`; with `masks`, masks are scored in addition to boxes.
    pub(crate) fn new(info: &DatasetInfo, protocol: Protocol, masks: bool) -> Self {
        Self(CocoScorer::new(info, protocol, masks))
    }
}

impl Metric for CocoMetric {
    type Target = DetectionTarget;
    type Prediction = Vec<Detection>;

    fn update(
        &mut self,
        id: &SampleId,
        prediction: Vec<Detection>,
        target: &DetectionTarget,
    ) -> Result<(), MetricError> {
        self.0.update(id, &prediction, target.image())
    }

    fn finish(self: Box<Self>) -> Result<Scores, MetricError> {
        Ok(self.0.finish()?.0)
    }

    fn finish_in_full(self: Box<Self>) -> Result<Findings, MetricError> {
        let (scores, by_class) = self.0.finish()?;
        Ok(Findings { scores, by_class, report: None })
    }
}

/// The annotated objects as detections with score 1, without crowds, which need not be detected.
pub(super) fn perfect_detections(target: &DetectionTarget) -> Vec<Detection> {
    let size = target.image().size;
    let objects = target.source().iter().filter(|object| !object.crowd);
    let detection = |object: &Object| Detection {
        label: object.label,
        score: 1.,
        bbox: xyxy(object.bbox).map(|v| v as f32),
        mask: object.mask(size).ok().flatten(),
        written: None,
    };
    objects.map(detection).collect()
}
