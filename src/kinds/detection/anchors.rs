//! Anchors, the boxes that proposals are relative to: one of each shape at every position of every level (arXiv:1506.01497;
//! one size per level, arXiv:1612.03144). Centers are multiples of the stride: offset 0, as detectron2's default.
//! torchvision rounds the corners of anchors to pixels; detectron2 and this implementation do not.

use crate::data::Xyxy;

/// Anchors of a pyramid.
#[derive(Clone, Debug)]
pub(super) struct Anchors {
    /// All anchors, ordered by level, row, column and shape.
    pub boxes: Vec<Xyxy<f32>>,
    /// Number of anchors of each level.
    pub counts: Vec<usize>,
}

/// One level of a pyramid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level {
    /// Number of rows and columns.
    pub grid: (usize, usize),
    /// Distance between positions in input pixels.
    pub stride: f32,
    /// Square root of the area of its anchors, in input pixels.
    pub size: f32,
}

impl Anchors {
    /// Anchors of all `levels`; `ratios` are height / width.
    pub(crate) fn new(levels: &[Level], ratios: &[f32]) -> Self {
        let (mut boxes, mut counts) = (vec![], vec![]);
        for level in levels {
            let (rows, columns) = level.grid;
            let shapes: Vec<Xyxy<f32>> = ratios.iter().map(|&ratio| shape(level.size, ratio)).collect();
            for row in 0..rows {
                for column in 0..columns {
                    let (x, y) = (column as f32 * level.stride, row as f32 * level.stride);
                    boxes.extend(shapes.iter().map(|[x1, y1, x2, y2]| [x1 + x, y1 + y, x2 + x, y2 + y]));
                }
            }
            counts.push(rows * columns * ratios.len());
        }
        Self { boxes, counts }
    }

    /// The anchors of each level, as ranges of [`Anchors::boxes`].
    pub(crate) fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.counts.iter().scan(0, |start, &count| {
            *start += count;
            Some(*start - count..*start)
        })
    }
}

/// A box centered at (0, 0).
fn shape(size: f32, ratio: f32) -> Xyxy<f32> {
    let width = (size * size / ratio).sqrt();
    let height = ratio * width;
    [-0.5 * width, -0.5 * height, 0.5 * width, 0.5 * height]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_by_hand() {
        let levels =
            [Level { grid: (1, 2), stride: 4., size: 8. }, Level { grid: (1, 1), stride: 8., size: 16. }];
        let anchors = Anchors::new(&levels, &[0.25, 1., 4.]);
        let first = [[-8., -2., 8., 2.], [-4., -4., 4., 4.], [-2., -8., 2., 8.]];
        let second = [[-4., -2., 12., 2.], [0., -4., 8., 4.], [2., -8., 6., 8.]];
        let last = [[-16., -4., 16., 4.], [-8., -8., 8., 8.], [-4., -16., 4., 16.]];
        assert_eq!(anchors.boxes, [first, second, last].concat());
        assert_eq!(anchors.ranges().collect::<Vec<_>>(), [0..6, 6..9]);
    }
}
