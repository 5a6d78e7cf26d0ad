//! Feature pyramids: four strides from the maps of a plain ViT, which all have one stride, and the FPN above them.
//!
//! [`ScalePyramid`] takes four taps (Li et al., arXiv:2111.11429; BEiT, arXiv:2106.08254), [`SimplePyramid`] the last
//! map alone (ViTDet, arXiv:2203.16527). [`Fpn`] is arXiv:1612.03144. Parameter names: `fpn1`… of BEiT, `simfp_2`… of
//! detectron2's ViTDet, `inner_blocks`/`layer_blocks` of torchvision.

use crate::nn::{ConvConfig, ConvInit, ConvNorm, ConvTranspose2d, Norm2d, NormKind, Pass};
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Strides of the levels of a pyramid, in patches: ¼, ½, 1, 2. A patch of 16 pixels gives strides 4, 8, 16, 32.
pub const LEVELS: usize = 4;

/// Four maps, finest first.
pub type Pyramid = Vec<Tensor>;

/// Four taps to four strides: ×4 (two transposed convolutions with norm and GELU between), ×2 (one), ×1, ÷2 (max
/// pool). All keep the width. The norm is GroupNorm in Li et al., BatchNorm in BEiT's UperNet.
#[derive(Clone, Debug)]
pub struct ScalePyramid {
    first: ConvTranspose2d,
    norm: Norm2d,
    second: ConvTranspose2d,
    double: ConvTranspose2d,
}

impl ScalePyramid {
    /// `width` is that of the taps.
    pub fn new(width: usize, norm: NormKind, vb: VarBuilder) -> Result<Self> {
        let up = |vb| ConvTranspose2d::new(width, width, ConvConfig::strided(2, ConvInit::Torch), vb);
        let quadruple = vb.pp("fpn1");
        Ok(Self {
            first: up(quadruple.pp("0"))?,
            norm: Norm2d::new(norm, width, quadruple.pp("1"))?,
            second: up(quadruple.pp("3"))?,
            double: up(vb.pp("fpn2.0"))?,
        })
    }

    /// Four `maps` [B, C, h, w], the tap of the earliest block first -> [B, C, 4h, 4w], [B, C, 2h, 2w], [B, C, h, w],
    /// [B, C, ⌊h/2⌋, ⌊w/2⌋].
    ///
    /// # Errors
    /// When the number of maps is not four, or a map has a single row or column.
    pub fn forward(&self, maps: &[Tensor], pass: &mut Pass) -> Result<Pyramid> {
        let [one, two, three, four] = maps else {
            candle_core::bail!("a pyramid of {LEVELS} levels got {} maps", maps.len());
        };
        let quadruple = |x: &Tensor| {
            let x = self.norm.forward(&self.first.forward(x)?, pass)?;
            self.second.forward(&ops::gelu(&x)?)
        };
        Ok(vec![
            ops::chain(one, quadruple)?,
            self.double.forward(two)?,
            three.clone(),
            ops::max_pool2d(four, 2, 2, 0)?,
        ])
    }
}

/// One map to four strides, each then a 1×1 and a 3×3 convolution, without top-down path. Channels halve with every
/// transposed convolution.
#[derive(Clone, Debug)]
pub struct SimplePyramid {
    first: ConvTranspose2d,
    norm: Norm2d,
    second: ConvTranspose2d,
    double: ConvTranspose2d,
    out: Vec<[ConvNorm; 2]>,
}

impl SimplePyramid {
    /// Builds a pyramid from `width` to `channels` channels, with `norm` in every level (`layer` in ViTDet).
    ///
    /// # Errors
    /// When the width cannot be halved twice.
    pub fn new(width: usize, channels: usize, norm: NormKind, vb: VarBuilder) -> Result<Self> {
        if !width.is_multiple_of(4) {
            candle_core::bail!("simple pyramid: width {width} is not a multiple of 4");
        }
        let up =
            |input, vb| ConvTranspose2d::new(input, input / 2, ConvConfig::strided(2, ConvInit::Torch), vb);
        let (fine, double) = (vb.pp("simfp_2"), vb.pp("simfp_3"));
        // The numbers of the two convolutions of a level depend on the layers before them.
        let out =
            [(2, width / 4, 4), (3, width / 2, 1), (4, width, 0), (5, width, 1)].map(|(level, input, at)| {
                let vb = vb.pp(format!("simfp_{level}"));
                let layer = |at: usize, input, kernel| {
                    let config = ConvConfig::same(kernel, ConvInit::Torch).before(norm);
                    ConvNorm::new([input, channels], config, norm, [vb.pp(at), vb.pp(at).pp("norm")])
                };
                Ok([layer(at, input, 1)?, layer(at + 1, channels, 3)?])
            });
        Ok(Self {
            first: up(width, fine.pp("0"))?,
            norm: Norm2d::new(NormKind::Layer, width / 2, fine.pp("1"))?,
            second: up(width / 2, fine.pp("3"))?,
            double: up(width, double.pp("0"))?,
            out: out.into_iter().collect::<Result<_>>()?,
        })
    }

    /// `map` [B, C, h, w] -> [B, channels, 4h, 4w], [.., 2h, 2w], [.., h, w], [.., ⌊h/2⌋, ⌊w/2⌋].
    ///
    /// # Errors
    /// When the map has a single row or column.
    pub fn forward(&self, map: &Tensor, pass: &mut Pass) -> Result<Pyramid> {
        let quadruple = |x: &Tensor| {
            let x = self.norm.forward(&self.first.forward(x)?, pass)?;
            self.second.forward(&ops::gelu(&x)?)
        };
        let scaled = [
            ops::chain(map, quadruple)?,
            self.double.forward(map)?,
            map.clone(),
            ops::max_pool2d(map, 2, 2, 0)?,
        ];
        let level =
            |(x, [one, three]): (&Tensor, &[ConvNorm; 2])| three.forward(&one.forward(x, pass)?, pass);
        scaled.iter().zip(&self.out).map(level).collect()
    }
}

/// Feature pyramid network: a 1×1 convolution of every level, the coarser sum doubled (nearest) and added, a 3×3
/// convolution.
#[derive(Clone, Debug)]
pub struct Fpn {
    inner: Vec<ConvNorm>,
    layer: Vec<ConvNorm>,
}

impl Fpn {
    /// `inputs` are the channels of the levels, finest first. A norm follows every convolution (Li et al.: `batch`).
    pub fn new(inputs: &[usize], channels: usize, norm: NormKind, vb: VarBuilder) -> Result<Self> {
        let blocks = |name: &str, kernel: usize, fixed: Option<usize>| {
            let vb = vb.pp(name);
            let config = ConvConfig::same(kernel, ConvInit::Xavier).before(norm);
            let block = |(i, input): (usize, &usize)| {
                let (input, vb) = (fixed.unwrap_or(*input), vb.pp(i));
                ConvNorm::new([input, channels], config, norm, [vb.pp("0"), vb.pp("1")])
            };
            inputs.iter().enumerate().map(block).collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            inner: blocks("inner_blocks", 1, None)?,
            layer: blocks("layer_blocks", 3, Some(channels))?,
        })
    }

    /// Maps, finest first, each half as large as the one before -> maps of the same sizes, of `channels` channels.
    pub fn forward(&self, maps: &[Tensor], pass: &mut Pass) -> Result<Pyramid> {
        if maps.len() != self.inner.len() {
            candle_core::bail!("an FPN of {} levels got {} maps", self.inner.len(), maps.len());
        }
        let mut levels: Vec<Tensor> = Vec::with_capacity(maps.len()); // coarsest first
        for (map, block) in maps.iter().zip(&self.inner).rev() {
            let mut x = block.forward(map, pass)?;
            if let Some(above) = levels.last() {
                x = (x + ops::resize_nearest(above, (map.dim(2)?, map.dim(3)?))?)?;
            }
            levels.push(x);
        }
        levels.reverse();
        levels.iter().zip(&self.layer).map(|(x, block)| block.forward(x, pass)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Params;
    use candle_core::{DType, Device};

    fn sizes(maps: &[Tensor]) -> Vec<Vec<usize>> {
        maps.iter().map(|map| map.dims().to_vec()).collect()
    }

    #[test]
    fn pyramids_have_four_strides_and_the_names_of_their_references() -> Result<()> {
        let map = Tensor::ones((1, 16, 6, 4), DType::F32, &Device::Cpu)?;
        let params = Params::new(0, &Device::Cpu);
        let scales = ScalePyramid::new(16, NormKind::Group, params.builder())?;
        let levels = scales.forward(&vec![map.clone(); 4], &mut Pass::Eval)?;
        assert_eq!(sizes(&levels), [[1, 16, 24, 16], [1, 16, 12, 8], [1, 16, 6, 4], [1, 16, 3, 2]]);
        let fpn = Fpn::new(&[16; 4], 8, NormKind::Batch, params.builder().pp("fpn"))?;
        let levels = fpn.forward(&levels, &mut Pass::Eval)?;
        assert_eq!(sizes(&levels), [[1, 8, 24, 16], [1, 8, 12, 8], [1, 8, 6, 4], [1, 8, 3, 2]]);
        for name in ["fpn1.0.weight", "fpn1.1.bias", "fpn1.3.weight", "fpn2.0.bias"] {
            assert!(params.get(name).is_some(), "{name}");
        }
        assert!(params.get("fpn.inner_blocks.3.1.running_var").is_some());
        assert!(params.get("fpn.layer_blocks.0.0.bias").is_none(), "a norm follows");
        assert!(scales.forward(std::slice::from_ref(&map), &mut Pass::Eval).is_err());

        let params = Params::new(0, &Device::Cpu);
        let simple = SimplePyramid::new(16, 8, NormKind::Layer, params.builder())?;
        let levels = simple.forward(&map, &mut Pass::Eval)?;
        assert_eq!(sizes(&levels), [[1, 8, 24, 16], [1, 8, 12, 8], [1, 8, 6, 4], [1, 8, 3, 2]]);
        let names =
            ["2.0.weight", "2.1.weight", "2.3.bias", "2.4.norm.weight", "2.5.weight", "3.2.norm.bias"];
        for name in names.into_iter().chain(["4.0.weight", "5.1.weight"]) {
            assert!(params.get(&format!("simfp_{name}")).is_some(), "{name}");
        }
        Ok(())
    }

    /// With kernels of ones at the centre, every level is its own value plus those of all coarser levels.
    #[test]
    fn coarser_levels_are_added_to_finer_ones() -> Result<()> {
        let params = Params::new(0, &Device::Cpu);
        let fpn = Fpn::new(&[1; 3], 1, NormKind::None, params.builder())?;
        for p in params.all() {
            let mut values = vec![0f32; p.var.elem_count()];
            if p.name.ends_with("weight") {
                let centre = values.len() / 2;
                values[centre] = 1.;
            }
            p.var.set(&Tensor::from_vec(values, p.var.shape(), &Device::Cpu)?)?;
        }
        let level = |side: usize, value: f64| {
            Tensor::ones((1, 1, side, side), DType::F32, &Device::Cpu).and_then(|t| t * value)
        };
        let maps = [level(8, 1.)?, level(4, 10.)?, level(2, 100.)?];
        let sums = fpn.forward(&maps, &mut Pass::Eval)?;
        for (map, expected) in sums.iter().zip([111., 110., 100.]) {
            let values = map.flatten_all()?.to_vec1::<f32>()?;
            assert!(values.iter().all(|&v| v == expected), "{values:?}");
        }
        Ok(())
    }
}
