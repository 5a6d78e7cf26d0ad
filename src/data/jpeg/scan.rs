//! The coefficients of a scan, sequential or progressive.
//!
//! What libjpeg does with damaged data is done here too, because images that have been trained on for years have some:
//! behind a marker that comes too early the blocks up to the next restart have no coefficients, which is grey.

use super::frame::{Frame, Scan, ZIGZAG};
use super::huffman::{Bits, Codes};

/// The coefficients of a block, in the order of rows.
pub(super) type Block = [i16; 64];

/// Where the coefficients of the components are kept: all of them, or those of one row of MCUs at a time.
pub(super) type Blocks = Vec<Vec<Block>>;

/// Reads one scan.
pub(super) struct ScanReader<'a, 's> {
    pub bits: Bits<'a>,
    frame: &'s Frame,
    scan: &'s Scan,
    /// The last DC coefficient of each component of the scan.
    predicted: [i32; 4],
    /// Blocks that have no more coefficients in this band.
    empty_blocks: u32,
    restart_interval: usize,
    until_restart: usize,
    next_restart: u8,
}

impl<'a, 's> ScanReader<'a, 's> {
    pub fn new(bytes: &'a [u8], frame: &'s Frame, scan: &'s Scan, restart_interval: usize) -> Self {
        Self {
            bits: Bits::new(bytes, scan.data),
            frame,
            scan,
            predicted: [0; 4],
            empty_blocks: 0,
            restart_interval,
            until_restart: restart_interval,
            next_restart: 0,
        }
    }

    /// Rows of MCUs in this scan.
    pub fn rows(&self) -> usize {
        match &self.scan.components[..] {
            [only] => self.frame.components[only.index].height.div_ceil(8),
            _ => self.frame.mcus_high(),
        }
    }

    /// Reads row `row` of the MCUs into `blocks`, in which the first row of the image's MCUs is `from`.
    pub fn row(&mut self, row: usize, from: usize, blocks: &mut Blocks) {
        if let [only] = &self.scan.components[..] {
            let component = &self.frame.components[only.index];
            let first = (row - from * component.v) * component.blocks;
            let wide = component.width.div_ceil(8);
            for block in &mut blocks[only.index][first..first + wide] {
                self.restart_if_due();
                let skipped = self.bits.ran_short();
                self.block(0, block, skipped);
            }
            return;
        }
        for mcu in 0..self.frame.mcus_wide() {
            self.restart_if_due();
            let skipped = self.bits.ran_short();
            for (k, part) in self.scan.components.iter().enumerate() {
                let component = &self.frame.components[part.index];
                for y in 0..component.v {
                    let first = ((row - from) * component.v + y) * component.blocks + mcu * component.h;
                    for x in 0..component.h {
                        self.block(k, &mut blocks[part.index][first + x], skipped);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn restart_if_due(&mut self) {
        if self.restart_interval == 0 {
            return;
        }
        if self.until_restart == 0 {
            self.bits.restart(self.next_restart);
            self.next_restart = (self.next_restart + 1) & 7;
            self.until_restart = self.restart_interval;
            (self.predicted, self.empty_blocks) = ([0; 4], 0);
        }
        self.until_restart -= 1;
    }

    /// Reads one block of component `k` of the scan; nothing if the data ended before its MCU.
    #[inline(always)]
    fn block(&mut self, k: usize, block: &mut Block, skipped: bool) {
        if self.frame.progressive {
            return self.progressive(k, block, skipped);
        }
        if skipped {
            return;
        }
        let part = &self.scan.components[k];
        let (Some(dc), Some(ac)) = (&part.dc, &part.ac) else { return };
        block[0] = self.dc(k, dc) as i16;
        let mut at = 1;
        while at < 64 {
            let symbol = self.bits.symbol(ac);
            let (run, size) = (usize::from(symbol.run_and_size >> 4), u32::from(symbol.run_and_size & 15));
            if size == 0 {
                if run < 15 {
                    break;
                }
                at += 16;
                continue;
            }
            let value = if symbol.value != 0 { symbol.value } else { self.bits.number(size) as i16 };
            block[usize::from(ZIGZAG[at + run])] = value;
            at += run + 1;
        }
    }

    /// The next DC coefficient of component `k` of the scan.
    #[inline(always)]
    fn dc(&mut self, k: usize, codes: &Codes) -> i32 {
        let symbol = self.bits.symbol(codes);
        let change = match (symbol.value, u32::from(symbol.run_and_size & 15)) {
            (0, 0) => 0,
            (0, size) => self.bits.number(size),
            (value, _) => i32::from(value),
        };
        self.predicted[k] = self.predicted[k].wrapping_add(change);
        self.predicted[k]
    }

    fn progressive(&mut self, k: usize, block: &mut Block, skipped: bool) {
        let (scan, low) = (self.scan, self.scan.low);
        let part = &scan.components[k];
        match (scan.first, scan.high) {
            (0, 0) => {
                if let (Some(dc), false) = (&part.dc, skipped) {
                    block[0] = (self.dc(k, dc) << low) as i16;
                }
            }
            (0, _) => {
                if self.bits.take(1) == 1 {
                    block[0] |= 1 << low;
                }
            }
            (_, high) => {
                let (Some(codes), false) = (&part.ac, skipped) else { return };
                if high == 0 { self.band(codes, block) } else { self.refined_band(codes, block) }
            }
        }
    }

    /// The first bits of a band of AC coefficients.
    fn band(&mut self, codes: &Codes, block: &mut Block) {
        if self.empty_blocks > 0 {
            self.empty_blocks -= 1;
            return;
        }
        let mut at = self.scan.first;
        while at <= self.scan.last {
            let symbol = self.bits.symbol(codes);
            let (run, size) = (u32::from(symbol.run_and_size >> 4), u32::from(symbol.run_and_size & 15));
            if size == 0 {
                if run < 15 {
                    self.empty_blocks = (1 << run) - 1 + self.bits.take(run);
                    break;
                }
                at += 16;
                continue;
            }
            at += run as usize;
            let value = if symbol.value != 0 { i32::from(symbol.value) } else { self.bits.number(size) };
            block[usize::from(ZIGZAG[at])] = (value << self.scan.low) as i16;
            at += 1;
        }
    }

    /// One more bit of a band of AC coefficients.
    fn refined_band(&mut self, codes: &Codes, block: &mut Block) {
        let (mut at, last, bit) = (self.scan.first, self.scan.last, 1i16 << self.scan.low);
        if self.empty_blocks == 0 {
            while at <= last {
                let symbol = self.bits.symbol(codes);
                let (mut run, size) = (i32::from(symbol.run_and_size >> 4), symbol.run_and_size & 15);
                let mut new = 0;
                if size != 0 {
                    let positive = if symbol.value != 0 { symbol.value > 0 } else { self.bits.take(1) == 1 };
                    new = if positive { bit } else { -bit };
                } else if run != 15 {
                    self.empty_blocks = (1 << run) + self.bits.take(run as u32);
                    break;
                }
                // Passes over `run` coefficients that are still 0; others get their next bit.
                while at <= last {
                    let coefficient = &mut block[usize::from(ZIGZAG[at])];
                    if *coefficient != 0 {
                        refine(&mut self.bits, coefficient, bit);
                    } else {
                        run -= 1;
                        if run < 0 {
                            break;
                        }
                    }
                    at += 1;
                }
                if new != 0 {
                    block[usize::from(ZIGZAG[at])] = new;
                }
                at += 1;
            }
        }
        if self.empty_blocks > 0 {
            for place in ZIGZAG.iter().take(last + 1).skip(at) {
                let coefficient = &mut block[usize::from(*place)];
                if *coefficient != 0 {
                    refine(&mut self.bits, coefficient, bit);
                }
            }
            self.empty_blocks -= 1;
        }
    }
}

/// Gives a coefficient its next bit.
fn refine(bits: &mut Bits, coefficient: &mut i16, bit: i16) {
    if bits.take(1) == 1 && *coefficient & bit == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient >= 0 { bit } else { -bit });
    }
}
