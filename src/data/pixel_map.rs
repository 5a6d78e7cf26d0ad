//! [`PixelMap`]: one value for each pixel of an image, which moves with the image.
//!
//! Moves are composed and applied once at the end: each pixel gets the value of the nearest pixel of the annotation.
//! Pixels that were cropped away stay lost, and padding has no value.

use super::{Geometry, Size};
use std::path::Path;
use std::sync::Arc;

/// Values of the pixels of an image. [H, W] row-major.
pub(crate) trait PixelValues: Sized {
    /// The value of one pixel.
    type Value: Copy;
    /// The value of pixels outside of the image.
    const OUTSIDE: Self::Value;

    /// Values of an image of (height, width).
    fn of(size: Size, values: Vec<Self::Value>) -> Self;

    /// (height, width)
    fn size(&self) -> Size;

    /// All values.
    fn values(&self) -> &[Self::Value];
}

/// Values in the pixels of an image, and in those of the source image.
#[derive(Debug)]
pub(crate) struct PixelMap<M> {
    source: Arc<M>,
    /// The map in which values are looked up: the source, or the source after a rotation.
    base: Arc<M>,
    /// The geometry from the base to the image. It neither rotates nor shears.
    geometry: Geometry,
    /// The part of the base that remains after all crops: top, left, bottom, right.
    visible: [f64; 4],
}

impl<M> Clone for PixelMap<M> {
    fn clone(&self) -> Self {
        let Self { source, base, geometry, visible } = self;
        Self { source: source.clone(), base: base.clone(), geometry: *geometry, visible: *visible }
    }
}

impl<M: PixelValues> PixelMap<M> {
    /// The values of an image that has not moved yet.
    pub fn new(source: M) -> Self {
        let (geometry, visible) = (Geometry::identity(source.size()), whole(source.size()));
        let source = Arc::new(source);
        Self { base: source.clone(), source, geometry, visible }
    }

    /// The annotation in the pixels of the source image.
    pub fn source(&self) -> &M {
        &self.source
    }

    /// (height, width) of the image.
    pub fn size(&self) -> Size {
        self.geometry.to
    }

    /// Values of the image. [H, W] row-major; [`PixelValues::OUTSIDE`] where it shows nothing of the source.
    pub fn values(&self) -> Vec<M::Value> {
        let (height, width) = self.size();
        let mut values = Vec::with_capacity(height * width);
        self.rows([0, 0, height, width], |row| values.extend_from_slice(row));
        values
    }

    /// Calls `take` with the values of each row of the rectangle (top, left, height, width) of the image.
    pub fn rows(&self, [top, left, height, width]: [usize; 4], mut take: impl FnMut(&[M::Value])) {
        let mut row = vec![M::OUTSIDE; width];
        let Some(back) = self.geometry.inverse() else {
            (0..height).for_each(|_| take(&row));
            return;
        };
        let ((h, w), values) = (self.base.size(), self.base.values());
        let [a, _, c, _, e, f] = back.forward;
        let [first, start, last, end] = self.visible;
        let place = |at: f64, low: f64, high: f64, count: usize| {
            (at >= low && at < high).then(|| (at as usize).min(count.saturating_sub(1)))
        };
        let centre = |i: usize| i as f64 + 0.5;
        let columns: Vec<Option<usize>> =
            (left..left + width).map(|x| place(a * centre(x) + c, start, end, w)).collect();
        for y in top..top + height {
            let source = place(e * centre(y) + f, first, last, h);
            for (value, column) in row.iter_mut().zip(&columns) {
                *value = match (source, column) {
                    (Some(y), Some(x)) => values[y * w + x],
                    _ => M::OUTSIDE,
                };
            }
            take(&row);
        }
    }

    /// Moves the values as the image has moved.
    pub fn apply(&mut self, geometry: &Geometry) {
        let [_, b, _, d, _, _] = geometry.forward;
        let geometry = self.geometry.then(geometry);
        let Some(back) = geometry.inverse().filter(|_| b == 0. && d == 0.) else {
            // Rows become slanted: the values are looked up now, and what follows starts from them.
            let turned = self.turned(&geometry);
            (self.geometry, self.visible) = (Geometry::identity(turned.size()), whole(turned.size()));
            self.base = Arc::new(turned);
            return;
        };
        let (height, width) = geometry.to;
        let (x0, y0) = back.point(0., 0.);
        let (x1, y1) = back.point(width as f64, height as f64);
        let [top, left, bottom, right] = self.visible;
        self.visible =
            [top.max(y0.min(y1)), left.max(x0.min(x1)), bottom.min(y0.max(y1)), right.min(x0.max(x1))];
        self.geometry = geometry;
    }

    /// The values of the base mapped by `geometry`, which may rotate and shear.
    fn turned(&self, geometry: &Geometry) -> M {
        let ((height, width), (h, w)) = (geometry.to, self.base.size());
        let mut values = vec![M::OUTSIDE; height * width];
        if let Some(back) = geometry.inverse() {
            let [top, left, bottom, right] = self.visible;
            for (i, value) in values.iter_mut().enumerate() {
                let (x, y) = back.point((i % width) as f64 + 0.5, (i / width) as f64 + 0.5);
                if x >= left && x < right && y >= top && y < bottom {
                    *value = self.base.values()[(y as usize).min(h - 1) * w + (x as usize).min(w - 1)];
                }
            }
        }
        M::of(geometry.to, values)
    }
}

fn whole((height, width): Size) -> [f64; 4] {
    [0., 0., height as f64, width as f64]
}

/// Fails unless the map has the size of its image.
pub(super) fn check_size(what: &str, path: &Path, map: Size, decoded: Size) -> Result<(), String> {
    if map == decoded {
        return Ok(());
    }
    Err(format!(
        "its {what} `{}` has {}x{} pixels, but the image has {}x{} (height x width)",
        path.display(),
        map.0,
        map.1,
        decoded.0,
        decoded.1
    ))
}
