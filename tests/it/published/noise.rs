//! The uniform numbers of NumPy and of PyTorch, with which reference tests choose masks: both draw from MT19937.

/// Length of the state.
const N: usize = 624;

/// Matsumoto and Nishimura's generator, seeded by `init_genrand`.
struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = (last ^ last >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    fn next(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let y = self.state[i] & 0x8000_0000 | self.state[(i + 1) % N] & 0x7fff_ffff;
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % N] ^ y >> 1 ^ odd;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }
}

/// `numpy.random.seed(seed); numpy.random.uniform(size=count)`.
pub fn numpy(seed: u32, count: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed);
    let mut draw = || {
        let (high, low) = (f64::from(generator.next() >> 5), f64::from(generator.next() >> 6));
        ((high * 67_108_864. + low) / 9_007_199_254_740_992.) as f32
    };
    (0..count).map(|_| draw()).collect()
}

/// `torch.manual_seed(seed); torch.rand(count)` on the CPU.
pub fn torch(seed: u32, count: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed);
    (0..count).map(|_| (generator.next() & 0xff_ffff) as f32 / 16_777_216.).collect()
}

/// The first values, and the patches that MAE keeps of 196, as NumPy and PyTorch give them.
#[test]
fn masks_are_those_of_numpy_and_torch() {
    let close =
        |found: &[f32], expected: [f32; 6]| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
    let kept = |noise: &[f32]| {
        let mask = bench::pretrain::PatchMask::from_noise(&[noise.to_vec()], 49).unwrap();
        mask.keep()[0].clone()
    };
    let noise = numpy(2, 196);
    assert!(close(&noise, [0.435_994_9, 0.025_926_23, 0.549_662_5, 0.435_322_4, 0.420_367_8, 0.330_334_8]));
    assert_eq!(kept(&noise)[..8], [188, 126, 77, 189, 81, 1, 55, 151]);
    assert_eq!(kept(&noise)[46..], [143, 28, 106]);
    let noise = torch(2, 196);
    assert!(close(&noise, [0.614_695, 0.381_013, 0.637_114, 0.474_461, 0.713_594, 0.619_036]));
    assert_eq!(kept(&noise)[..8], [82, 108, 20, 163, 128, 102, 140, 184]);
    assert_eq!(kept(&noise)[46..], [170, 28, 27]);
}
