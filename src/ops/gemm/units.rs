//! The arithmetic units of the processor: how fast they are, and whether those for bf16 pay.
//!
//! `vdpbf16ps` multiplies twice as many values as an f32 instruction, but processors need one, two or more cycles for
//! it. Products in bf16 use it where it is at least [`WORTH`] times as fast as f32, and elsewhere the f32 units on
//! values rounded to bf16. Both have the same operands but sum in another order, so the choice must be the same
//! whenever a program runs on a processor: it comes from a table of processors, and for others from a measurement in
//! registers, which gives 2, 1 or less, and never anything near the bound.

#[cfg(target_arch = "x86_64")]
use std::time::Instant;

/// The ratio of multiply-adds from which on the instruction for bf16 is used.
#[cfg(target_arch = "x86_64")]
const WORTH: f64 = 1.4;

/// Whether products in bf16 use `vdpbf16ps`, which the processor has. Decided once in a process.
#[cfg(target_arch = "x86_64")]
pub(super) fn pairs_pay() -> bool {
    static PAY: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let measured = || {
        let (mut single, mut pairs) = (0f64, 0f64);
        for _ in 0..8 {
            single = single.max(AVX512.rate());
            pairs = pairs.max(AVX512_BF16.rate());
        }
        pairs / single
    };
    *PAY.get_or_init(|| pay(&Processor::this(), measured))
}

/// What CPUID says about a processor.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
struct Processor {
    vendor: [u8; 12],
    family: u32,
    model: u32,
}

#[cfg(target_arch = "x86_64")]
impl Processor {
    fn this() -> Self {
        use std::arch::x86_64::__cpuid;
        // SAFETY: every processor with AVX-512 has the instruction and these leaves.
        #[allow(unused_unsafe)]
        let (name, version) = unsafe { (__cpuid(0), __cpuid(1).eax) };
        let mut vendor = [0; 12];
        for (to, word) in vendor.chunks_exact_mut(4).zip([name.ebx, name.edx, name.ecx]) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Self::of(vendor, version)
    }

    /// `version` is EAX of leaf 1.
    fn of(vendor: [u8; 12], version: u32) -> Self {
        let family = (version >> 8) & 0xf;
        let model = (version >> 4) & 0xf | (version >> 12) & 0xf0;
        Self { vendor, family: family + if family == 0xf { (version >> 20) & 0xff } else { 0 }, model }
    }
}

/// Whether `vdpbf16ps` pays on a processor; `measured` gives its rate as a multiple of that of f32.
#[cfg(target_arch = "x86_64")]
fn pay(processor: &Processor, measured: impl FnOnce() -> f64) -> bool {
    match (&processor.vendor, processor.family, processor.model) {
        // Zen 4 and Zen 5 have it at the rate of f32 instructions.
        (b"AuthenticAMD", 0x19 | 0x1a, _) => true,
        // Sapphire Rapids and Emerald Rapids need several cycles for it: there it is slower than f32.
        (b"GenuineIntel", 6, 0x8f | 0xcf) => false,
        _ => measured() >= WORTH,
    }
}

/// Arithmetic whose operands and sums stay in registers: the most that a kernel can reach.
pub(super) struct Unit {
    /// Floating-point operations in a round.
    #[cfg(target_arch = "x86_64")]
    operations: usize,
    /// Computes that many rounds.
    #[cfg(target_arch = "x86_64")]
    run: unsafe fn(usize),
}

#[cfg(target_arch = "x86_64")]
impl Unit {
    /// GFLOP/s of one core: the best of a few rounds of 50 µs. Only for a unit that the processor has.
    pub(super) fn rate(&self) -> f64 {
        const ROUNDS: usize = 1 << 14;
        let seconds = (0..8).map(|_| {
            let start = Instant::now();
            // SAFETY: the kernel that this unit belongs to is only offered where the processor has its instructions.
            unsafe { (self.run)(ROUNDS) };
            start.elapsed().as_secs_f64()
        });
        (self.operations * ROUNDS) as f64 * 1e-9 / seconds.fold(f64::INFINITY, f64::min)
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Unit {
    pub(super) fn rate(&self) -> f64 {
        f64::NAN
    }
}

/// A loop over `$sums` independent sums of vectors.
#[cfg(target_arch = "x86_64")]
macro_rules! unit {
    ($unit:ident, $run:ident, $features:literal, $values:literal in $sums:literal of $set:ident, $multiply:expr) => {
        #[target_feature(enable = $features)]
        fn $run(rounds: usize) {
            use std::arch::x86_64::*;
            let mut sums = [$set(0.); $sums];
            let (a, b) = std::hint::black_box(($set(0.5), $set(0.25)));
            for _ in 0..rounds {
                for sum in &mut sums {
                    // SAFETY: the function has the features of the instruction.
                    #[allow(unused_unsafe)]
                    unsafe {
                        *sum = ($multiply)(a, b, *sum);
                    }
                }
            }
            std::hint::black_box(sums);
        }

        pub(super) static $unit: Unit = Unit { operations: 2 * $values * $sums, run: $run };
    };
}

#[cfg(target_arch = "x86_64")]
unit!(AVX2, avx2, "avx2,fma", 8 in 12 of _mm256_set1_ps, |a, b, sum| _mm256_fmadd_ps(a, b, sum));
#[cfg(target_arch = "x86_64")]
unit!(AVX512, avx512, "avx512f", 16 in 24 of _mm512_set1_ps, |a, b, sum| _mm512_fmadd_ps(a, b, sum));
#[cfg(target_arch = "x86_64")]
unit!(AVX512_BF16, avx512_bf16, "avx512f,avx512bf16", 32 in 24 of _mm512_set1_ps, |a, b, sum| _mm512_dpbf16_ps(
    sum,
    std::mem::transmute::<__m512, __m512bh>(a),
    std::mem::transmute::<__m512, __m512bh>(b)
));

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_instruction_is_used_where_it_pays() {
        const AMD: [u8; 12] = *b"AuthenticAMD";
        const INTEL: [u8; 12] = *b"GenuineIntel";
        let unmeasured = || -> f64 { panic!("the table has this processor") };
        // EAX of leaf 1: Genoa, Turin; Sapphire Rapids, Emerald Rapids.
        for (vendor, version, expected) in [
            (AMD, 0x00a1_0f11, true),
            (AMD, 0x00b0_0f21, true),
            (INTEL, 0x000806f8, false),
            (INTEL, 0x000c_06f2, false),
        ] {
            let processor = Processor::of(vendor, version);
            assert_eq!(pay(&processor, unmeasured), expected, "{processor:x?}");
        }
        // Cooper Lake, and one of another vendor: measured.
        for (vendor, version) in [(INTEL, 0x0005_065b), (*b"HygonGenuine", 0x0090_0f02)] {
            let processor = Processor::of(vendor, version);
            for (ratio, expected) in [(0.5, false), (1.05, false), (1.9, true), (2., true)] {
                assert_eq!(pay(&processor, || ratio), expected, "{processor:x?} {ratio}");
            }
        }
    }

    #[test]
    fn the_model_and_family_are_those_of_cpuid() {
        let found = |version| {
            let Processor { family, model, .. } = Processor::of(*b"AuthenticAMD", version);
            (family, model)
        };
        assert_eq!(found(0x00b0_0f21), (0x1a, 0x02));
        assert_eq!(found(0x00a2_0f12), (0x19, 0x21));
        assert_eq!(found(0x0008_06f8), (6, 0x8f));
    }

    #[test]
    fn a_rate_is_that_of_a_processor() {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let rate = AVX2.rate();
            assert!((1. ..500.).contains(&rate), "{rate} GFLOP/s");
        }
    }
}
