//! Combines the logits of sliding windows into labels of the source image, one band of rows at a time.
//!
//! Windows are processed from top to bottom. Their logits are resized to the window and summed where windows overlap. Once
//! no later window covers a row, its mean is resized to the source image, where each pixel gets its best class. Memory is
//! needed for the height of a window, not of the image. The arithmetic is that of `slide_inference` in mmsegmentation
//! (logits are averaged, not probabilities; all resizing is bilinear, `align_corners=False`).

use crate::data::{Raster, Size, SourceTransform};
use candle_core::{Result, bail};
use rayon::prelude::*;

/// Bilinear interpolation along one axis: for each output, two inputs and the weight of the second.
#[derive(Clone, Debug)]
struct Taps(Vec<(usize, usize, f32)>);

impl Taps {
    /// For `count` outputs with centers at `scale`·(i + ½) + `offset` on an axis of `from` inputs.
    fn new(from: usize, count: usize, scale: f64, offset: f64) -> Self {
        let tap = |i: usize| {
            let at = (scale * (i as f64 + 0.5) + offset - 0.5).clamp(0., (from - 1) as f64);
            let low = at as usize;
            (low, (low + 1).min(from - 1), (at - low as f64) as f32)
        };
        Self((0..count).map(tap).collect())
    }

    /// Scales `from` inputs to `count` outputs.
    fn scaled(from: usize, count: usize) -> Self {
        Self::new(from, count, from as f64 / count as f64, 0.)
    }
}

/// Rows of maps of all classes.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    first: usize,
    count: usize,
    width: usize,
    /// Distance between the first rows of consecutive classes.
    plane: usize,
    data: &'a [f32],
}

impl<'a> Rows<'a> {
    /// All rows of maps [K, H, W].
    pub(crate) fn all(data: &'a [f32], (height, width): Size) -> Self {
        Self { first: 0, count: height, width, plane: height * width, data }
    }

    fn row(&self, class: usize, row: usize) -> &'a [f32] {
        &self.data[class * self.plane + (row - self.first) * self.width..][..self.width]
    }
}

/// Coarse logits of one window.
pub(super) struct Tile {
    /// [K, h, w]
    pub logits: Vec<f32>,
    /// (h, w)
    pub grid: Size,
}

/// Positions of the windows of an image.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    image: Size,
    window: Size,
    tops: Vec<usize>,
    lefts: Vec<usize>,
}

impl Windows {
    /// Windows every `stride` pixels; the last ones end with the image. A smaller image has one window on that axis.
    pub(crate) fn new(image: Size, window: Size, stride: Size) -> Self {
        let places = |length: usize, window: usize, stride: usize| {
            let last = length.saturating_sub(window);
            (0..=last.div_ceil(stride)).map(|i| (i * stride).min(last)).collect()
        };
        Self {
            image,
            window,
            tops: places(image.0, window.0, stride.0),
            lefts: places(image.1, window.1, stride.1),
        }
    }

    /// Number of windows that cover each of `length` positions.
    fn covers(places: &[usize], window: usize, length: usize) -> Vec<f32> {
        let cover =
            |at| places.iter().filter(|start| (**start..**start + window).contains(&at)).count() as f32;
        (0..length).map(cover).collect()
    }

    /// Gets the logits of the windows at (top, left) from `tiles`, one row of windows at a time, and passes finished rows of
    /// the means of all `classes` to `sink`.
    ///
    /// # Errors
    /// The errors of `tiles`, and non-finite logits.
    pub(crate) fn stitch(
        &self,
        classes: usize,
        tiles: &mut dyn FnMut(&[Size]) -> Result<Vec<Tile>>,
        sink: &mut dyn FnMut(Rows),
    ) -> Result<()> {
        let (height, width) = self.image;
        let rows = self.window.0.min(height);
        let plane = rows * width;
        let mut band = vec![0f32; classes * plane];
        let (over, beside) = (
            Self::covers(&self.tops, self.window.0, height),
            Self::covers(&self.lefts, self.window.1, width),
        );
        for (i, top) in self.tops.iter().enumerate() {
            let places: Vec<Size> = self.lefts.iter().map(|left| (*top, *left)).collect();
            let found = tiles(&places)?;
            for (tile, left) in found.iter().zip(&self.lefts) {
                if tile.logits.iter().any(|x| x.is_nan()) {
                    bail!("segmentation: logits of the window at row {top}, column {left} are not finite");
                }
                self.add(tile, &mut band, (rows, width), *left);
            }
            let next = self.tops.get(i + 1).copied().unwrap_or(height);
            let done = next - top;
            band.par_chunks_mut(plane).for_each(|plane| {
                for (row, over) in plane.chunks_exact_mut(width).zip(&over[*top..next]) {
                    row.iter_mut().zip(&beside).for_each(|(x, beside)| *x /= over * beside);
                }
            });
            sink(Rows { first: *top, count: done, width, plane, data: &band });
            band.par_chunks_mut(plane).for_each(|plane| {
                plane.copy_within(done * width.., 0);
                let left = plane.len() - done * width;
                plane[left..].fill(0.);
            });
        }
        Ok(())
    }

    /// Adds a tile, scaled to the window, to a band of (rows, width) pixels.
    fn add(&self, tile: &Tile, band: &mut [f32], (rows, width): Size, left: usize) {
        let (h, w) = tile.grid;
        let columns = self.window.1.min(width);
        let (down, across) = (Taps::scaled(h, self.window.0), Taps::scaled(w, self.window.1));
        let planes = band.par_chunks_mut(rows * width).zip(tile.logits.par_chunks(h * w));
        planes.for_each(|(plane, coarse)| {
            let mut wide = vec![0f32; h * columns];
            for (wide, coarse) in wide.chunks_exact_mut(columns).zip(coarse.chunks_exact(w)) {
                across_row(coarse, &across.0[..columns], wide);
            }
            for (row, (low, high, share)) in plane.chunks_exact_mut(width).zip(&down.0) {
                let (low, high) = (&wide[low * columns..][..columns], &wide[high * columns..][..columns]);
                for ((x, a), b) in row[left..left + columns].iter_mut().zip(low).zip(high) {
                    *x += a + (b - a) * share;
                }
            }
        });
    }
}

fn across_row(from: &[f32], taps: &[(usize, usize, f32)], to: &mut [f32]) {
    for (x, (low, high, share)) in to.iter_mut().zip(taps) {
        let (a, b) = (from[*low], from[*high]);
        *x = a + (b - a) * share;
    }
}

/// Resizes maps whose rows arrive in blocks, from top to bottom.
struct Scaler {
    down: Taps,
    across: Taps,
    classes: usize,
    /// The last row of the previous block. [K, w]
    carry: Vec<f32>,
    /// The first output row that is not done.
    next: usize,
}

impl Scaler {
    fn new(classes: usize, down: Taps, across: Taps) -> Self {
        Self { down, across, classes, carry: vec![], next: 0 }
    }

    /// The output rows that `rows` complete.
    fn ready(&self, rows: &Rows) -> std::ops::Range<usize> {
        let end = rows.first + rows.count;
        let done = self.down.0[self.next..].iter().take_while(|(_, high, _)| *high < end).count();
        self.next..self.next + done
    }

    /// Output row `y` of a class, at the width of the input.
    fn down(&self, rows: &Rows, class: usize, y: usize, to: &mut [f32]) {
        let (low, high, share) = self.down.0[y];
        let row = |at: usize| match at < rows.first {
            true => &self.carry[class * rows.width..][..rows.width],
            false => rows.row(class, at),
        };
        for ((x, a), b) in to.iter_mut().zip(row(low)).zip(row(high)) {
            *x = a + (b - a) * share;
        }
    }

    /// Continues with the next block.
    fn keep(&mut self, rows: &Rows, done: std::ops::Range<usize>) {
        let last = rows.first + rows.count - 1;
        self.carry = (0..self.classes).flat_map(|class| rows.row(class, last)).copied().collect();
        self.next = done.end;
    }
}

/// The best class of each pixel of the source image.
pub(super) struct BestClass {
    scaler: Scaler,
    size: Size,
    labels: Vec<u16>,
}

impl BestClass {
    /// For maps of the image that `source_transform` describes.
    ///
    /// # Errors
    /// An image that is not a scaled and cropped version of the source image.
    pub(crate) fn new(classes: usize, source_transform: &SourceTransform) -> Result<Self> {
        let [a, b, c, d, e, f] = source_transform.geometry.forward;
        if b != 0. || d != 0. || a <= 0. || e <= 0. {
            bail!(
                "segmentation: the evaluation protocol rotates or flips images, but it may only scale, crop and pad them"
            );
        }
        let ((height, width), (h, w)) = (source_transform.source, source_transform.geometry.to);
        let scaler = Scaler::new(classes, Taps::new(h, height, e, f), Taps::new(w, width, a, c));
        Ok(Self { scaler, size: source_transform.source, labels: vec![0; height * width] })
    }

    pub(crate) fn feed(&mut self, rows: Rows) {
        let (ready, width) = (self.scaler.ready(&rows), self.size.1);
        let scaler = &self.scaler;
        let lines = self.labels[ready.start * width..ready.end * width].par_chunks_mut(width);
        lines.zip(ready.clone()).for_each(|(labels, y)| {
            let (mut narrow, mut wide) = (vec![0f32; rows.width], vec![0f32; width]);
            let mut best = vec![f32::NEG_INFINITY; width];
            for class in 0..scaler.classes {
                scaler.down(&rows, class, y, &mut narrow);
                across_row(&narrow, &scaler.across.0, &mut wide);
                for ((label, best), x) in labels.iter_mut().zip(&mut best).zip(&wide) {
                    if x > best {
                        (*best, *label) = (*x, class as u16);
                    }
                }
            }
        });
        self.scaler.keep(&rows, ready);
    }

    pub(crate) fn finish(self) -> Raster {
        Raster::new(self.size.0, self.size.1, self.labels)
    }
}

/// Sums the probabilities of the views of an image, at the size of the image.
pub(super) struct Mean {
    classes: usize,
    size: Size,
    /// [K, H, W]
    sum: Vec<f32>,
}

impl Mean {
    pub(crate) fn new(classes: usize, size: Size) -> Self {
        Self { classes, size, sum: vec![0.; classes * size.0 * size.1] }
    }

    /// Adds a view of `size` pixels; `run` provides the rows of its logits.
    pub(crate) fn view(
        &mut self,
        size: Size,
        mirrored: bool,
        run: impl FnOnce(&mut dyn FnMut(Rows)) -> Result<()>,
    ) -> Result<()> {
        let (height, width) = self.size;
        let mut scaler = Scaler::new(self.classes, Taps::scaled(size.0, height), Taps::scaled(size.1, width));
        let sum = &mut self.sum;
        let mut take = |logits: Rows| {
            let plane = logits.count * logits.width;
            let shares = probabilities(&logits, scaler.classes, mirrored);
            let rows = Rows { plane, data: &shares, ..logits };
            let ready = scaler.ready(&rows);
            sum.par_chunks_mut(height * width).enumerate().for_each(|(class, sum)| {
                let (mut narrow, mut wide) = (vec![0f32; rows.width], vec![0f32; width]);
                for y in ready.clone() {
                    scaler.down(&rows, class, y, &mut narrow);
                    across_row(&narrow, &scaler.across.0, &mut wide);
                    sum[y * width..][..width].iter_mut().zip(&wide).for_each(|(sum, x)| *sum += x);
                }
            });
            scaler.keep(&rows, ready);
        };
        run(&mut take)
    }

    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows::all(&self.sum, self.size)
    }
}

/// Softmax over classes. [K, rows, W]
fn probabilities(rows: &Rows, classes: usize, mirrored: bool) -> Vec<f32> {
    let count = rows.count * rows.width;
    let mut largest = vec![f32::NEG_INFINITY; count];
    let block = |class: usize| &rows.data[class * rows.plane..][..count];
    for class in 0..classes {
        largest.iter_mut().zip(block(class)).for_each(|(most, x)| *most = most.max(*x));
    }
    let mut shares = vec![0f32; classes * count];
    shares.par_chunks_mut(count).enumerate().for_each(|(class, shares)| {
        let values = block(class).iter().zip(&largest);
        shares.iter_mut().zip(values).for_each(|(share, (x, most))| *share = (x - most).exp());
    });
    let mut total = vec![0f32; count];
    for shares in shares.chunks_exact(count) {
        total.iter_mut().zip(shares).for_each(|(total, share)| *total += share);
    }
    shares.par_chunks_mut(count).for_each(|shares| {
        shares.iter_mut().zip(&total).for_each(|(share, total)| *share /= total);
        if mirrored {
            shares.chunks_exact_mut(rows.width).for_each(<[f32]>::reverse);
        }
    });
    shares
}
