//! [`Rle`]: a bitmap as the lengths of its runs, as COCO stores masks. The arithmetic is that of `hotcoco`, which
//! agrees with `pycocotools`.

use super::{Size, Xywh};
use hotcoco::mask;

/// Runs of a bitmap, column by column from the left, each from the top; the first run is background (and may be 0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rle {
    /// Rows of the bitmap.
    pub height: u32,
    /// Columns of the bitmap.
    pub width: u32,
    /// Lengths of the runs; together height × width.
    pub counts: Vec<u32>,
}

impl Rle {
    /// Runs that fill `height` × `width` pixels exactly.
    ///
    /// # Errors
    /// Runs of another total length, or a bitmap of 2³² pixels or more.
    pub fn new(height: u32, width: u32, counts: Vec<u32>) -> Result<Self, String> {
        let pixels = u64::from(height) * u64::from(width);
        let runs: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        if pixels > u64::from(u32::MAX) {
            return Err(format!("a mask of {height}x{width} is too large"));
        }
        if runs != pixels {
            return Err(format!("its runs cover {runs} pixels, expected {height}x{width} = {pixels}"));
        }
        Ok(Self { height, width, counts })
    }

    /// The bitmap `[H, W]`, row-major; values other than 0 are inside.
    ///
    /// # Panics
    /// If `bitmap` does not have height × width bytes, or has 2³² or more.
    pub fn encode(bitmap: &[u8], size: Size) -> Self {
        Self::encode_at(bitmap, size, (0, 0), size)
    }

    /// A bitmap of `size` that is empty but for `patch` `[H, W]`, row-major, of `patch_size`, at (top, left).
    ///
    /// # Panics
    /// When `patch` does not hold as many bytes as `patch_size` says or reaches outside, or the bitmap has 2³² pixels
    /// or more.
    pub fn encode_at(patch: &[u8], patch_size: Size, (top, left): (usize, usize), size: Size) -> Self {
        let ((h, w), (height, width)) = (patch_size, size);
        assert_eq!(patch.len(), h * w, "patch does not match its size");
        assert!(top + h <= height && left + w <= width, "patch reaches outside");
        assert!(u32::try_from(height * width).is_ok(), "a bitmap of 2^32 pixels or more");
        let (mut counts, mut start, mut inside) = (vec![], 0, false);
        for x in 0..w {
            let column = (left + x) * height;
            for y in 0..h {
                let at = column + top + y;
                // A column ends with background, unless the patch reaches from edge to edge.
                if y == 0 && inside && h < height {
                    let end = column - height + top + h;
                    counts.push((end - start) as u32);
                    (start, inside) = (end, false);
                }
                if (patch[y * w + x] != 0) != inside {
                    counts.push((at - start) as u32);
                    (start, inside) = (at, !inside);
                }
            }
        }
        let total = height * width;
        let end = if inside { (left + w - 1) * height + top + h } else { total };
        counts.push((end - start) as u32);
        if end < total {
            counts.push((total - end) as u32);
        }
        Self { height: height as u32, width: width as u32, counts }
    }

    /// The bitmap `[H, W]`, row-major, of 0 and 1.
    pub fn decode(&self) -> Vec<u8> {
        let (height, width) = self.size();
        let mut bitmap = vec![0; height * width];
        for (start, end) in self.runs() {
            let (mut x, mut y) = (start / height, start % height);
            for _ in start..end {
                bitmap[y * width + x] = 1;
                y += 1;
                if y == height {
                    (x, y) = (x + 1, 0);
                }
            }
        }
        bitmap
    }

    /// The union of the rings, rasterised as by `pycocotools`. Flat x, y lists in pixels.
    ///
    /// # Errors
    /// A bitmap of 2³² pixels or more.
    pub fn of_polygons(rings: &[Vec<f64>], (height, width): Size) -> Result<Self, String> {
        mask::fr_polys(rings, height as u32, width as u32).map(Self::from).map_err(|e| e.to_string())
    }

    /// Reads COCO's compressed `counts`.
    ///
    /// # Errors
    /// A string that does not encode run lengths, or whose runs do not fill the bitmap.
    pub fn from_coco(counts: &str, height: u32, width: u32) -> Result<Self, String> {
        let rle = mask::rle_from_string(counts, height, width).map_err(|e| e.to_string())?;
        Self::new(height, width, rle.counts)
    }

    /// COCO's compressed `counts`.
    pub fn to_coco(&self) -> String {
        mask::rle_to_string(&self.clone().into())
    }

    /// Pixels inside.
    pub fn area(&self) -> u64 {
        self.counts.iter().skip(1).step_by(2).map(|count| u64::from(*count)).sum()
    }

    /// The smallest box around it; zeros when it is empty.
    pub fn bbox(&self) -> Xywh {
        mask::to_bbox(&self.clone().into())
    }

    /// (height, width)
    pub fn size(&self) -> Size {
        (self.height as usize, self.width as usize)
    }

    /// First pixel, and pixel after the last, of every run that is inside, column-major.
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut at = 0;
        self.counts.chunks(2).filter_map(move |pair| {
            let start = at + pair[0] as usize;
            at = start + pair.get(1).map_or(0, |count| *count as usize);
            (at > start).then_some((start, at))
        })
    }
}

impl From<hotcoco::Rle> for Rle {
    fn from(rle: hotcoco::Rle) -> Self {
        Self { height: rle.h, width: rle.w, counts: rle.counts }
    }
}

impl From<Rle> for hotcoco::Rle {
    fn from(rle: Rle) -> Self {
        Self { h: rle.height, w: rle.width, counts: rle.counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_by_hand() {
        // Columns: 0 1 1 | 0 1 0
        let rle = Rle::encode(&[0, 0, 1, 1, 1, 0], (3, 2));
        assert_eq!(rle.counts, [1, 2, 1, 1, 1]);
        assert_eq!((rle.area(), rle.bbox()), (3, [0., 1., 2., 2.]));
        assert_eq!(rle.decode(), [0, 0, 1, 1, 1, 0]);
        assert_eq!(rle.runs().collect::<Vec<_>>(), [(1, 3), (4, 5)]);
        assert_eq!(Rle::encode(&[1; 4], (2, 2)).counts, [0, 4]);
        assert_eq!(Rle::encode(&[0; 4], (2, 2)).counts, [4]);
        assert_eq!(Rle::encode_at(&[1; 4], (2, 2), (1, 1), (4, 3)).counts, [5, 2, 2, 2, 1]);
        assert!(Rle::new(2, 2, vec![1, 2]).unwrap_err().contains("cover 3 pixels, expected 2x2 = 4"));
        assert!(Rle::from_coco("0", 2, 2).is_err());
    }

    proptest! {
        #[test]
        fn a_bitmap_comes_back(height in 1usize..12, width in 1usize..12, bits: u128, whole: bool) {
            let bit = |k: usize| u8::from(whole || bits >> (k % 128) & 1 == 1);
            let bitmap: Vec<u8> = (0..height * width).map(bit).collect();
            let rle = Rle::encode(&bitmap, (height, width));
            prop_assert_eq!(&rle.decode(), &bitmap);
            let columns: Vec<u8> = (0..height * width).map(|k| bitmap[k % height * width + k / height]).collect();
            let reference = mask::encode(&columns, height as u32, width as u32).unwrap();
            prop_assert_eq!(&reference.counts, &rle.counts);
            prop_assert_eq!(&Rle::from_coco(&rle.to_coco(), rle.height, rle.width).unwrap(), &rle);
            // The same within a larger one.
            let (top, left, size) = (bits as usize % 3, bits as usize % 4, (height + 3, width + 5));
            let inner = Rle::encode_at(&bitmap, (height, width), (top, left), size);
            let mut outer = vec![0; size.0 * size.1];
            for (k, bit) in bitmap.iter().enumerate() {
                outer[(top + k / width) * size.1 + left + k % width] = *bit;
            }
            prop_assert_eq!(inner, Rle::encode(&outer, size));
        }

        #[test]
        fn any_string_is_read_or_refused(text in ".{0,40}", height in 0u32..70, width in 0u32..70) {
            if let Ok(rle) = Rle::from_coco(&text, height, width) {
                prop_assert_eq!(rle.decode().len(), (height * width) as usize);
            }
        }
    }
}
