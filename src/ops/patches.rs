//! Images cut into patches.

use super::autograd::{ApplyOp, records};
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::to_overwrite;
use super::storage::{argument, for_rows, fused};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// `images` [B, C, H, W] -> patches [B, h·w, p·p·C] of `patch` pixels, row by row; the order inside a patch is (row,
/// column, channel), channel fastest.
///
/// # Errors
/// When H or W is not a multiple of `patch`.
pub fn patchify(images: &Tensor, patch: usize) -> Result<Tensor> {
    let (b, c, height, width) = images.dims4()?;
    if patch == 0 || !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
        bail!("patchify: image {height}×{width} is not a multiple of patch {patch}");
    }
    if fused(&[images]) && !records([images]) {
        return images.contiguous()?.apply1(Patchify { patch });
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[images]) && !records([images]) && images.elem_count() > 0 {
        return cuda::patchify(images, patch);
    }
    let (h, w) = (height / patch, width / patch);
    images
        .reshape(&[b, c, h, patch, w, patch])?
        .permute(vec![0, 2, 4, 3, 5, 1])? // [B, h, w, p, p, C]
        .reshape((b, h * w, patch * patch * c))
}

/// Has no backward pass: it is for images that are constants.
struct Patchify {
    patch: usize,
}

impl CustomOp1 for Patchify {
    fn name(&self) -> &'static str {
        "patchify"
    }

    fn cpu_fwd(&self, images: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((b, c, height, width), p) = (layout.shape().dims4()?, self.patch);
        let (images, w, values) = (argument(images, layout)?, width / p, p * p * c);
        let count = height / p * w;
        let mut patches = to_overwrite(images.len()); // [B, h·w, p·p·C]
        for_rows(&mut patches, values, |rows, patches| {
            for (row, patch) in rows.zip(patches.chunks_exact_mut(values)) {
                let (image, (i, j)) =
                    (&images[row / count * c * height * width..], (row % count / w, row % w));
                for channel in 0..c {
                    for (y, line) in patch.chunks_exact_mut(p * c).enumerate() {
                        let pixels = &image[(channel * height + i * p + y) * width + j * p..][..p];
                        line[channel..].iter_mut().step_by(c).zip(pixels).for_each(|(to, &x)| *to = x);
                    }
                }
            }
        });
        Ok((CpuStorage::F32(patches), (b, count, values).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn constants_are_cut_as_the_composition_does_it() {
        for (b, c, h, w, patch) in [(2, 3, 8, 12, 4), (3, 1, 6, 6, 2), (1, 2, 3, 5, 1)] {
            let images = gradient_check::random(&[b, c, h, w], 0);
            let (found, expected) = (
                patchify(&gradient_check::single(&images), patch).unwrap(),
                patchify(&images, patch).unwrap(),
            );
            assert_eq!(found.dims(), expected.dims());
            let flat =
                |t: &Tensor| gradient_check::single(t).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&found), flat(&expected));
        }
    }

    #[test]
    fn variables_get_gradients() {
        let images = [gradient_check::random(&[2, 3, 4, 6], 0)];
        gradient_check::operator(&images, |t| patchify(&t[0], 2), 1e-6);
    }
}
