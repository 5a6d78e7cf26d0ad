//! Loops compiled for the vector units of the processor, and their arithmetic.
//!
//! The compiler vectorises plain loops, but only for the instruction set that it is given; [`vectorized`] compiles a
//! kernel three times and chooses at run time. Multiply-adds are fused only where the code says `mul_add`, and sums run in
//! [`LANES`] fixed lanes, so that every instruction set gives the same bits. Without an instruction for it, `mul_add` is
//! a slow function call: such x86-64 processors have neither AVX2 nor AVX-512.

/// Partial sums of a reduction.
pub(crate) const LANES: usize = 16;

/// A loop over plain slices. Mark `run` and what it calls `#[inline(always)]`: code that is called
/// instead of inlined stays at the baseline instruction set.
pub(crate) trait Kernel {
    type Output;
    fn run(self) -> Self::Output;
}

/// Instruction sets that kernels are compiled for, the narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) enum Instructions {
    /// The baseline of the architecture, used when nothing better is available.
    #[cfg(test)]
    Portable,
    Avx2,
    Avx512,
}

impl Instructions {
    /// Whether kernels may use this instruction set if the processor has it; a test can forbid it ([`restricted`]).
    pub(super) fn allowed(self) -> bool {
        #[cfg(test)]
        return self <= MOST.get();
        #[cfg(not(test))]
        true
    }
}

#[cfg(test)]
thread_local! {
    static MOST: std::cell::Cell<Instructions> = const { std::cell::Cell::new(Instructions::Avx512) };
}

/// Runs `run` in a thread whose kernels use `most` and nothing wider.
#[cfg(test)]
pub(super) fn restricted<T: Send>(most: Instructions, run: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        MOST.set(most);
        run()
    })
}

/// Runs a kernel with the widest vectors that this processor has.
pub(crate) fn vectorized<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run()
        }
        if Instructions::Avx512.allowed()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the processor has every feature that the function enables.
            return unsafe { avx512(kernel) };
        }
        if Instructions::Avx2.allowed() && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
        {
            // SAFETY: the processor has every feature that the function enables.
            return unsafe { avx2(kernel) };
        }
    }
    kernel.run()
}

/// eˣ to 2 units in the last place. Below −87 it stays at 1.6e-38 instead of falling to 0.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // x = n·ln 2 + r with n whole, |r| ≤ ln 2 / 2; comparisons are such that NaN stays NaN.
    const ROUND: f32 = 12_582_912.; // 1.5·2²³: adding it leaves round(·) in the low mantissa bits
    const LN2_HIGH: f32 = 0.693_359_4; // few bits, so that n·LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87. { -87. } else { x };
    let x = if x > 88.37 { 88.37 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = 1.381_455_6e-3f32;
    let p = p.mul_add(r, 8.368_717e-3);
    let p = p.mul_add(r, 4.166_839e-2);
    let p = p.mul_add(r, 0.166_665_21);
    let p = p.mul_add(r, 0.499_999_94);
    let p = (p * r).mul_add(r, r) + 1.;
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// Σ term(x).
#[inline(always)]
pub(super) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane += term(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += term(x);
    }
    fold(lanes)
}

/// Σ term(a, b).
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += term(a, b);
        }
    }
    for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += term(a, b);
    }
    fold(lanes)
}

/// The largest value; −∞ for none. NaN is ignored.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane = larger(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = larger(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Adds the lanes pairwise.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check::greatest;

    #[test]
    fn exp_is_accurate_over_its_range() {
        let error = |x: f32| (f64::from(exp(x)) / f64::from(x).exp() - 1.).abs();
        let worst = greatest((-870_000..=883_000).map(|i| error(i as f32 * 1e-4)));
        assert!(worst < 1.5e-7, "{worst:e}");
        assert_eq!(exp(0.), 1.);
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_at_odd_lengths() {
        for length in [0, 1, 15, 16, 17, 50, 197] {
            let values: Vec<f32> = (0..length).map(|i| i as f32 - 20.).collect();
            let expected: f32 = values.iter().sum();
            assert_eq!(sum(&values, |x| x), expected);
            assert_eq!(sum2(&values, &values, |a, b| a + b), 2. * expected);
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
