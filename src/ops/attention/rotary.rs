//! Rotary position embeddings (RoPE, arXiv:2104.09864): queries and keys are rotated by angles that depend on the place of
//! their token.
//!
//! A head copies its queries and keys when it rotates them, and rotates their gradients back, so that nothing more is kept
//! for the backward pass than without rotation.

use crate::ops::gemm::Element;
use crate::ops::simd::{Kernel, vectorized};
use crate::ops::storage::values;
use candle_core::{D, DType, Device, Result, Tensor, bail};

/// Rotations of the queries and keys of every token, the same in all heads. Channels j and j + d/2 of a head of d channels
/// are rotated together: the "half" layout of DINOv3.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// Cosine and sine of each angle. [windows·N, d/2]
    cos: Tensor,
    sin: Tensor,
    /// Tokens of one softmax: N.
    tokens: usize,
}

impl Rotary {
    /// Rotations by `angles` [windows·N, d/2] in radians, row by row, for attention over N = `tokens` tokens at a time.
    /// Without windows there is one list of N rows; with windows their lists follow one another. A token whose angles are 0
    /// stays as it is.
    ///
    /// # Errors
    /// `angles` that do not divide into rows of `half` channels and lists of `tokens` rows.
    pub fn new(angles: &[f64], half: usize, tokens: usize, device: &Device) -> Result<Self> {
        if half * tokens == 0 || !angles.len().is_multiple_of(half * tokens) {
            bail!("rotary: {} angles for {tokens} tokens of 2·{half} channels", angles.len());
        }
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|&angle| f(angle) as f32).collect();
            Tensor::from_vec(values, (angles.len() / half, half), device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)?, tokens })
    }

    /// Errors unless the rotations are those of `samples` of `tokens` tokens with `channels` channels in a head.
    pub(in crate::ops) fn check(&self, samples: usize, tokens: usize, channels: usize) -> Result<()> {
        let (rows, half) = self.cos.dims2()?;
        let windows = rows / self.tokens;
        if (self.tokens, 2 * half) != (tokens, channels) || !samples.is_multiple_of(windows) {
            bail!(
                "rotary: rotations of {windows} × {} tokens with {} channels in a head, but {samples} × {tokens} tokens with \
                 {channels} channels",
                self.tokens,
                2 * half
            );
        }
        Ok(())
    }

    /// `qkv` [B, N, 3·C] with queries and keys rotated, as a composition of candle's operators.
    pub(super) fn composed(&self, qkv: &Tensor, heads: usize) -> Result<Tensor> {
        let (b, n, c3) = qkv.dims3()?;
        let (c, (rows, half)) = (c3 / 3, self.cos.dims2()?);
        let windows = rows / n;
        // The samples are the windows of images, one image after another.
        let split =
            qkv.narrow(D::Minus1, 0, 2 * c)?.reshape((b / windows, windows, n, 2 * heads, 2, half))?;
        let part = |i: usize| split.narrow(4, i, 1)?.contiguous();
        let (first, second) = (part(0)?, part(1)?);
        let table = |t: &Tensor| t.to_dtype(qkv.dtype())?.reshape((1, windows, n, 1, 1, half));
        let (cos, sin) = (table(&self.cos)?, table(&self.sin)?);
        let rotated = Tensor::cat(
            &[
                (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
                (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
            ],
            4,
        )?;
        Tensor::cat(&[rotated.reshape((b, n, 2 * c))?, qkv.narrow(D::Minus1, 2 * c, c)?], 2)
    }

    /// Runs `run` with the values of the rotations, if there are any; they must be on the CPU.
    pub(in crate::ops) fn with_turns_of<R>(
        rotary: Option<&Self>,
        run: impl FnOnce(Option<Turns>) -> R,
    ) -> Result<R> {
        let Some(Self { cos, sin, .. }) = rotary else { return Ok(run(None)) };
        let half = cos.dim(1)?;
        let (cos, cos_layout) = cos.storage_and_layout();
        let (sin, sin_layout) = sin.storage_and_layout();
        Ok(run(Some(Turns { cos: values(&cos, cos_layout)?, sin: values(&sin, sin_layout)?, half })))
    }

    /// Whether the rotations are on the CPU.
    pub(in crate::ops) fn on_cpu(&self) -> bool {
        self.cos.device().is_cpu() && self.cos.dtype() == DType::F32
    }
}

/// The values of [`Rotary`].
#[derive(Clone, Copy)]
pub(in crate::ops) struct Turns<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
}

impl<'a> Turns<'a> {
    /// The rotations of `rows` tokens of a `sample` of `tokens` tokens, from token `first` on.
    pub(super) fn of(self, sample: usize, tokens: usize, first: usize, rows: usize) -> Self {
        let windows = self.cos.len() / (self.half * tokens);
        let start = (sample % windows * tokens + first) * self.half;
        let range = start..start + rows * self.half;
        Self { cos: &self.cos[range.clone()], sin: &self.sin[range], half: self.half }
    }

    /// Rotates rows of 2·`half` channels, which lie `step` values apart, into `out`.
    pub(super) fn forward<T: Element>(self, rows: &[T], step: usize, out: &mut Vec<f32>) {
        out.resize(2 * self.cos.len(), 0.);
        vectorized(Forward { turns: self, rows, step, out });
    }

    /// Rotates gradients of rotated rows back, in place.
    pub(super) fn backward(self, rows: &mut [f32]) {
        vectorized(Backward { turns: self, rows });
    }
}

struct Forward<'a, T> {
    turns: Turns<'a>,
    rows: &'a [T],
    step: usize,
    out: &'a mut [f32],
}

impl<T: Element> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Turns { cos, sin, half } = self.turns;
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        let lines = self.out.chunks_exact_mut(2 * half).zip(self.rows.chunks(self.step));
        for ((out, row), (cos, sin)) in lines.zip(angles) {
            let (first, second) = row[..2 * half].split_at(half);
            let (of_first, of_second) = out.split_at_mut(half);
            let outputs = of_first.iter_mut().zip(of_second);
            let inputs = first.iter().zip(second).zip(cos.iter().zip(sin));
            for ((of_first, of_second), ((a, b), (&cos, &sin))) in outputs.zip(inputs) {
                let (a, b) = (a.wide(), b.wide());
                *of_first = a * cos - b * sin;
                *of_second = b * cos + a * sin;
            }
        }
    }
}

struct Backward<'a> {
    turns: Turns<'a>,
    rows: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Turns { cos, sin, half } = self.turns;
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (row, (cos, sin)) in self.rows.chunks_exact_mut(2 * half).zip(angles) {
            let (first, second) = row.split_at_mut(half);
            for ((a, b), (&cos, &sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::{Precision, Rotary, attention, gradient_check, rotary_attention};
    use candle_core::{Device, Tensor};

    /// Angles of all sizes; the first token of each list is not rotated.
    fn rotary(windows: usize, tokens: usize, half: usize) -> Rotary {
        let angle =
            |i: usize| if (i / half).is_multiple_of(tokens) { 0. } else { (i as f64 * 0.37).sin() * 7. };
        let angles: Vec<f64> = (0..windows * tokens * half).map(angle).collect();
        Rotary::new(&angles, half, tokens, &Device::Cpu).unwrap()
    }

    #[test]
    fn values_and_gradients() {
        for (b, n, heads, half, windows) in
            [(1, 1, 1, 1, 1), (2, 5, 2, 2, 1), (4, 6, 3, 1, 2), (1, 16, 2, 4, 1)]
        {
            let rotary = rotary(windows, n, half);
            let qkv = [gradient_check::random(&[b, n, 6 * heads * half], n as u64)];
            let run = |t: &[Tensor], precision| rotary_attention(&t[0], heads, &rotary, precision);
            gradient_check::operator(&qkv, |t| run(t, Precision::F32), 2e-6);
            gradient_check::bf16(&qkv, 4, run);
        }
    }

    #[test]
    fn several_tiles_are_one_softmax() {
        let (rotary, qkv) = (rotary(1, 1000, 2), [gradient_check::random(&[1, 1000, 24], 3)]);
        gradient_check::composition(&qkv, |t| rotary_attention(&t[0], 2, &rotary, Precision::F32), 5e-6);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let (rotary, qkv) = (rotary(1, 50, 8), [gradient_check::random(&[3, 50, 3 * 64], 0)]);
        for precision in [Precision::F32, Precision::Bf16] {
            gradient_check::threads(&qkv, |t| rotary_attention(&t[0], 4, &rotary, precision));
        }
    }

    /// Pairs of channels are (j, j + d/2), and only the difference of two angles counts.
    #[test]
    fn a_rotation_is_that_of_the_formula() {
        let (tokens, angle) = (2, 0.7f64);
        let rotary = Rotary::new(&[0., 0., angle, -angle], 2, tokens, &Device::Cpu).unwrap();
        let qkv = gradient_check::single(&gradient_check::random(&[1, tokens, 12], 1));
        let rotated = rotary.composed(&qkv, 1).unwrap().to_vec3::<f32>().unwrap();
        let plain = qkv.to_vec3::<f32>().unwrap();
        assert_eq!(rotated[0][0], plain[0][0], "angles of 0");
        assert_eq!(rotated[0][1][8..], plain[0][1][8..], "values are not rotated");
        for (part, pair, angle) in [(0, 0, angle), (0, 1, -angle), (4, 0, angle), (4, 1, -angle)] {
            let (a, b) = (f64::from(plain[0][1][part + pair]), f64::from(plain[0][1][part + pair + 2]));
            let expected = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()];
            for (place, expected) in [pair, pair + 2].into_iter().zip(expected) {
                let found = f64::from(rotated[0][1][part + place]);
                assert!((found - expected).abs() < 1e-6, "{part} {pair}: {found} {expected}");
            }
        }
        let turned = Rotary::new(&[0.3; 4], 2, tokens, &Device::Cpu).unwrap();
        let same = rotary_attention(&qkv, 1, &turned, Precision::F32).unwrap();
        let plain = attention(&qkv, 1, None, Precision::F32).unwrap();
        assert!(gradient_check::relative_error(&same, &plain) < 1e-6, "equal angles change nothing");
        let other = rotary_attention(&qkv, 1, &rotary, Precision::F32).unwrap();
        assert!(gradient_check::relative_error(&other, &plain) > 1e-3);
    }

    #[test]
    fn rotations_of_other_tokens_are_refused() {
        let qkv = gradient_check::random(&[2, 5, 12], 0);
        for (windows, tokens, half) in [(1, 10, 1), (1, 5, 2), (4, 5, 1)] {
            let rotary = rotary(windows, tokens, half);
            for qkv in [&qkv, &gradient_check::single(&qkv)] {
                let error = rotary_attention(qkv, 2, &rotary, Precision::F32).unwrap_err().to_string();
                assert!(error.contains("2 × 5 tokens with 2 channels"), "{error}");
            }
        }
        assert!(Rotary::new(&[0.; 5], 2, 2, &Device::Cpu).is_err());
    }
}
