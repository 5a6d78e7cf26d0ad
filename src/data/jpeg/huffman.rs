//! Huffman codes of a JPEG, and the reader of their bits.

/// The table answers for this many bits at once; longer codes are rare.
const LOOKUP_BITS: u32 = 10;

/// What the next bits of the data mean.
#[derive(Clone, Copy, Default)]
pub(super) struct Symbol {
    /// The number that the bits after the code give, if it was looked up with the code; otherwise 0.
    pub value: i16,
    /// Number of zeros before it in the high four bits, number of its bits in the low four.
    pub run_and_size: u8,
    /// Bits of the code, with those of the number if `value` is not 0; 0 for a code longer than the table.
    bits: u8,
}

/// The codes of one table of a JPEG.
pub(super) struct Codes {
    lookup: Vec<Symbol>,
    /// For each length, the first number above its codes, in the high bits of 16; 0 where there are none.
    ends: [u32; 17],
    /// For each length, what to add to a code for its place in `symbols`.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Codes {
    /// The codes for `symbols` in order, `counts[k]` of them with k + 1 bits.
    ///
    /// # Errors
    /// More codes of a length than there can be, or another number of symbols.
    pub fn new(counts: &[u8], symbols: &[u8]) -> Result<Self, String> {
        let mut codes = Self {
            lookup: vec![Symbol::default(); 1 << LOOKUP_BITS],
            ends: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut place) = (0u32, 0);
        for (length, count) in (1..=16).zip(counts) {
            codes.offsets[length as usize] = place as i32 - code as i32;
            for _ in 0..*count {
                let symbol = *symbols.get(place).ok_or("the JPEG has a Huffman table without its symbols")?;
                codes.look_up(code, length, symbol);
                (code, place) = (code + 1, place + 1);
            }
            if code > 1 << length {
                return Err("the JPEG has a Huffman table with too many codes".into());
            }
            if *count > 0 {
                codes.ends[length as usize] = code << (16 - length);
            }
            code <<= 1;
        }
        Ok(codes)
    }

    /// Enters a code of `length` bits wherever the next bits begin with it.
    fn look_up(&mut self, code: u32, length: u32, symbol: u8) {
        if length > LOOKUP_BITS {
            return;
        }
        let rest = LOOKUP_BITS - length;
        let size = u32::from(symbol & 15);
        let first = (code << rest) as usize;
        for tail in 0..1u32 << rest {
            let Some(entry) = self.lookup.get_mut(first + tail as usize) else { return };
            let fits = (1..=rest).contains(&size);
            let value = if fits { extended(tail >> (rest - size), size) as i16 } else { 0 };
            let bits = (length + if fits { size } else { 0 }) as u8;
            *entry = Symbol { value, run_and_size: symbol, bits };
        }
    }

    /// The largest symbol.
    pub fn largest(&self) -> u8 {
        self.symbols.iter().copied().max().unwrap_or(0)
    }
}

/// The number that `size` ≥ 1 bits stand for: those that begin with 0 are negative.
fn extended(bits: u32, size: u32) -> i32 {
    let negative = bits >> (size - 1) == 0;
    bits as i32 - if negative { (1 << size) - 1 } else { 0 }
}

/// Reads the bits of entropy-coded data up to the next marker.
///
/// Behind a marker all bits are 0, as for libjpeg; so are they behind the end of the file, where `ended` tells.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Place of the next byte.
    at: usize,
    /// The next bits, the first one highest.
    buffer: u64,
    /// Number of bits in `buffer`; below 0 if more were used than there are.
    count: i32,
    /// The marker that ended the data and was not used.
    pub marker: Option<u8>,
    /// More bits were used than the data has.
    pub short: bool,
    /// The file has no more bytes.
    no_more: bool,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0, marker: None, short: false, no_more: false }
    }

    /// Whether bits were used that the file, which has no marker there, does not have.
    pub fn ended(&self) -> bool {
        self.no_more && (self.short || self.count < 0)
    }

    /// Place behind the bytes that were read, and behind the marker.
    pub fn place(&self) -> usize {
        self.at
    }

    /// Whether more bits were used than there are before the marker.
    #[inline(always)]
    pub fn ran_short(&mut self) -> bool {
        if self.count < 0 {
            (self.buffer, self.count, self.short) = (0, 0, true);
        }
        self.short
    }

    /// Provides at least 32 bits.
    #[inline(always)]
    fn fill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(next) = self.bytes.get(self.at..self.at + 8)
            && self.marker.is_none()
            && self.count >= 0
        {
            let word = next.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            // No byte is 0xff.
            if (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 == 0 {
                // Bits behind `count` are those that follow, and are set again to the same.
                self.buffer |= word >> self.count;
                let taken = (63 - self.count) >> 3;
                self.at += taken as usize;
                self.count += taken * 8;
                return;
            }
        }
        self.fill_by_bytes();
    }

    #[cold]
    fn fill_by_bytes(&mut self) {
        self.ran_short();
        while self.count <= 56 && self.marker.is_none() && !self.no_more {
            let Some(&byte) = self.bytes.get(self.at) else {
                self.no_more = true;
                break;
            };
            self.at += 1;
            if byte == 0xff {
                let fills = self.bytes[self.at..].iter().take_while(|byte| **byte == 0xff).count();
                let Some(&kind) = self.bytes.get(self.at + fills) else {
                    self.no_more = true;
                    break;
                };
                self.at += fills + 1;
                if kind != 0 {
                    self.marker = Some(kind);
                    break;
                }
            }
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.buffer <<= count;
        self.count -= count as i32;
    }

    /// The next code, with its number if `value` is not 0; otherwise [`Bits::number`] reads the number.
    #[inline(always)]
    pub fn symbol(&mut self, codes: &Codes) -> Symbol {
        self.fill();
        let found = codes.lookup[(self.buffer >> (64 - LOOKUP_BITS)) as usize];
        if found.bits == 0 {
            return self.long_code(codes);
        }
        self.skip(u32::from(found.bits));
        found
    }

    /// A code longer than the table; 0 for bits that are no code, as for libjpeg.
    #[cold]
    fn long_code(&mut self, codes: &Codes) -> Symbol {
        let next = (self.buffer >> 48) as u32;
        let length = (LOOKUP_BITS + 1..=16).find(|length| next < codes.ends[*length as usize]);
        self.skip(length.unwrap_or(17));
        let symbol = length.and_then(|length| {
            let place = (next >> (16 - length)) as i32 + codes.offsets[length as usize];
            codes.symbols.get(usize::try_from(place).ok()?)
        });
        Symbol { value: 0, run_and_size: symbol.copied().unwrap_or(0), bits: 0 }
    }

    /// The next `count` bits, at most 16.
    #[inline(always)]
    pub fn take(&mut self, count: u32) -> u32 {
        self.fill();
        let bits = (self.buffer >> 32 >> (32 - count)) as u32;
        self.skip(count);
        bits
    }

    /// A number of `size` bits, from 1 to 15.
    #[inline(always)]
    pub fn number(&mut self, size: u32) -> i32 {
        let bits = self.take(size);
        extended(bits, size)
    }

    /// Drops the bits before the next marker and finds that; `None` at the end of the file.
    pub fn next_marker(&mut self) -> Option<u8> {
        self.ran_short();
        (self.buffer, self.count) = (0, 0);
        if let Some(marker) = self.marker.take() {
            return Some(marker);
        }
        let found = next_marker(self.bytes, self.at);
        match found {
            Some((marker, behind)) => {
                self.at = behind;
                Some(marker)
            }
            None => {
                (self.at, self.no_more) = (self.bytes.len(), true);
                None
            }
        }
    }

    /// Continues behind the restart marker number `expected` (0 to 7). Another marker is passed over or kept by the rule
    /// of libjpeg: one that is kept leaves the interval without data.
    pub fn restart(&mut self, expected: u8) {
        let Some(mut marker) = self.next_marker() else {
            // There is nothing to read.
            self.short = true;
            return;
        };
        loop {
            let ahead = marker.wrapping_sub(0xd0).wrapping_sub(expected) & 7;
            let pass_over = match marker {
                0xd0..=0xd7 => match ahead {
                    1 | 2 => false,
                    6 | 7 => true,
                    _ => {
                        self.short = false;
                        return;
                    }
                },
                0xc0.. => false,
                _ => true,
            };
            if !pass_over {
                self.marker = Some(marker);
                return;
            }
            let Some(next) = self.next_marker() else {
                self.short = true;
                return;
            };
            marker = next;
        }
    }
}

/// The first marker at or behind `at`, and the place behind it.
pub(super) fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        at += bytes[at..].iter().take_while(|byte| **byte == 0xff).count();
        match *bytes.get(at)? {
            0 => at += 1,
            kind => return Some((kind, at + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes 0, 10 and one of 12 bits.
    fn codes() -> Codes {
        Codes::new(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], &[0x02, 0x13, 0xf0]).unwrap()
    }

    #[test]
    fn codes_and_their_numbers_are_read_up_to_a_marker() {
        // 0 11 (3), 10 010 (-5), 1100_0000_0000, then 0 and 00 (-3), and ones to the end of the byte; a stuffed zero goes.
        let bits = [0b0111_0010, 0b1100_0000, 0b0000_0001, 0xff, 0, 0xff, 0xd9, 7];
        let (codes, mut bits) = (codes(), Bits::new(&bits, 0));
        let mut next = || {
            let symbol = bits.symbol(&codes);
            (symbol.run_and_size, symbol.value)
        };
        assert_eq!([next(), next()], [(0x02, 3), (0x13, -5)]);
        assert_eq!(next(), (0xf0, 0));
        assert_eq!(next(), (0x02, -3));
        assert_eq!(bits.take(9), 0x1ff);
        assert!(!bits.ran_short() && !bits.ended());
        assert_eq!(bits.take(3), 0, "behind the marker");
        assert!(bits.ran_short() && !bits.ended());
        assert_eq!((bits.next_marker(), bits.place()), (Some(0xd9), 7));
    }

    #[test]
    fn the_end_of_the_file_is_noticed_only_by_who_needs_more() {
        let mut bits = Bits::new(&[0xab], 0);
        assert_eq!((bits.take(8), bits.ended()), (0xab, false));
        assert_eq!((bits.take(1), bits.ended()), (0, true));
    }

    #[test]
    fn impossible_tables_are_refused() {
        assert!(Codes::new(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[1, 2, 3]).is_err());
        assert!(Codes::new(&[1; 16], &[1]).is_err());
    }
}
