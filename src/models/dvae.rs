//! The discrete variational autoencoder of DALL·E (arXiv:2102.12092, appendix A; openai/DALL-E `dall_e/encoder.py`,
//! `decoder.py`): images to tokens and back.
//!
//! Parameter names are those of the released files, below `encoder.` and `decoder.`: convolutions have `w` [out, in, k,
//! k] and `b`. The reference computes convolutions in half precision on a device; here they use the builder's
//! precision, except the two that the reference keeps in f32. Tokens can therefore differ only at near-ties.

use crate::config::{DvaeSizes, Normalize};
use crate::ops::{self, Precision};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Pixels are moved away from 0 and 1, where the density of their logits is unbounded.
const MARGIN: f64 = 0.1;

/// `x` in [0, 1] -> [0.1, 0.9].
pub fn map_pixels(x: &Tensor) -> Result<Tensor> {
    x.affine(1. - 2. * MARGIN, MARGIN)
}

/// The inverse of [`map_pixels`], within [0, 1].
pub fn unmap_pixels(x: &Tensor) -> Result<Tensor> {
    x.affine(1. / (1. - 2. * MARGIN), -MARGIN / (1. - 2. * MARGIN))?.clamp(0., 1.)
}

/// A convolution that keeps the size of the map.
#[derive(Clone, Debug)]
struct Conv {
    w: Tensor,
    b: Tensor,
    precision: Precision,
}

impl Conv {
    /// Weight normal(0, 1/√fan_in), bias 0.
    fn new(input: usize, output: usize, kernel: usize, vb: VarBuilder) -> Result<Self> {
        let stdev = ((input * kernel * kernel) as f64).powf(-0.5);
        Self::with_std(input, output, kernel, stdev, vb)
    }

    fn with_std(input: usize, output: usize, kernel: usize, stdev: f64, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            w: vb.get_with_hints((output, input, kernel, kernel), "w", Init::Randn { mean: 0., stdev })?,
            b: vb.get_with_hints(output, "b", Init::Const(0.))?,
            precision: Precision::of(vb.dtype())?,
        })
    }

    /// The same convolution in f32, whatever the precision of the others.
    fn exact(self) -> Self {
        Self { precision: Precision::F32, ..self }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let padding = (self.w.dim(2)? - 1) / 2;
        ops::conv2d(x, &self.w, Some(&self.b), 1, padding, self.precision)
    }
}

/// id(x) + gain · four convolutions, each after a ReLU.
#[derive(Clone, Debug)]
struct Block {
    id_path: Option<Conv>,
    res_path: Vec<Conv>,
    gain: f64,
}

impl Block {
    /// `kernels` of the four convolutions; `layers` blocks in the whole model share the gain 1/layers².
    fn new(input: usize, output: usize, kernels: [usize; 4], layers: usize, vb: VarBuilder) -> Result<Self> {
        let hidden = output / 4;
        let widths = [input, hidden, hidden, hidden, output];
        let conv = |i: usize| {
            let name = format!("conv_{}", i + 1);
            Conv::new(widths[i], widths[i + 1], kernels[i], vb.pp("res_path").pp(name))
        };
        let id_path = (input != output).then(|| Conv::new(input, output, 1, vb.pp("id_path"))).transpose()?;
        let gain = ((layers * layers) as f64).recip();
        Ok(Self { id_path, res_path: (0..4).map(conv).collect::<Result<_>>()?, gain })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for conv in &self.res_path {
            y = conv.forward(&ops::relu(&y)?)?;
        }
        let id = match &self.id_path {
            Some(conv) => conv.forward(x)?,
            None => x.clone(),
        };
        id + y * self.gain
    }
}

/// The groups of an encoder or decoder, whose blocks are named from 1.
fn groups(
    input: usize,
    widths: &[usize],
    kernels: [usize; 4],
    sizes: &DvaeSizes,
    vb: &VarBuilder,
) -> Result<Vec<Vec<Block>>> {
    let layers = sizes.groups * sizes.blocks;
    let group = |(g, &width): (usize, &usize)| {
        let before = if g == 0 { input } else { widths[g - 1] };
        let block = |i: usize| {
            let vb = vb.pp(format!("group_{}", g + 1)).pp(format!("block_{}", i + 1));
            Block::new(if i == 0 { before } else { width }, width, kernels, layers, vb)
        };
        (0..sizes.blocks).map(block).collect()
    };
    widths.iter().enumerate().map(group).collect()
}

/// The encoder: maps images to one logit per token of the code book at every position.
#[derive(Clone, Debug)]
pub struct Encoder {
    input: Conv,
    groups: Vec<Vec<Block>>,
    output: Conv,
}

impl Encoder {
    /// The parameters lie below `blocks`.
    ///
    /// # Errors
    /// Invalid sizes, or a parameter that the builder lacks.
    pub fn new(sizes: &DvaeSizes, vb: VarBuilder) -> Result<Self> {
        sizes.check().map_err(candle_core::Error::msg)?;
        let widths: Vec<usize> = (0..sizes.groups).map(|group| sizes.width(group)).collect();
        let (vb, last) = (vb.pp("blocks"), sizes.width(sizes.groups - 1));
        Ok(Self {
            input: Conv::new(sizes.channels, sizes.hidden, 7, vb.pp("input"))?,
            groups: groups(sizes.hidden, &widths, [3, 3, 3, 1], sizes, &vb)?,
            output: Conv::new(last, sizes.vocabulary, 1, vb.pp("output").pp("conv"))?.exact(),
        })
    }

    /// `x` [B, C, H, W] of [`map_pixels`] -> logits [B, vocabulary, H/stride, W/stride].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.output.forward(&self.features(x)?)
    }

    /// The input of the last layer, for `x` [B, C, H, W]. [B, width, H/stride, W/stride]
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.input.forward(x)?;
        for (g, group) in self.groups.iter().enumerate() {
            for block in group {
                x = block.forward(&x)?;
            }
            if g + 1 < self.groups.len() {
                x = ops::max_pool2d(&x, 2, 2, 0)?;
            }
        }
        ops::relu(&x)
    }

    /// The weight and bias of the last layer that give every token scores of mean 0 and standard deviation `spread`
    /// over the places of `x` [B, C, H, W] (as the data-dependent initialisation of arXiv:1602.07868, section 3).
    pub fn spread_output(&self, x: &Tensor, spread: f64) -> Result<(Tensor, Tensor)> {
        ops::no_grad(|| {
            let scores = self.output.forward(&self.features(&x.detach())?)?; // [B, V, h, w]
            let scores = scores.transpose(0, 1)?.flatten_from(1)?; // [V, places]
            let mean = scores.mean_keepdim(1)?;
            let deviation = scores.broadcast_sub(&mean)?.sqr()?.mean_keepdim(1)?.sqrt()?;
            let scale = (deviation + 1e-6)?.recip()?.affine(spread, 0.)?; // [V, 1]
            let w = self.output.w.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
            let b = ((self.output.b.unsqueeze(1)? - mean)? * scale)?.squeeze(1)?;
            Ok((w, b))
        })
    }
}

/// The decoder: maps weights of tokens to images.
#[derive(Clone, Debug)]
pub struct Decoder {
    input: Conv,
    groups: Vec<Vec<Block>>,
    output: Conv,
}

impl Decoder {
    /// The parameters lie below `blocks`.
    ///
    /// # Errors
    /// Invalid sizes, or a parameter that the builder lacks.
    pub fn new(sizes: &DvaeSizes, vb: VarBuilder) -> Result<Self> {
        sizes.check().map_err(candle_core::Error::msg)?;
        let widths: Vec<usize> = (0..sizes.groups).rev().map(|group| sizes.width(group)).collect();
        let vb = vb.pp("blocks");
        Ok(Self {
            // Its input is about one token per place, so that the fan-in is 1 (the reference counts the code book).
            input: Conv::with_std(sizes.vocabulary, sizes.embedding, 1, 1., vb.pp("input"))?.exact(),
            groups: groups(sizes.embedding, &widths, [1, 3, 3, 3], sizes, &vb)?,
            output: Conv::new(sizes.hidden, 2 * sizes.channels, 1, vb.pp("output").pp("conv"))?,
        })
    }

    /// `z` [B, vocabulary, h, w], weights of the tokens -> [B, 2·C, h·stride, w·stride]: location and logarithm of the
    /// scale of the logits of mapped pixels.
    pub fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let mut x = self.input.forward(z)?;
        for (g, group) in self.groups.iter().enumerate() {
            for block in group {
                x = block.forward(&x)?;
            }
            if g + 1 < self.groups.len() {
                let (_, _, h, w) = x.dims4()?;
                x = ops::resize_nearest(&x, (2 * h, 2 * w))?;
            }
        }
        self.output.forward(&ops::relu(&x)?)
    }

    /// The image that weights of tokens stand for, in [0, 1]. [B, vocabulary, h, w] -> [B, C, H, W]
    pub fn image(&self, z: &Tensor) -> Result<Tensor> {
        let out = self.forward(z)?;
        let location = out.narrow(1, 0, out.dim(1)? / 2)?;
        unmap_pixels(&candle_nn::ops::sigmoid(&location)?)
    }
}

/// A trained discrete autoencoder: its encoder computes targets of pre-training, and its decoder draws them.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// Sizes of both.
    pub sizes: DvaeSizes,
    /// Images to tokens.
    pub encoder: Encoder,
    /// Tokens to images; `None` if only the encoder was loaded.
    pub decoder: Option<Decoder>,
}

impl Tokenizer {
    /// Tokens of `images` [B, C, H, W], normalised by `normalize`, one for each cell of `grid` -> `[B·h·w]`, row-major.
    ///
    /// The tokenizer sees the same crop at the size that gives one token per patch (112 pixels for patches of 16 at
    /// 224, 128 for patches of 14), as means over areas where that is smaller and bilinear where it is larger; BEiT
    /// resizes the crop of the source image by Lanczos instead.
    pub fn tokens(&self, images: &Tensor, normalize: &Normalize, grid: (usize, usize)) -> Result<Vec<u32>> {
        self.tokens_on_device(images, normalize, grid)?.to_vec1()
    }

    /// [`Tokenizer::tokens`] as a tensor on the device of the images. u32 `[B·h·w]`
    pub fn tokens_on_device(
        &self,
        images: &Tensor,
        normalize: &Normalize,
        grid: (usize, usize),
    ) -> Result<Tensor> {
        ops::no_grad(|| {
            let pixels = denormalized(&images.detach(), normalize)?;
            let side = self.sizes.stride();
            let pixels = resized(&pixels, (grid.0 * side, grid.1 * side))?;
            let logits = self.encoder.forward(&map_pixels(&pixels)?)?; // [B, V, h, w]
            logits.argmax(1)?.flatten_all()
        })
    }

    /// The images that `tokens` (`[B·h·w]`) stand for, at `size`, normalised. [B, C, H, W]
    ///
    /// # Errors
    /// The tokenizer has no decoder.
    pub fn draw(
        &self,
        tokens: &Tensor,
        grid: (usize, usize),
        size: (usize, usize),
        normalize: &Normalize,
    ) -> Result<Tensor> {
        let Some(decoder) = &self.decoder else {
            candle_core::bail!("the tokenizer has no decoder, because its file contains only an encoder")
        };
        ops::no_grad(|| {
            let (h, w) = grid;
            let (batch, count) = (tokens.elem_count() / (h * w), self.sizes.vocabulary);
            let tokens = tokens.to_dtype(candle_core::DType::U32)?.reshape((batch, 1, h, w))?;
            let all = Tensor::arange(0u32, count as u32, tokens.device())?.reshape((1, count, 1, 1))?;
            let one_hot = tokens.broadcast_eq(&all)?.to_dtype(candle_core::DType::F32)?;
            normalized(&resized(&decoder.image(&one_hot)?, size)?, normalize)
        })
    }
}

/// Resizes by averaging areas if the image becomes smaller, and bilinearly if it becomes larger.
fn resized(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    match (h, w) == size {
        true => Ok(x.clone()),
        false if h >= size.0 && w >= size.1 => ops::adaptive_avg_pool2d(x, size),
        false => ops::resize_bilinear(x, size),
    }
}

/// Statistics of the channels of an image, [1, C, 1, 1] each.
fn statistics(x: &Tensor, normalize: &Normalize) -> Result<(Tensor, Tensor)> {
    let channels = x.dim(1)?;
    let (mean, std): (Vec<f32>, Vec<f32>) = (0..channels).map(|c| normalize.channel(c)).unzip();
    let shaped = |values| Tensor::from_vec(values, (1, channels, 1, 1), x.device());
    Ok((shaped(mean)?, shaped(std)?))
}

/// Pixels in [0, 1] of normalised ones. [B, C, H, W]
pub fn denormalized(x: &Tensor, normalize: &Normalize) -> Result<Tensor> {
    let (mean, std) = statistics(x, normalize)?;
    x.broadcast_mul(&std)?.broadcast_add(&mean)?.clamp(0., 1.)
}

/// The inverse of [`denormalized`].
pub fn normalized(x: &Tensor, normalize: &Normalize) -> Result<Tensor> {
    let (mean, std) = statistics(x, normalize)?;
    x.broadcast_sub(&mean)?.broadcast_div(&std)
}

#[cfg(test)]
mod tests;
