//! The inner loop of a matrix product: one tile of the destination in registers.

/// A tile of the destination that stays in registers while the depth runs.
pub(super) struct MicroKernel {
    /// Rows of a tile: lanes of a panel of the left operand.
    pub rows: usize,
    /// Columns of a tile: lanes of a panel of the right operand.
    pub columns: usize,
    run: unsafe fn(usize, *const f32, *const f32, *mut f32, usize, Store),
}

/// What becomes of the products: destination = scale·products, or added to it.
#[derive(Clone, Copy)]
pub(super) struct Store {
    pub accumulate: bool,
    pub scale: f32,
}

/// Values of the largest tile.
const LARGEST: usize = 8 * 48;

static PORTABLE: MicroKernel = MicroKernel { rows: 4, columns: 16, run: portable };
#[cfg(target_arch = "x86_64")]
static AVX2: MicroKernel = MicroKernel { rows: 4, columns: 24, run: avx2 };
#[cfg(target_arch = "x86_64")]
static AVX512: MicroKernel = MicroKernel { rows: 8, columns: 48, run: avx512 };

impl MicroKernel {
    /// The one with the widest vectors that this processor has.
    pub(super) fn best() -> &'static Self {
        Self::supported()[0]
    }

    /// All that run on this processor, the best first.
    pub(super) fn supported() -> Vec<&'static Self> {
        let mut found = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                found.push(&AVX512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(&AVX2);
            }
        }
        found.push(&PORTABLE);
        found
    }

    /// Multiplies the panels `left` [depth, rows] and `right` [depth, columns] into the `valid` (rows, columns) at
    /// `destination`, whose rows are `stride` apart.
    ///
    /// # Safety
    /// `destination` is valid for reads and writes of those rows and columns, and nothing else reads or writes them.
    pub(super) unsafe fn tile(
        &self,
        left: &[f32],
        right: &[f32],
        destination: *mut f32,
        stride: usize,
        valid: (usize, usize),
        store: Store,
    ) {
        let depth = left.len() / self.rows;
        debug_assert!(left.len() == depth * self.rows && right.len() == depth * self.columns);
        assert!(right.len() >= depth * self.columns, "panels of one depth");
        let (left, right) = (left.as_ptr(), right.as_ptr());
        if valid == (self.rows, self.columns) {
            // SAFETY: the panels hold `depth` steps, the caller vouches for the destination, and `supported` has
            // seen that the processor has the instructions.
            unsafe { (self.run)(depth, left, right, destination, stride, store) };
            return;
        }
        let mut whole = [0f32; LARGEST];
        let alone = Store { accumulate: false, ..store };
        // SAFETY: as above; `whole` holds the largest tile.
        unsafe { (self.run)(depth, left, right, whole.as_mut_ptr(), self.columns, alone) };
        for (i, row) in whole.chunks_exact(self.columns).take(valid.0).enumerate() {
            for (j, &product) in row[..valid.1].iter().enumerate() {
                // SAFETY: the caller vouches for these rows and columns.
                unsafe {
                    let place = destination.add(i * stride + j);
                    *place = if store.accumulate { *place + product } else { product };
                }
            }
        }
    }
}

/// # Safety
/// `left` is valid for `depth`·4 values, `right` for `depth`·16, `destination` for 4 rows of 16, `stride` apart.
unsafe fn portable(
    depth: usize,
    left: *const f32,
    right: *const f32,
    destination: *mut f32,
    stride: usize,
    store: Store,
) {
    // SAFETY: the caller vouches for the lengths.
    let (left, right) =
        unsafe { (std::slice::from_raw_parts(left, depth * 4), std::slice::from_raw_parts(right, depth * 16)) };
    let mut sums = [[0f32; 16]; 4];
    for (a, b) in left.as_chunks::<4>().0.iter().zip(right.as_chunks::<16>().0) {
        for (sums, &a) in sums.iter_mut().zip(a) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: the caller vouches for the rows.
        let row = unsafe { std::slice::from_raw_parts_mut(destination.add(i * stride), 16) };
        for (place, &sum) in row.iter_mut().zip(sums) {
            *place = store.scale * sum + if store.accumulate { *place } else { 0. };
        }
    }
}

/// A kernel of `$rows` rows and `$vectors` vectors of `$lanes` columns. Same safety as [`portable`].
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($name:ident, $feature:literal, $rows:literal, $vectors:literal, $lanes:literal,
     $zero:ident, $load:ident, $set:ident, $fma:ident, $mul:ident, $add:ident, $store:ident) => {
        #[target_feature(enable = $feature)]
        unsafe fn $name(
            depth: usize,
            mut left: *const f32,
            mut right: *const f32,
            destination: *mut f32,
            stride: usize,
            store: Store,
        ) {
            use std::arch::x86_64::*;
            // SAFETY: the caller vouches for the lengths; the loops stay within `depth` and the tile.
            unsafe {
                let mut sums = [[$zero(); $vectors]; $rows];
                for _ in 0..depth {
                    let mut columns = [$zero(); $vectors];
                    for (j, column) in columns.iter_mut().enumerate() {
                        *column = $load(right.add(j * $lanes));
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let row = $set(*left.add(i));
                        for (sum, &column) in sums.iter_mut().zip(&columns) {
                            *sum = $fma(row, column, *sum);
                        }
                    }
                    left = left.add($rows);
                    right = right.add($vectors * $lanes);
                }
                let scale = $set(store.scale);
                for (i, sums) in sums.iter().enumerate() {
                    for (j, &sum) in sums.iter().enumerate() {
                        let place = destination.add(i * stride + j * $lanes);
                        let product = $mul(scale, sum);
                        let value = if store.accumulate { $add($load(place), product) } else { product };
                        $store(place, value);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernel!(
    avx512, "avx512f", 8, 3, 16,
    _mm512_setzero_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_add_ps, _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
kernel!(
    avx2, "avx2,fma", 4, 3, 8,
    _mm256_setzero_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_mul_ps, _mm256_add_ps, _mm256_storeu_ps
);
