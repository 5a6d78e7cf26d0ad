//! Random numbers that depend only on (seed, purpose, indices).
//!
//! No state of a generator is saved: an uninterrupted run, a resumed run and a run with another number of loader
//! workers draw the same numbers. Initialisation, masks, augmentation and drop path all draw from here, because
//! candle's CPU generator cannot be seeded.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A ChaCha8 stream keyed by a seed, a purpose and indices. Implements [`rand::RngCore`].
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream of `purpose` at `indices` (for example `("augment", &[epoch, index])`) under `seed`.
    pub fn new(seed: u64, purpose: &str, indices: &[u64]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(&(purpose.len() as u64).to_le_bytes());
        hasher.update(purpose.as_bytes());
        for index in indices {
            hasher.update(&index.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// A child stream, which does not depend on how much of this one is consumed later.
    pub fn fork(&mut self) -> Self {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        Self(ChaCha8Rng::from_seed(seed))
    }
}

impl RngCore for Rng {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;
    use rand::RngCore;

    #[test]
    fn a_stream_depends_on_each_part_of_its_key() {
        let first = |seed, purpose: &str, indices: &[u64]| Rng::new(seed, purpose, indices).next_u64();
        let base = first(0, "augment", &[1, 2]);
        assert_eq!(base, first(0, "augment", &[1, 2]));
        for other in [first(1, "augment", &[1, 2]), first(0, "mask", &[1, 2]), first(0, "augment", &[2, 1])] {
            assert_ne!(base, other);
        }
    }
}
