//! Operands of matrix products, and the parts in which they are packed.

use std::ops::Range;

/// Words of a lane in a panel: a panel of the right operand fits the level-1 cache.
pub(super) const DEPTH: usize = 192;
/// Largest number of depths that are packed at a time.
pub(super) const BLOCK: usize = 2 * DEPTH;
/// Lanes that are packed together, if they fill whole panels.
pub(super) const TOGETHER: usize = 64;

/// One side of a product: lanes (rows of the left matrix, columns of the right one) of equal depth.
pub(in crate::ops) trait Operand: Sync {
    fn lanes(&self) -> usize;
    fn depth(&self) -> usize;
    /// Writes `lanes`, at most `width`, at each of `depth` to a line of `panel` [depth, width]; the rest of a line
    /// is any finite number.
    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]);
    /// Like [`Operand::pack`], but rounded to bf16, in pairs of adjacent depths [⌈depth/2⌉, width], the last one of an
    /// odd depth with zeros. Returns whether it did; an operand that does not is packed in f32 first.
    fn pack_pairs(&self, _: Range<usize>, _: Range<usize>, _: usize, _: &mut [u32]) -> bool {
        false
    }
    /// Whether [`Operand::pack`] and [`Operand::pack_pairs`] take any number of lanes, and write panels one after another.
    fn packs_panels(&self) -> bool {
        false
    }
    /// Like [`Operand::pack`] for any number of lanes: panels one after another.
    fn pack_panels(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panels: &mut [f32]) {
        if self.packs_panels() {
            return self.pack(lanes, depth, width, panels);
        }
        for (panel, start) in panels.chunks_exact_mut(depth.len() * width).zip(lanes.clone().step_by(width)) {
            self.pack(start..lanes.end.min(start + width), depth.clone(), width, panel);
        }
    }
    /// Like [`Operand::pack_pairs`] for any number of lanes: panels one after another.
    fn pack_panels_of_pairs(
        &self,
        lanes: Range<usize>,
        depth: Range<usize>,
        width: usize,
        panels: &mut [u32],
    ) -> bool {
        if self.packs_panels() {
            return self.pack_pairs(lanes, depth, width, panels);
        }
        let panels = panels.chunks_exact_mut(depth.len().div_ceil(2) * width);
        panels.zip(lanes.clone().step_by(width)).all(|(panel, start)| {
            self.pack_pairs(start..lanes.end.min(start + width), depth.clone(), width, panel)
        })
    }
}

/// Lanes that are packed together: where lanes lie side by side, panels share cache lines.
pub(super) fn together(width: usize) -> usize {
    width * (TOGETHER / width).max(1)
}
