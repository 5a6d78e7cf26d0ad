//! Which patches the encoder sees: random, block-wise and grid-wise masks (MAE, arXiv:2111.06377, Table 1f).
//!
//! Block-wise is BEiT's generator (unilm `masking_generator.py`): blocks of at least 16 patches of a
//! 14×14 grid, the same share of other grids, aspect 0.3–1/0.3, 10 attempts per block. It may end short of the
//! ratio; here the rest is drawn at random, so that every sample of a batch keeps the same number.

use crate::data::SampleId;
use crate::rng::Rng;
use candle_core::{Device, Result, Tensor};
use rand::{Rng as _, seq::SliceRandom};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the removed patches are chosen (arXiv:2111.06377, Table 1f).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskKind {
    /// Uniformly at random.
    #[default]
    Random,
    /// BEiT's block-wise generator.
    Block,
    /// Keeps one fixed patch of each cell.
    Grid,
}

/// The kept patches of every sample, all of the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchMask {
    patches: usize,
    keep: Vec<Vec<u32>>,
}

impl PatchMask {
    /// `keep[b]` contains the ids of the kept patches of sample b out of `patches`, in the order in which the encoder
    /// reads them.
    ///
    /// # Errors
    /// Samples that keep different numbers of patches or none; an id that occurs twice or is out of range.
    pub fn new(patches: usize, keep: Vec<Vec<u32>>) -> Result<Self> {
        let kept = keep.first().map_or(0, Vec::len);
        for (sample, ids) in keep.iter().enumerate() {
            if ids.is_empty() || ids.len() != kept {
                candle_core::bail!(
                    "mask: sample {sample} keeps {} patches, sample 0 keeps {kept}",
                    ids.len()
                );
            }
            let mut seen = vec![false; patches];
            for id in ids {
                match seen.get_mut(*id as usize) {
                    Some(seen) if !*seen => *seen = true,
                    Some(_) => candle_core::bail!("mask: sample {sample} keeps patch {id} twice"),
                    None => candle_core::bail!("mask: sample {sample} keeps patch {id} of {patches}"),
                }
            }
        }
        Ok(Self { patches, keep })
    }

    /// MAE's random mask: the `kept` patches with the lowest `noise` of each sample, in ascending order of noise.
    pub fn from_noise(noise: &[Vec<f32>], kept: usize) -> Result<Self> {
        let patches = noise.first().map_or(0, Vec::len);
        if let Some(row) = noise.iter().find(|row| row.len() != patches || row.len() < kept) {
            candle_core::bail!("mask: {} noise values, expected {patches}, at least {kept}", row.len());
        }
        Self::new(patches, noise.iter().map(|row| lowest(row, kept)).collect())
    }

    /// Number of samples.
    pub fn batch(&self) -> usize {
        self.keep.len()
    }
    /// Patches of one sample, kept or not.
    pub fn patches(&self) -> usize {
        self.patches
    }
    /// Kept patches of one sample.
    pub fn kept(&self) -> usize {
        self.keep.first().map_or(0, Vec::len)
    }
    /// Kept patch ids by sample.
    pub fn keep(&self) -> &[Vec<u32>] {
        &self.keep
    }

    /// 1 where a patch is removed, 0 where it is kept. [B, L]
    pub fn removed(&self, device: &Device) -> Result<Tensor> {
        let mut removed = vec![1f32; self.batch() * self.patches];
        for row in self.kept_rows() {
            removed[row as usize] = 0.;
        }
        Tensor::from_vec(removed, (self.batch(), self.patches), device)
    }

    /// Rows of the kept patches in a flattened [B·L] list, in encoder order. [B·K]
    pub fn kept_rows(&self) -> Vec<u32> {
        let row = |sample: usize, id: &u32| (sample * self.patches) as u32 + id;
        self.keep
            .iter()
            .enumerate()
            .flat_map(|(sample, ids)| ids.iter().map(move |id| row(sample, id)))
            .collect()
    }

    /// The ids of all patches of every sample. [B·L]
    pub fn all_patches(&self) -> Vec<u32> {
        (0..self.batch()).flat_map(|_| 0..self.patches as u32).collect()
    }

    /// The rows of a flattened [B·L] list.
    pub fn all_rows(&self) -> Vec<u32> {
        (0..(self.batch() * self.patches) as u32).collect()
    }

    /// Rows of the removed patches in a flattened [B·L] list, ascending. [B·(L − K)]
    pub fn removed_rows(&self) -> Vec<u32> {
        let mut kept = vec![false; self.batch() * self.patches];
        self.kept_rows().into_iter().for_each(|row| kept[row as usize] = true);
        (0..).zip(kept).filter(|(_, kept)| !kept).map(|(row, _)| row).collect()
    }

    /// For every patch of a flattened [B·L] list its row among the kept ones [B·K], or B·K when removed.
    pub fn restore_rows(&self) -> Vec<u32> {
        let kept = self.kept_rows();
        let mut restore = vec![kept.len() as u32; self.batch() * self.patches];
        for (position, row) in kept.iter().enumerate() {
            restore[*row as usize] = position as u32;
        }
        restore
    }
}

/// Draws masks of one kind, ratio and grid.
#[derive(Clone, Debug)]
pub struct MaskSampler {
    kind: MaskKind,
    grid: (usize, usize),
    kept: usize,
}

/// A mask ratio that a sampler cannot produce.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    /// A ratio that keeps or removes no patch.
    #[error(
        "mask_ratio {ratio} keeps {kept} of {patches} patches; at least one must be kept and one removed"
    )]
    Count {
        /// The requested share.
        ratio: f64,
        /// Patches that it keeps.
        kept: usize,
        /// Number of all patches.
        patches: usize,
    },
    /// A ratio that no grid mask has.
    #[error("grid mask: mask_ratio {ratio} is not 1 − 1/k²; the nearest are {below:.4} and {above:.4}")]
    Ratio {
        /// The requested share.
        ratio: f64,
        /// The nearest share below that works.
        below: f64,
        /// The nearest share above that works.
        above: f64,
    },
    /// A grid of patches that cells do not cover evenly.
    #[error("grid mask: a grid of {}×{} patches cannot be divided into {cell}×{cell} cells", grid.0, grid.1)]
    Cells {
        /// Patches per column and row.
        grid: (usize, usize),
        /// Side of a cell in patches.
        cell: usize,
    },
}

impl MaskSampler {
    /// Keeps int(L·(1 − `ratio`)) of the L patches of `grid`.
    pub fn new(kind: MaskKind, ratio: f64, grid: (usize, usize)) -> std::result::Result<Self, MaskError> {
        let patches = grid.0 * grid.1;
        let mut kept = (patches as f64 * (1. - ratio)) as usize;
        if !(0. ..1.).contains(&ratio) || kept == 0 || kept >= patches {
            return Err(MaskError::Count { ratio, kept, patches });
        }
        if kind == MaskKind::Grid {
            let cell = (1. / (1. - ratio)).sqrt().round() as usize;
            let share = |k: usize| 1. - 1. / (k.max(1) * k.max(1)) as f64;
            if (share(cell) - ratio).abs() > 1e-6 {
                let k = (1. / (1. - ratio)).sqrt() as usize;
                return Err(MaskError::Ratio { ratio, below: share(k), above: share(k + 1) });
            }
            if !grid.0.is_multiple_of(cell) || !grid.1.is_multiple_of(cell) {
                return Err(MaskError::Cells { grid, cell });
            }
            kept = patches / (cell * cell);
        }
        Ok(Self { kind, grid, kept })
    }

    /// Kept patches of one sample.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Masks of `batch` training samples.
    pub fn sample(&self, batch: usize, rng: &mut Rng) -> Result<PatchMask> {
        let patches = self.grid.0 * self.grid.1;
        if self.kind == MaskKind::Random {
            // Numbers are drawn in the order of the samples; sorting them takes most of the time.
            let noise: Vec<f32> = (0..batch * patches).map(|_| rng.random()).collect();
            let keep = noise.par_chunks(patches).map(|noise| lowest(noise, self.kept));
            return PatchMask::new(patches, keep.collect());
        }
        PatchMask::new(patches, (0..batch).map(|_| self.draw(rng)).collect())
    }

    /// Masks for evaluation: functions of the sample ids alone.
    pub fn fixed(&self, ids: &[SampleId]) -> Result<PatchMask> {
        let draw = |id: &SampleId| {
            let hash = blake3::hash(id.as_str().as_bytes());
            let words =
                hash.as_bytes().chunks_exact(8).map(|w| w.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
            self.draw(&mut Rng::new(0, "mask", &words.collect::<Vec<u64>>()))
        };
        PatchMask::new(self.grid.0 * self.grid.1, ids.iter().map(draw).collect())
    }

    /// Kept ids of one sample.
    fn draw(&self, rng: &mut Rng) -> Vec<u32> {
        let (rows, columns) = self.grid;
        match self.kind {
            MaskKind::Random => {
                let noise: Vec<f32> = (0..rows * columns).map(|_| rng.random()).collect();
                lowest(&noise, self.kept)
            }
            MaskKind::Block => {
                let removed = blocks(self.grid, rows * columns - self.kept, rng);
                let kept = removed.iter().enumerate().filter(|(_, removed)| !**removed);
                kept.map(|(id, _)| id as u32).collect()
            }
            MaskKind::Grid => {
                let cell = ((rows * columns / self.kept) as f64).sqrt().round() as usize;
                let corner =
                    |id: &usize| (id / columns).is_multiple_of(cell) && (id % columns).is_multiple_of(cell);
                (0..rows * columns).filter(corner).map(|id| id as u32).collect()
            }
        }
    }
}

/// The indices of the `count` lowest values, in ascending order of values; equal ones keep their order.
fn lowest(values: &[f32], count: usize) -> Vec<u32> {
    let mut order: Vec<(f32, u32)> = values.iter().copied().zip(0..).collect();
    let lower = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if (1..order.len()).contains(&count) {
        order.select_nth_unstable_by(count - 1, lower);
        order.truncate(count);
    }
    order.sort_unstable_by(lower);
    order.into_iter().take(count).map(|(_, id)| id).collect()
}

/// Marks exactly `budget` patches of `grid` in rectangles, then one by one where no rectangle fits.
fn blocks(grid: (usize, usize), budget: usize, rng: &mut Rng) -> Vec<bool> {
    let mut removed = rectangles(grid, budget, rng);
    let left = budget - removed.iter().filter(|removed| **removed).count();
    let mut free: Vec<usize> = (0..removed.len()).filter(|id| !removed[*id]).collect();
    free.shuffle(rng);
    free.into_iter().take(left).for_each(|id| removed[id] = true);
    removed
}

/// Marks at most `budget` patches of `grid` in rectangles, until none of 10 attempts fits.
fn rectangles(grid: (usize, usize), budget: usize, rng: &mut Rng) -> Vec<bool> {
    let (rows, columns) = grid;
    let smallest = 16. * (rows * columns) as f64 / 196.;
    let mut removed = vec![false; rows * columns];
    let mut left = budget;
    while left > 0 {
        let Some(block) = (0..10).find_map(|_| attempt(grid, &removed, smallest, left, rng)) else { break };
        left -= block.len();
        block.into_iter().for_each(|id| removed[id] = true);
    }
    removed
}

/// BEiT's masks of `batch` samples: rectangles of at most `budget` patches in all, true where a patch is masked. At
/// least one patch is masked.
pub fn block_masks(batch: usize, grid: (usize, usize), budget: usize, rng: &mut Rng) -> Vec<Vec<bool>> {
    let draw = |rng: &mut Rng| {
        let mut masked = rectangles(grid, budget, rng);
        if !masked.contains(&true) {
            let count = masked.len();
            masked[rng.random_range(0..count)] = true;
        }
        masked
    };
    (0..batch).map(|_| draw(rng)).collect()
}

/// The patches that one random rectangle adds, if it is smaller than the grid and adds 1 to `left`.
fn attempt(
    (rows, columns): (usize, usize),
    removed: &[bool],
    smallest: f64,
    left: usize,
    rng: &mut Rng,
) -> Option<Vec<usize>> {
    let area = smallest + rng.random::<f64>() * (left as f64 - smallest);
    let aspect = ((2. * rng.random::<f64>() - 1.) * 0.3f64.ln()).exp();
    // Python's rounding: halves go to the even side.
    let height = (area * aspect).sqrt().round_ties_even() as usize;
    let width = (area / aspect).sqrt().round_ties_even() as usize;
    if height >= rows || width >= columns {
        return None;
    }
    let (top, start) = (rng.random_range(0..=rows - height), rng.random_range(0..=columns - width));
    let inside = (top..top + height).flat_map(|y| (start..start + width).map(move |x| y * columns + x));
    let added: Vec<usize> = inside.filter(|id| !removed[*id]).collect();
    (1..=left).contains(&added.len()).then_some(added)
}

#[cfg(test)]
mod tests {
    use super::MaskKind as Kind;
    use super::*;

    fn golden(name: &str) -> Vec<Vec<f32>> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/mae_parts.safetensors");
        candle_core::safetensors::load(path, &Device::Cpu).unwrap()[name].to_vec2().unwrap()
    }

    /// Noise of NumPy's legacy generator and of PyTorch at seed 2, and the ids that MAE keeps of it.
    #[test]
    fn kept_patches_are_those_of_the_reference() {
        let numpy = "188 126 77 189 81 1 55 151 147 91 172 156 67 138 154 21 155 57 19 51 150 130 23 191 27 124 89 24 \
                     101 12 141 38 173 63 98 117 14 123 129 159 194 31 6 167 94 132 143 28 106";
        let torch = "82 108 20 163 128 102 140 184 67 77 41 146 70 30 174 133 9 129 176 122 137 61 155 191 152 7 169 96 \
                     156 111 125 91 98 130 160 72 31 79 97 88 114 180 149 17 166 185 170 28 27";
        for (name, ids) in [("noise.numpy", numpy), ("noise.torch", torch)] {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(PatchMask::from_noise(&golden(name), 49).unwrap().keep(), [ids], "{name}");
        }
    }

    #[test]
    fn every_sampler_keeps_exactly_its_number() {
        for (kind, ratio, grid, kept) in [
            (Kind::Random, 0.75, (14, 14), 49),
            (Kind::Random, 0.75, (16, 16), 64),
            (Kind::Random, 0.9, (14, 14), 19),
            (Kind::Random, 0.5, (3, 5), 7),
            (Kind::Block, 0.75, (14, 14), 49),
            (Kind::Block, 0.5, (14, 14), 98),
            (Kind::Block, 0.75, (4, 12), 12),
            (Kind::Block, 0.5, (1, 6), 3),
            (Kind::Grid, 0.75, (14, 14), 49),
            (Kind::Grid, 1. - 1. / 9., (6, 9), 6),
        ] {
            let sampler = MaskSampler::new(kind, ratio, grid).unwrap();
            let mask = sampler.sample(20, &mut Rng::new(0, "test", &[])).unwrap();
            assert_eq!((mask.batch(), mask.kept()), (20, kept), "{kind:?} {ratio} {grid:?}");
            let removed = mask.removed(&Device::Cpu).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert_eq!(removed as usize, 20 * (grid.0 * grid.1 - kept));
            let distinct = mask.keep().iter().collect::<std::collections::BTreeSet<_>>().len();
            assert_eq!(distinct == 1, kind == Kind::Grid, "{kind:?}: {distinct} different masks of 20");
        }
    }

    /// Rectangles leave fewer borders between kept and removed patches than single patches do.
    /// The masks of a seed stay what they are, or runs could not be made again.
    #[test]
    fn blocks_of_a_seed_are_the_same_in_every_version() {
        let masks = block_masks(3, (7, 7), 20, &mut Rng::new(1, "masks", &[]));
        let found: Vec<u64> = (masks.iter())
            .map(|mask| mask.iter().fold(0, |bits, masked| bits << 1 | u64::from(*masked)))
            .collect();
        assert_eq!(found, [0x1830_e1c3_8f0e, 0x0060_ce1f_df80, 0x0001_e3c7_8e1c_0810], "{found:#x?}");
    }

    #[test]
    fn blocks_are_blocks() {
        let borders = |kind| {
            let sampler = MaskSampler::new(kind, 0.5, (14, 14)).unwrap();
            let mask = sampler.sample(50, &mut Rng::new(1, "test", &[])).unwrap();
            let removed = mask.removed(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
            let row = |r: &Vec<f32>| (0..195).filter(|i| i % 14 != 13 && r[*i] != r[i + 1]).count();
            removed.iter().map(row).sum::<usize>() as f64 / 50.
        };
        let (block, random) = (borders(Kind::Block), borders(Kind::Random));
        assert!(block < random / 2., "{block} {random}");
    }

    /// Areas are uniform, and aspects log-uniform from 0.3 to 1/0.3 (unilm's `masking_generator.py`).
    #[test]
    fn rectangles_have_the_areas_and_aspects_of_the_reference() {
        let (mut areas, mut aspects) = (vec![], vec![]);
        for k in 0..2000 {
            let drawn = attempt((100, 100), &[false; 10_000], 400., 900, &mut Rng::new(0, "test", &[k]));
            let Some(ids) = drawn else { continue };
            let sides = |side: fn(&usize) -> usize| {
                ids.iter().map(side).collect::<std::collections::BTreeSet<_>>().len() as f64
            };
            let (height, width) = (sides(|id| id / 100), sides(|id| id % 100));
            assert_eq!(height * width, ids.len() as f64, "a whole rectangle");
            areas.push(height * width);
            aspects.push((height / width).ln());
        }
        let n = areas.len() as f64;
        let mean = areas.iter().sum::<f64>() / n;
        assert!(n > 1900. && (mean - 650.).abs() < 20., "{n} rectangles of {mean} patches");
        let limit = (1f64 / 0.3).ln();
        let tall = aspects.iter().filter(|aspect| **aspect > 0.).count() as f64;
        assert!((tall / n - 0.5).abs() < 0.06, "{tall} of {n} are taller than wide");
        // Uniform from −limit to limit: a quarter on each side is beyond half the limit.
        let extreme = aspects.iter().filter(|aspect| aspect.abs() > limit / 2.).count() as f64;
        assert!((extreme / n - 0.5).abs() < 0.06, "{extreme} of {n}");
        assert!(aspects.iter().all(|aspect| aspect.abs() < limit + 0.1));
    }

    #[test]
    fn restoring_finds_every_kept_patch() {
        let mask = PatchMask::new(4, vec![vec![2, 0], vec![1, 3]]).unwrap();
        assert_eq!(mask.kept_rows(), [2, 0, 5, 7]);
        assert_eq!(mask.restore_rows(), [1, 4, 0, 4, 4, 2, 4, 3]);
    }

    #[test]
    fn what_cannot_be_masked_is_an_error() {
        let message = |kind, ratio, grid| MaskSampler::new(kind, ratio, grid).unwrap_err().to_string();
        assert!(message(Kind::Random, 0.99, (4, 4)).contains("keeps 0 of 16"));
        assert!(message(Kind::Random, 0., (4, 4)).contains("keeps 16 of 16"));
        let error = message(Kind::Grid, 0.8, (14, 14));
        assert!(error.contains("0.7500 and 0.8889"), "{error}");
        assert!(message(Kind::Grid, 0.75, (7, 14)).contains("7×14 patches"));
        for (patches, keep, expected) in [
            (4, vec![vec![4]], "patch 4 of 4"),
            (4, vec![vec![u32::MAX]], "of 4"),
            (4, vec![vec![1, 1]], "patch 1 twice"),
            (4, vec![vec![1], vec![1, 2]], "sample 1 keeps 2 patches, sample 0 keeps 1"),
        ] {
            let error = PatchMask::new(patches, keep).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_batch_of_masks_is_that_of_samples_one_after_another() {
        for kind in [MaskKind::Random, MaskKind::Block, MaskKind::Grid] {
            let sampler = MaskSampler::new(kind, 0.75, (14, 14)).unwrap();
            let mut rng = Rng::new(3, "mask", &[]);
            let expected: Vec<Vec<u32>> = (0..5).map(|_| sampler.draw(&mut rng)).collect();
            let found = sampler.sample(5, &mut Rng::new(3, "mask", &[])).unwrap();
            assert_eq!(found.keep(), expected, "{kind:?}");
        }
        // Equal values keep their order, as in a stable sort.
        assert_eq!(lowest(&[0.5, 0.25, 0.5, 0.25, 0.125], 4), [4, 1, 3, 0]);
        assert_eq!(lowest(&[2., 1.], 2), [1, 0]);
    }
}
