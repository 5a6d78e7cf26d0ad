//! Vectors of values on which the transforms of [`super::transform`] compute.

use crate::ops::simd::LANES;
use std::ops::{Add, Mul, Sub};

/// [`std::array::from_fn`], which the compiler calls instead of inlining it if there is much to do: then it would not use
/// the vector units that a kernel is compiled for.
#[inline(always)]
pub(super) fn filled<T: Copy, const N: usize>(start: T, value: impl Fn(usize) -> T) -> [T; N] {
    let mut values = [start; N];
    for (i, place) in values.iter_mut().enumerate() {
        *place = value(i);
    }
    values
}

/// The same value of several tiles or channels.
#[derive(Clone, Copy)]
pub(super) struct Lanes(pub [f32; LANES]);

pub(super) const ZERO: Lanes = Lanes([0.; LANES]);

impl Add for Lanes {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(filled(0., |i| self.0[i] + other.0[i]))
    }
}

impl Sub for Lanes {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(filled(0., |i| self.0[i] - other.0[i]))
    }
}

impl Mul<f32> for Lanes {
    type Output = Self;

    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        Self(filled(0., |i| self.0[i] * factor))
    }
}

impl Lanes {
    /// The first values, with zeros after them.
    #[inline(always)]
    pub(super) fn load(values: &[f32]) -> Self {
        match values.first_chunk() {
            Some(values) => Self(*values),
            None => Self(filled(0., |i| values.get(i).copied().unwrap_or(0.))),
        }
    }

    /// As many as there is place for.
    #[inline(always)]
    pub(super) fn store(self, values: &mut [f32]) {
        match values.first_chunk_mut() {
            Some(values) => *values = self.0,
            None => {
                for (value, x) in values.iter_mut().zip(self.0) {
                    *value = x;
                }
            }
        }
    }
}
