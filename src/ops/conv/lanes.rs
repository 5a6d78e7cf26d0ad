//! Vectors of values on which the transforms of [`super::transform`] compute.

use crate::ops::gemm::rounded;
#[cfg(target_arch = "x86_64")]
use crate::ops::simd::Instructions;
use crate::ops::simd::{Kernel, LANES, vectorized};
use std::ops::{Add, Mul, Sub};

/// The same value of [`LANES`] tiles or channels. All implementations give the same bits.
pub(super) trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<f32, Output = Self>
{
    fn splat(x: f32) -> Self;
    fn load(values: &[f32; LANES]) -> Self;
    fn store(self, values: &mut [f32; LANES]);
    /// Rounds to bf16.
    fn rounded(self) -> Self;
    /// The first, second, third and fourth values of quads that lie side by side.
    fn from_quads(quads: [Self; 4]) -> [Self; 4];
    /// The inverse of [`Self::from_quads`].
    fn into_quads(values: [Self; 4]) -> [Self; 4];
    /// The values of each tap of [`LANES`] kernels of nine taps.
    fn from_kernels(kernels: &[f32; 9 * LANES]) -> [Self; 9];
    /// The inverse of [`Self::from_kernels`].
    fn into_kernels(taps: [Self; 9], kernels: &mut [f32; 9 * LANES]);

    /// The first values, with zeros after them.
    #[inline(always)]
    fn load_some(values: &[f32]) -> Self {
        match values.first_chunk() {
            Some(values) => Self::load(values),
            None => {
                let mut padded = [0.; LANES];
                padded[..values.len()].copy_from_slice(values);
                Self::load(&padded)
            }
        }
    }

    /// As many as there is place for.
    #[inline(always)]
    fn store_some(self, values: &mut [f32]) {
        match values.first_chunk_mut() {
            Some(values) => self.store(values),
            None => {
                let mut all = [0.; LANES];
                self.store(&mut all);
                values.copy_from_slice(&all[..values.len()]);
            }
        }
    }
}

/// Asks for the cache line `distance` vectors after the first value; any distance is allowed.
#[inline(always)]
pub(super) fn fetch(values: &[f32], distance: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching changes nothing, and no address is wrong.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(distance * LANES).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, distance);
}

/// A loop over vectors. Mark `run` and what it calls `#[inline(always)]`, and leave no arithmetic in closures, which the
/// compiler may call instead of inlining them: then it would not use the vector units that the loop is compiled for.
pub(super) trait Transform {
    fn run<V: Vector>(self);
}

/// Runs a loop with the widest vectors that this processor has.
pub(super) fn transformed<T: Transform>(transform: T) {
    struct Plain<T>(T);

    impl<T: Transform> Kernel for Plain<T> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            self.0.run::<Lanes>();
        }
    }

    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512<T: Transform>(transform: T) {
            transform.run::<wide::Wide>();
        }
        if Instructions::Avx512.allowed() && is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return unsafe { avx512(transform) };
        }
    }
    vectorized(Plain(transform));
}

/// Vectors for every processor.
#[derive(Clone, Copy)]
pub(super) struct Lanes([f32; LANES]);

/// Implements an operator lane by lane.
macro_rules! lane_by_lane {
    ($operator:ident, $name:ident, $other:ty, |$x:ident, $y:ident, $i:ident| $value:expr) => {
        impl $operator<$other> for Lanes {
            type Output = Self;

            #[inline(always)]
            fn $name(mut self, $y: $other) -> Self {
                for ($i, $x) in self.0.iter_mut().enumerate() {
                    *$x = $value;
                }
                self
            }
        }
    };
}

lane_by_lane!(Add, add, Self, |x, y, i| *x + y.0[i]);
lane_by_lane!(Sub, sub, Self, |x, y, i| *x - y.0[i]);
lane_by_lane!(Mul, mul, f32, |x, factor, _i| *x * factor);

impl Vector for Lanes {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        Self(*values)
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        *values = self.0;
    }

    #[inline(always)]
    fn rounded(mut self) -> Self {
        for x in &mut self.0 {
            *x = f32::from_bits(rounded(*x) << 16);
        }
        self
    }

    #[inline(always)]
    fn from_quads(quads: [Self; 4]) -> [Self; 4] {
        let mut values = [Self::splat(0.); 4];
        for i in 0..4 * LANES {
            values[i % 4].0[i / 4] = quads[i / LANES].0[i % LANES];
        }
        values
    }

    #[inline(always)]
    fn into_quads(values: [Self; 4]) -> [Self; 4] {
        let mut quads = [Self::splat(0.); 4];
        for i in 0..4 * LANES {
            quads[i / LANES].0[i % LANES] = values[i % 4].0[i / 4];
        }
        quads
    }

    #[inline(always)]
    fn from_kernels(kernels: &[f32; 9 * LANES]) -> [Self; 9] {
        let mut taps = [Self::splat(0.); 9];
        for (i, &weight) in kernels.iter().enumerate() {
            taps[i % 9].0[i / 9] = weight;
        }
        taps
    }

    #[inline(always)]
    fn into_kernels(taps: [Self; 9], kernels: &mut [f32; 9 * LANES]) {
        for (i, weight) in kernels.iter_mut().enumerate() {
            *weight = taps[i % 9].0[i / 9];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{Add, LANES, Mul, Sub, Vector};
    use std::arch::x86_64::*;

    /// Where each lane of nine registers comes from in nine others: for each of them, the lane of a register or, from
    /// [`LANES`] on, of the one after it, and a mask of the lanes that come from these two.
    type Routes = [[([i32; LANES], u16); 5]; 9];

    /// Taps from kernels, or kernels from taps.
    const fn routes(into_kernels: bool) -> Routes {
        let mut routes = [[([0; LANES], 0); 5]; 9];
        let mut i = 0;
        while i < 9 * LANES {
            let (by_kernel, by_tap) = ((i / LANES, i % LANES), (i % 9, i / 9));
            let (to, from) = if into_kernels { (by_kernel, by_tap) } else { (by_tap, by_kernel) };
            let (order, mask) = &mut routes[to.0][from.0 / 2];
            order[to.1] = (from.0 % 2 * LANES + from.1) as i32;
            *mask |= 1 << to.1;
            i += 1;
        }
        routes
    }

    static FROM_KERNELS: Routes = routes(false);
    static INTO_KERNELS: Routes = routes(true);

    /// A register of AVX-512. Only [`super::transformed`] computes with it, where the processor has the instructions.
    #[derive(Clone, Copy)]
    pub(super) struct Wide(__m512);

    impl Add for Wide {
        type Output = Self;

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see the type.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }
    }

    impl Sub for Wide {
        type Output = Self;

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: see the type.
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }
    }

    impl Mul<f32> for Wide {
        type Output = Self;

        #[inline(always)]
        fn mul(self, factor: f32) -> Self {
            // SAFETY: see the type.
            Self(unsafe { _mm512_mul_ps(self.0, _mm512_set1_ps(factor)) })
        }
    }

    impl Wide {
        /// Pairs of values of two registers, in an order.
        #[inline(always)]
        fn pairs(self, other: Self, order: [i64; 8]) -> Self {
            // SAFETY: see the type; the array has the size of a register.
            unsafe {
                let (low, high) = (_mm512_castps_pd(self.0), _mm512_castps_pd(other.0));
                let order = _mm512_loadu_si512(order.as_ptr().cast());
                Self(_mm512_castpd_ps(_mm512_permutex2var_pd(low, order, high)))
            }
        }

        /// Values of two registers, in an order.
        #[inline(always)]
        fn values(self, other: Self, order: [i32; 16]) -> Self {
            // SAFETY: see the type; the array has the size of a register.
            unsafe {
                let order = _mm512_loadu_si512(order.as_ptr().cast());
                Self(_mm512_permutex2var_ps(self.0, order, other.0))
            }
        }
    }

    impl Wide {
        #[inline(always)]
        fn routed(registers: [Self; 9], routes: &Routes) -> [Self; 9] {
            let mut found = [Self::splat(0.); 9];
            for (found, routes) in found.iter_mut().zip(routes) {
                for (pair, (order, mask)) in routes.iter().enumerate() {
                    let (first, second) = (registers[2 * pair].0, registers[(2 * pair + 1).min(8)].0);
                    // SAFETY: see the type; the array has the size of a register.
                    unsafe {
                        let order = _mm512_loadu_si512(order.as_ptr().cast());
                        let some = _mm512_permutex2var_ps(first, order, second);
                        found.0 = _mm512_mask_mov_ps(found.0, *mask, some);
                    }
                }
            }
            found
        }
    }

    impl Vector for Wide {
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: see the type.
            Self(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        fn load(values: &[f32; LANES]) -> Self {
            // SAFETY: see the type; the array has the size of a register.
            Self(unsafe { _mm512_loadu_ps(values.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, values: &mut [f32; LANES]) {
            // SAFETY: see the type; the array has the size of a register.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn rounded(self) -> Self {
            // SAFETY: see the type.
            unsafe {
                let bits = _mm512_castps_si512(self.0);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
                let nearest = _mm512_and_si512(sum, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
                let nearest = _mm512_mask_mov_epi32(nearest, nan, _mm512_set1_epi32(0x7fc0_0000));
                Self(_mm512_castsi512_ps(nearest))
            }
        }

        #[inline(always)]
        fn from_quads([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            const FIRST: [i64; 8] = [0, 2, 4, 6, 8, 10, 12, 14];
            const SECOND: [i64; 8] = [1, 3, 5, 7, 9, 11, 13, 15];
            const EVEN: [i32; 16] = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];
            const ODD: [i32; 16] = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31];
            let (low, high) = (a.pairs(b, FIRST), c.pairs(d, FIRST));
            let (low2, high2) = (a.pairs(b, SECOND), c.pairs(d, SECOND));
            [low.values(high, EVEN), low.values(high, ODD), low2.values(high2, EVEN), low2.values(high2, ODD)]
        }

        #[inline(always)]
        fn into_quads([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            const LOW: [i32; 16] = [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23];
            const HIGH: [i32; 16] = [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31];
            const LOW_PAIRS: [i64; 8] = [0, 8, 1, 9, 2, 10, 3, 11];
            const HIGH_PAIRS: [i64; 8] = [4, 12, 5, 13, 6, 14, 7, 15];
            let (low, high) = (a.values(b, LOW), a.values(b, HIGH));
            let (low2, high2) = (c.values(d, LOW), c.values(d, HIGH));
            [
                low.pairs(low2, LOW_PAIRS),
                low.pairs(low2, HIGH_PAIRS),
                high.pairs(high2, LOW_PAIRS),
                high.pairs(high2, HIGH_PAIRS),
            ]
        }

        #[inline(always)]
        fn from_kernels(kernels: &[f32; 9 * LANES]) -> [Self; 9] {
            let mut registers = [Self::splat(0.); 9];
            for (register, part) in registers.iter_mut().zip(kernels.as_chunks().0) {
                *register = Self::load(part);
            }
            Self::routed(registers, &FROM_KERNELS)
        }

        #[inline(always)]
        fn into_kernels(taps: [Self; 9], kernels: &mut [f32; 9 * LANES]) {
            for (part, register) in
                kernels.as_chunks_mut().0.iter_mut().zip(Self::routed(taps, &INTO_KERNELS))
            {
                register.store(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::restricted;

    /// Writes what every method gives for 64 values.
    struct All<'a>(&'a [f32; 64], &'a mut Vec<u32>);

    impl Transform for All<'_> {
        fn run<V: Vector>(self) {
            let parts = self.0.as_chunks::<LANES>().0;
            let v = [0, 1, 2, 3].map(|i| V::load(&parts[i]));
            let [a, b, c, d] = V::from_quads(v);
            let [e, f, g, h] = V::into_quads(v);
            let back = V::into_quads([a, b, c, d]);
            let sums = [v[0] + v[1], v[1] - v[2], v[3] * 0.3, V::splat(2.), V::load_some(&self.0[3..8])];
            let rounded = v.map(V::rounded);
            let mut kernels = [0.; 9 * LANES];
            kernels.iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
            let taps = V::from_kernels(&kernels);
            let mut again = [0.; 9 * LANES];
            V::into_kernels(taps, &mut again);
            assert_eq!(again, kernels);
            let values = [a, b, c, d, e, f, g, h].into_iter().chain(back).chain(sums).chain(rounded);
            for value in values.chain(taps) {
                let mut values = [0.; LANES];
                value.store(&mut values);
                self.1.extend(values.map(f32::to_bits));
                value.store_some(&mut values[2..5]);
                self.1.extend(values.map(f32::to_bits));
            }
        }
    }

    #[test]
    fn all_vectors_give_the_same_bits() {
        let mut values = [0f32; 64];
        values.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32).sin());
        (values[5], values[17], values[40]) = (f32::NAN, f32::INFINITY, 1e38);
        let run = |most| {
            restricted(most, || {
                let mut found = vec![];
                transformed(All(&values, &mut found));
                found
            })
        };
        let expected = run(Instructions::Portable);
        let part = |i: usize| &expected[2 * LANES * i..2 * LANES * i + LANES];
        for i in 0..LANES {
            assert_eq!(part(1)[i], values[4 * i + 1].to_bits());
            assert_eq!(part(9)[i], values[LANES + i].to_bits());
            assert_eq!(part(23)[i], ((9 * i + 2) as f32).to_bits());
        }
        assert!(run(Instructions::Avx2) == expected && run(Instructions::Avx512) == expected);
    }
}
