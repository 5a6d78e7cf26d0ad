//! Convolutions as layers, with the initialisations of PyTorch, detectron2 and mmsegmentation written out.

use crate::ops::{self, Precision};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// How the parameters of a convolution are initialised. fan_in and fan_out are those that PyTorch computes from a
/// weight [a, b, k, k]: b·k² and a·k², also where the convolution is transposed. Biases start at 0, except in `Torch`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ConvInit {
    /// PyTorch's default: weight and bias U(±1/√fan_in).
    #[default]
    Torch,
    /// normal(0, √(2/fan_out)): `c2_msra_fill` of detectron2, `kaiming_init` of mmsegmentation.
    Msra,
    /// U(±√(3/fan_in)): `c2_xavier_fill` of detectron2.
    Xavier,
    /// normal(0, σ).
    Normal(f64),
}

impl ConvInit {
    /// Initialisations of weight and bias for a weight [a, b, k, k].
    fn of(self, [a, b, kernel]: [usize; 3]) -> (Init, Init) {
        let (fan_out, fan_in) = ((a * kernel * kernel) as f64, (b * kernel * kernel) as f64);
        let uniform = |bound: f64| Init::Uniform { lo: -bound, up: bound };
        let zero = Init::Const(0.);
        match self {
            Self::Torch => (uniform(fan_in.powf(-0.5)), uniform(fan_in.powf(-0.5))),
            Self::Msra => (Init::Randn { mean: 0., stdev: (2. / fan_out).sqrt() }, zero),
            Self::Xavier => (uniform((3. / fan_in).sqrt()), zero),
            Self::Normal(stdev) => (Init::Randn { mean: 0., stdev }, zero),
        }
    }
}

/// Shape of a convolution, apart from its channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvConfig {
    /// Side of the square kernel in pixels.
    pub kernel: usize,
    /// Stride in pixels.
    pub stride: usize,
    /// Zeros around the map, in pixels on each side.
    pub padding: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How the parameters are initialised.
    pub init: ConvInit,
}

impl ConvConfig {
    /// An odd kernel that keeps the size of the map, with bias.
    pub fn same(kernel: usize, init: ConvInit) -> Self {
        Self { kernel, stride: 1, padding: kernel / 2, bias: true, init }
    }

    /// A kernel as wide as its stride, without padding, with bias: the transposed convolutions of pyramids and heads.
    pub fn strided(kernel: usize, init: ConvInit) -> Self {
        Self { kernel, stride: kernel, padding: 0, bias: true, init }
    }

    /// Without bias, as before a norm.
    pub fn without_bias(self) -> Self {
        Self { bias: false, ..self }
    }

    /// Without bias unless `norm` is none.
    pub fn before(self, norm: super::NormKind) -> Self {
        Self { bias: norm == super::NormKind::None, ..self }
    }

    /// Weight [a, b, k, k] and bias `[bias]`.
    fn parameters(
        self,
        a: usize,
        b: usize,
        bias: usize,
        vb: &VarBuilder,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (of_weight, of_bias) = self.init.of([a, b, self.kernel]);
        let weight = vb.get_with_hints((a, b, self.kernel, self.kernel), "weight", of_weight)?;
        let bias = self.bias.then(|| vb.get_with_hints(bias, "bias", of_bias)).transpose()?;
        Ok((weight, bias))
    }
}

/// A convolution; parameters `weight` [out, in, k, k] and, where there is one, `bias` `[out]`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    config: ConvConfig,
    precision: Precision,
}

impl Conv2d {
    /// From `input` to `output` channels.
    ///
    /// # Errors
    /// When the builder lacks a parameter.
    pub fn new(input: usize, output: usize, config: ConvConfig, vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = config.parameters(output, input, output, &vb)?;
        Ok(Self { weight, bias, config, precision: Precision::of(vb.dtype())? })
    }

    /// `x` [B, in, H, W] -> [B, out, H', W'].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let ConvConfig { stride, padding, .. } = self.config;
        ops::conv2d(x, &self.weight, self.bias.as_ref(), stride, padding, self.precision)
    }
}

/// A transposed convolution; parameters `weight` [in, out, k, k] and, where there is one, `bias` `[out]`.
#[derive(Clone, Debug)]
pub struct ConvTranspose2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    precision: Precision,
}

impl ConvTranspose2d {
    /// From `input` to `output` channels.
    ///
    /// # Errors
    /// With padding, which is not supported.
    pub fn new(input: usize, output: usize, config: ConvConfig, vb: VarBuilder) -> Result<Self> {
        if config.padding != 0 {
            candle_core::bail!("transposed convolution with padding {}, expected 0", config.padding);
        }
        let (weight, bias) = config.parameters(input, output, output, &vb)?;
        Ok(Self { weight, bias, stride: config.stride, precision: Precision::of(vb.dtype())? })
    }

    /// `x` [B, in, H, W] -> [B, out, (H − 1)·stride + k, (W − 1)·stride + k].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv_transpose2d(x, &self.weight, self.bias.as_ref(), self.stride, self.precision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Params;
    use candle_core::{DType, Device};

    fn spread(t: &Tensor) -> f32 {
        t.sqr().unwrap().mean_all().unwrap().sqrt().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn weights_start_with_the_spread_of_their_initialisation() -> Result<()> {
        // A weight [48, 16, 3, 3]: fan_in 144, fan_out 432. A uniform distribution of ±b has the spread b/√3.
        for (init, expected) in [
            (ConvInit::Torch, (1. / 144f32).sqrt() / 3f32.sqrt()),
            (ConvInit::Msra, (2. / 432f32).sqrt()),
            (ConvInit::Xavier, (1. / 144f32).sqrt()),
            (ConvInit::Normal(0.01), 0.01),
        ] {
            let params = Params::new(0, &Device::Cpu);
            let conv = Conv2d::new(16, 48, ConvConfig::same(3, init), params.builder())?;
            let found = spread(&conv.weight);
            assert!((found / expected - 1.).abs() < 0.03, "{init:?}: {found}, expected {expected}");
            let bias = spread(params.get("bias").unwrap().var.as_tensor());
            assert_eq!(bias == 0., init != ConvInit::Torch, "{init:?}: {bias}");
        }
        Ok(())
    }

    #[test]
    fn layers_have_the_shapes_of_pytorch() -> Result<()> {
        let params = Params::new(0, &Device::Cpu);
        let vb = params.builder();
        let conv = Conv2d::new(2, 3, ConvConfig::same(3, ConvInit::Msra).without_bias(), vb.pp("conv"))?;
        let up = ConvTranspose2d::new(3, 5, ConvConfig::strided(2, ConvInit::Torch), vb.pp("up"))?;
        let x = Tensor::ones((1, 2, 4, 6), DType::F32, &Device::Cpu)?;
        assert_eq!(up.forward(&conv.forward(&x)?)?.dims(), [1, 5, 8, 12]);
        let names: Vec<_> = params.all().into_iter().map(|p| (p.name, p.var.dims().to_vec())).collect();
        let expected =
            [("conv.weight", vec![3, 2, 3, 3]), ("up.weight", vec![3, 5, 2, 2]), ("up.bias", vec![5])];
        assert_eq!(names, expected.map(|(name, shape)| (name.to_string(), shape)));
        assert!(ConvTranspose2d::new(3, 5, ConvConfig::same(3, ConvInit::Torch), vb.pp("no")).is_err());
        Ok(())
    }
}
