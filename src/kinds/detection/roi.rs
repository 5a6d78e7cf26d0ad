//! Regions of interest: sampling of proposals for training, and their features (arXiv:1506.01497; RoIAlign of
//! arXiv:1703.06870 on the levels of arXiv:1612.03144; detectron2 `modeling/roi_heads`, `modeling/poolers.py`).

use super::matcher::{Match, Matcher};
use super::sampler::{Sampled, Sampler};
use crate::data::Xyxy;
use crate::ops;
use crate::rng::Rng;
use candle_core::{Device, Result, Tensor};

/// A region of interest: a box, and the object that it matches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Roi {
    /// Index of its image in the batch.
    pub image: usize,
    pub bounds: Xyxy<f32>,
    /// Index of the object that it matches; `None` for background.
    pub object: Option<u32>,
}

/// Samples from the `proposals` of an image and its objects.
pub(super) fn sample(
    image: usize,
    mut proposals: Vec<Xyxy<f32>>,
    objects: &[Xyxy<f32>],
    sampler: Sampler,
    rng: &mut Rng,
) -> Vec<Roi> {
    proposals.extend(objects);
    let matches = Matcher::ROI.run(&proposals, objects);
    let Sampled { positive, negative } = sampler.draw(&matches, rng);
    let roi = |&i: &usize| {
        let object = match matches[i] {
            Match::Object(object) => Some(object),
            _ => None,
        };
        Roi { image, bounds: proposals[i], object }
    };
    positive.iter().chain(&negative).map(roi).collect()
}

/// Pools the features of regions from the levels of a pyramid.
#[derive(Clone, Debug)]
pub(super) struct Pooler {
    /// Strides of the levels in input pixels, finest level first.
    pub strides: Vec<f32>,
    /// Side of a box that belongs to the third level: 224 at stride 16.
    pub canonical: f32,
}

impl Pooler {
    /// The level of a box: one coarser for every doubling of its side.
    pub(crate) fn level(&self, bounds: Xyxy<f32>) -> usize {
        let level = 2. + (ops::area(bounds).max(0.).sqrt() / self.canonical + 1e-8).log2();
        (level.floor().max(0.) as usize).min(self.strides.len() - 1)
    }

    /// Sorts boxes by level, as [`Pooler::pool`] requires.
    pub(crate) fn sort(&self, rois: &mut [Roi]) {
        rois.sort_by_key(|roi| self.level(roi.bounds));
    }

    /// Features of `rois`, in their order. `levels` [B, C, h, w] -> [R, C, side, side]
    pub(crate) fn pool(&self, levels: &[Tensor], rois: &[Roi], side: usize) -> Result<Tensor> {
        let mut parts = vec![];
        for (i, (x, &stride)) in levels.iter().zip(&self.strides).enumerate() {
            let of_level = rois.iter().filter(|roi| self.level(roi.bounds) == i);
            let rows: Vec<f32> = of_level
                .flat_map(|Roi { image, bounds: [x1, y1, x2, y2], .. }| [*image as f32, *x1, *y1, *x2, *y2])
                .collect();
            if rows.is_empty() && !(rois.is_empty() && i == 0) {
                continue;
            }
            // In host memory, where they are checked.
            let rows = Tensor::from_slice(&rows, (rows.len() / 5, 5), &Device::Cpu)?;
            parts.push(ops::roi_align(x, &rows, (side, side), 1. / f64::from(stride), 0)?);
        }
        match &parts[..] {
            [part] => Ok(part.clone()),
            _ => Tensor::cat(&parts, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOLER: fn() -> Pooler = || Pooler { strides: vec![4., 8., 16., 32.], canonical: 224. };

    #[test]
    fn levels_follow_the_side_of_a_box() {
        let level = |w: f32, h: f32| POOLER().level([10., 10., 10. + w, 10. + h]);
        assert_eq!(
            [level(224., 224.), level(223., 223.), level(112., 112.), level(111., 111.)],
            [2, 1, 1, 0]
        );
        assert_eq!([level(1., 1.), level(448., 448.), level(5000., 5000.), level(0., 0.)], [0, 3, 3, 0]);
        assert_eq!(level(448., 112.), 2, "by area");
        // Sides of less than a pixel, as of a pyramid in units of patches.
        let fine = Pooler { canonical: 1., ..POOLER() };
        assert_eq!([0.2, 0.3, 0.6, 1.2].map(|side| fine.level([0., 0., side, side])), [0, 0, 1, 2]);
    }

    #[test]
    fn objects_are_among_the_regions_and_shares_are_kept() {
        let objects = [[0., 0., 10., 10.], [50., 50., 60., 70.]];
        let proposals =
            vec![[0., 0., 9., 10.], [30., 30., 40., 40.], [51., 50., 60., 70.], [80., 80., 99., 99.]];
        let draw = |count, positive_fraction| {
            let sampler = Sampler { count, positive_fraction };
            sample(1, proposals.clone(), &objects, sampler, &mut Rng::new(0, "test", &[]))
        };
        let all = draw(8, 1.);
        let found: Vec<(Xyxy<f32>, Option<u32>)> = all.iter().map(|roi| (roi.bounds, roi.object)).collect();
        let expected = [
            (proposals[0], Some(0)),
            (proposals[2], Some(1)),
            (objects[0], Some(0)),
            (objects[1], Some(1)),
            (proposals[1], None),
            (proposals[3], None),
        ];
        assert_eq!(found, expected);
        let few = draw(4, 0.25);
        assert_eq!(few.iter().filter(|roi| roi.object.is_some()).count(), 1);
        assert_eq!(few.len(), 3, "one object, and all background there is");
        let none = sample(
            0,
            vec![],
            &[],
            Sampler { count: 4, positive_fraction: 0.25 },
            &mut Rng::new(0, "test", &[]),
        );
        assert!(none.is_empty());
    }

    #[test]
    fn features_come_in_the_order_of_the_regions() -> Result<()> {
        use candle_core::Device;
        let pooler = POOLER();
        let levels: Vec<Tensor> = (0..4)
            .map(|i| Tensor::full(i as f32, (2, 3, 64 >> i, 64 >> i), &Device::Cpu))
            .collect::<Result<_>>()?;
        let roi = |image, side: f32| Roi { image, bounds: [4., 4., 4. + side, 4. + side], object: None };
        let mut rois = [roi(1, 230.), roi(0, 20.), roi(0, 120.), roi(1, 30.)];
        pooler.sort(&mut rois);
        let features = pooler.pool(&levels, &rois, 2)?;
        assert_eq!(features.dims(), [4, 3, 2, 2]);
        let values: Vec<f32> = features.flatten_from(1)?.mean(1)?.to_vec1()?;
        assert_eq!(values, [0., 0., 1., 2.]);
        assert_eq!(rois.map(|roi| roi.image), [0, 1, 0, 1]);
        assert_eq!(pooler.pool(&levels, &[], 2)?.dims(), [0, 3, 2, 2]);
        Ok(())
    }
}
