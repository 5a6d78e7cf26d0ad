//! Non-maximum suppression. No gradient flows to the boxes.

use super::simd::{Kernel, vectorized};
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;
use std::cmp::Ordering;

/// Non-maximum suppression, as torchvision's `nms`: goes through the boxes by decreasing score and drops those whose
/// intersection over union with a kept box is above `threshold`.
///
/// `boxes` [N, 4] are (x1, y1, x2, y2), `scores` `[N]`; computed in f32. -> u32 `[K]`, the kept boxes by
/// decreasing score. Boxes of equal score keep their order; NaN comes first, as in PyTorch. Two boxes
/// without area do not suppress each other.
pub fn nms(boxes: &Tensor, scores: &Tensor, threshold: f64) -> Result<Tensor> {
    let boxes = Boxes::new("nms", boxes, scores)?;
    boxes.kept(vec![(0..boxes.scores.len()).collect()], threshold)
}

/// [`nms`] for each class separately. `classes` u32 `[N]` -> u32 `[K]`, the kept boxes of all classes by
/// decreasing score. Boxes are not shifted to separate the classes, so coordinates keep their precision.
pub fn batched_nms(boxes: &Tensor, scores: &Tensor, classes: &Tensor, threshold: f64) -> Result<Tensor> {
    let held = Boxes::new("batched_nms", boxes, scores)?;
    if classes.dims() != scores.dims() || classes.dtype() != DType::U32 {
        let (boxes, dtype, classes) = (boxes.shape(), classes.dtype(), classes.shape());
        bail!("batched_nms: boxes {boxes:?}, classes {dtype:?} {classes:?}; expected u32 [N]");
    }
    let mut groups = std::collections::BTreeMap::<u32, Vec<usize>>::new();
    for (i, class) in classes.to_vec1::<u32>()?.into_iter().enumerate() {
        groups.entry(class).or_default().push(i);
    }
    held.kept(groups.into_values().collect(), threshold)
}

/// Area of a box x1, y1, x2, y2.
#[inline(always)]
pub fn area([x1, y1, x2, y2]: [f32; 4]) -> f32 {
    (x2 - x1) * (y2 - y1)
}

/// Intersection over union of two boxes x1, y1, x2, y2 whose areas are known. NaN for two boxes without area, and
/// where a coordinate is NaN.
#[inline(always)]
pub fn iou([x1, y1, x2, y2]: [f32; 4], area: f32, other: [f32; 4], other_area: f32) -> f32 {
    let width = least(x2, other[2]) - greatest(x1, other[0]);
    let height = least(y2, other[3]) - greatest(y1, other[1]);
    let shared = greatest(0., width) * greatest(0., height);
    shared / (area + other_area - shared)
}

/// Boxes on the host.
struct Boxes {
    /// x1, y1, x2, y2.
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    device: Device,
}

impl Boxes {
    fn new(name: &str, boxes: &Tensor, scores: &Tensor) -> Result<Self> {
        if boxes.rank() != 2 || boxes.dim(1)? != 4 || scores.dims() != [boxes.dim(0)?] {
            bail!("{name}: boxes {:?}, scores {:?}; expected [N, 4] and [N]", boxes.shape(), scores.shape());
        }
        let values = boxes.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let (boxes, _) = values.as_chunks::<4>();
        let device = scores.device().clone();
        Ok(Self { boxes: boxes.to_vec(), scores: scores.to_dtype(DType::F32)?.to_vec1()?, device })
    }

    /// Applies suppression within each group.
    fn kept(&self, groups: Vec<Vec<usize>>, threshold: f64) -> Result<Tensor> {
        if threshold.is_nan() {
            bail!("nms: the threshold is not a number");
        }
        let survivors = groups.into_par_iter().map(|mut group| {
            group.sort_by(|&a, &b| self.order(a, b));
            vectorized(Suppress {
                columns: &self.columns(&group),
                threshold: at_most(threshold),
                group: &group,
            })
        });
        let mut kept: Vec<usize> = survivors.collect::<Vec<_>>().concat();
        kept.sort_by(|&a, &b| self.order(a, b));
        let kept: Vec<u32> = kept.into_iter().map(|i| i as u32).collect();
        let count = kept.len();
        Tensor::from_vec(kept, count, &self.device)
    }

    /// Orders by decreasing score, NaN first, then by position.
    fn order(&self, a: usize, b: usize) -> Ordering {
        let (left, right) = (self.scores[a], self.scores[b]);
        let by_score = right.partial_cmp(&left).unwrap_or_else(|| right.is_nan().cmp(&left.is_nan()));
        by_score.then(a.cmp(&b))
    }

    /// x1, y1, x2, y2 and area of the boxes of a group, each in a column.
    fn columns(&self, group: &[usize]) -> [Vec<f32>; 5] {
        let coordinate = |k: usize| group.iter().map(|&i| self.boxes[i][k]).collect();
        let areas = group.iter().map(|&i| area(self.boxes[i])).collect();
        [coordinate(0), coordinate(1), coordinate(2), coordinate(3), areas]
    }
}

/// The largest f32 that is at most `threshold`: an f32 is above one when it is above the other.
fn at_most(threshold: f64) -> f32 {
    let nearest = threshold as f32;
    if f64::from(nearest) > threshold { nearest.next_down() } else { nearest }
}

/// The survivors of a group in the order of its columns.
struct Suppress<'a> {
    columns: &'a [Vec<f32>; 5],
    threshold: f32,
    group: &'a [usize],
}

impl Kernel for Suppress<'_> {
    type Output = Vec<usize>;

    #[inline(always)]
    fn run(self) -> Vec<usize> {
        let count = self.group.len();
        let [x1, y1, x2, y2, areas] = self.columns.each_ref().map(|column| &column[..count]);
        let (mut dropped, mut kept) = (vec![0u32; count], Vec::new());
        for i in 0..count {
            if dropped[i] != 0 {
                continue;
            }
            kept.push(self.group[i]);
            let (kept_box, area) = ([x1[i], y1[i], x2[i], y2[i]], areas[i]);
            let later = dropped[i + 1..].iter_mut().zip(&areas[i + 1..]);
            let corners = x1[i + 1..].iter().zip(&y1[i + 1..]).zip(x2[i + 1..].iter().zip(&y2[i + 1..]));
            for ((dropped, &other), ((&x1, &y1), (&x2, &y2))) in later.zip(corners) {
                let overlap = iou(kept_box, area, [x1, y1, x2, y2], other);
                *dropped |= u32::from(overlap > self.threshold);
            }
        }
        kept
    }
}

/// `f32::min` without the handling of NaN, which would cost an extra vector instruction.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

#[inline(always)]
fn greatest(a: f32, b: f32) -> f32 {
    if a < b { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<T: candle_core::NdArray>(values: T) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn kept<const N: usize>(boxes: [[f32; 4]; N], scores: [f32; N], threshold: f64) -> Vec<u32> {
        nms(&tensor(&boxes), &tensor(&scores), threshold).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn boxes_above_the_threshold_are_dropped() {
        let boxes = [[0., 0., 2., 1.], [0., 0., 1., 1.], [5., 5., 6., 6.]]; // the first two: exactly 0.5
        assert_eq!(kept(boxes, [0.1, 0.9, 0.5], 0.5), [1, 2, 0]);
        assert_eq!(kept(boxes, [0.1, 0.9, 0.5], 0.499), [1, 2]);
        assert_eq!(kept(boxes, [0.1, 0.9, 0.5], -1.), [1]);
    }

    #[test]
    fn equal_scores_keep_their_order_and_nan_comes_first() {
        let same = [[0., 0., 1., 1.]; 3];
        assert_eq!(kept(same, [0.5, 0.5, 0.5], 0.5), [0]);
        let apart = [[0., 0., 1., 1.], [2., 0., 3., 1.], [4., 0., 5., 1.], [6., 0., 7., 1.]];
        assert_eq!(kept(apart, [0.5, f32::NAN, 0.5, f32::INFINITY], 0.5), [1, 3, 0, 2]);
        assert_eq!(kept(apart, [0., -0., 0., -0.], 0.5), [0, 1, 2, 3]);
    }

    #[test]
    fn boxes_without_area_stay() {
        assert_eq!(kept([[1., 1., 1., 1.]; 2], [0.5, 0.6], 0.5), [1, 0]);
        assert!(kept([], [], 0.5).is_empty());
    }

    #[test]
    fn classes_do_not_suppress_each_other() {
        let (boxes, scores) = (tensor(&[[0f32, 0., 1., 1.]; 4]), tensor(&[0.1f32, 0.2, 0.3, 0.4]));
        let classes = tensor(&[7u32, 1, 7, 1]);
        let found = batched_nms(&boxes, &scores, &classes, 0.5).unwrap();
        assert_eq!(found.to_vec1::<u32>().unwrap(), [3, 2]);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let (boxes, scores) = (tensor(&[[0f32; 4]; 2]), tensor(&[0f32; 3]));
        assert!(nms(&boxes, &scores, 0.5).unwrap_err().to_string().contains("boxes [2, 4], scores [3]"));
        let two = scores.narrow(0, 0, 2).unwrap();
        assert!(batched_nms(&boxes, &two, &two, 0.5).unwrap_err().to_string().contains("F32 [2]"));
    }
}
