//! Training of a tokenizer: the discrete variational autoencoder of DALL·E (arXiv:2102.12092, appendix A.2).
//!
//! Tokens are relaxed by Gumbel-softmax (arXiv:1611.01144) at a falling temperature; the loss is the negative evidence
//! lower bound, divided by the number of values of an image. Evaluation takes the most likely token.

use super::{Objective, ObjectiveInputs, PretrainObjective, Pretraining, RecipeFacts};
use crate::config::{DvaeTraining, Normalize, PixelLoss};
use crate::data::Batch;
use crate::models::dvae::{self, Decoder, Encoder, Tokenizer};
use crate::nn::{Losses, Params, Pass};
use crate::rng::Rng;
use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use rand::Rng as _;
use rayon::prelude::*;

/// Number of images to which the initial weights are fitted.
const INITIAL_IMAGES: usize = 256;

/// Encoder, decoder and the options of their training.
#[derive(Debug)]
pub struct DiscreteAutoencoder {
    tokenizer: Tokenizer,
    decoder: Decoder,
    training: DvaeTraining,
    normalize: Normalize,
}

impl DiscreteAutoencoder {
    /// Builds the objective for images normalised by `normalize`.
    ///
    /// # Errors
    /// Invalid sizes, or a number of channels that differs from that of the images.
    pub fn new(
        training: &DvaeTraining,
        normalize: Normalize,
        image: (usize, usize, usize),
        vb: VarBuilder,
    ) -> Result<Self> {
        let (sizes, (channels, height, width)) = (training.sizes, image);
        let side = 1 << sizes.groups.saturating_sub(1);
        if sizes.channels != channels || height % side != 0 || width % side != 0 {
            candle_core::bail!(
                "dVAE of {} channels and a token for every {side} pixels for images of {channels}×{height}×{width}",
                sizes.channels
            );
        }
        let (encoder, decoder) =
            (Encoder::new(&sizes, vb.pp("encoder"))?, Decoder::new(&sizes, vb.pp("decoder"))?);
        let tokenizer = Tokenizer { sizes, encoder, decoder: Some(decoder.clone()) };
        Ok(Self { tokenizer, decoder, training: training.clone(), normalize })
    }

    /// The trained autoencoder.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The mean negative log-likelihood (or squared error) of a value of the mapped pixels `x`. `out` [B, 2·C, H, W]
    fn pixel_loss(&self, out: &Tensor, x: &Tensor) -> Result<Tensor> {
        let channels = x.dim(1)?;
        let location = out.narrow(1, 0, channels)?;
        match self.training.pixel_loss {
            PixelLoss::L2 => (candle_nn::ops::sigmoid(&location)? - x)?.sqr()?.mean_all(),
            PixelLoss::LogitLaplace => {
                // −log f(x) = log 2b + log x(1 − x) + |logit x − μ|/b
                let log_scale = out.narrow(1, channels, channels)?;
                let rest = (1. - x)?;
                let logit = (x / &rest)?.log()?;
                let constant = (x * rest)?.log()?.affine(1., std::f64::consts::LN_2)?;
                let distance = ((logit - location)?.abs()? * log_scale.neg()?.exp()?)?;
                (log_scale + constant)?.add(&distance)?.mean_all()
            }
        }
    }
}

impl Objective for DiscreteAutoencoder {
    type Target = ();

    fn losses(&self, batch: &Batch<()>, pass: &mut Pass) -> Result<Losses> {
        let images = dvae::denormalized(&batch.images, &self.normalize)?;
        let (b, c, height, width) = images.dims4()?;
        let x = dvae::map_pixels(&images)?;
        let logits = self.tokenizer.encoder.forward(&x)?; // [B, V, h, w]
        let (_, vocabulary, h, w) = logits.dims4()?;
        let rows = logits.permute((0, 2, 3, 1))?.reshape((b * h * w, vocabulary))?;
        let log_q = candle_nn::ops::log_softmax(&rows, 1)?;
        let (weights, kl_weight) = match pass {
            Pass::Train { rng, progress, .. } => {
                let noise = gumbel(b, h * w * vocabulary, rng);
                let noise = Tensor::from_vec(noise, rows.shape(), rows.device())?;
                let relaxed = ((&rows + noise)? / self.training.temperature.at(*progress))?;
                (candle_nn::ops::softmax(&relaxed, 1)?, self.training.kl_weight.at(*progress))
            }
            Pass::Eval => (one_hot(&rows.argmax(1)?, vocabulary)?, self.training.kl_weight.to),
        };
        let z = weights.reshape((b, h, w, vocabulary))?.permute((0, 3, 1, 2))?.contiguous()?;
        let pixels = self.pixel_loss(&self.decoder.forward(&z)?, &x)?;
        // Of every token from the uniform distribution: Σ q·(log q + log V).
        let kl = (log_q.exp()? * log_q.affine(1., (vocabulary as f64).ln())?)?.sum_all()?;
        let share = kl_weight / (b * c * height * width) as f64;
        let tokens = rows.detach().argmax(1)?;
        let used = move || Ok(used(&tokens.to_vec1::<u32>()?, vocabulary));
        let mut losses = Losses::of("pixels", pixels).with("kl", (kl * share)?);
        if self.training.diversity > 0. {
            losses = losses.with("diversity", (diversity(&log_q)? * self.training.diversity)?);
        }
        let share = used.clone();
        Ok(losses
            .with_metric_of("codes_used", move || share().map(|used| used.share))
            .with_metric_of("perplexity", move || used().map(|used| used.perplexity)))
    }

    fn layer_of(&self, _: &str) -> usize {
        0
    }
}

impl Pretraining for DiscreteAutoencoder {
    fn initialize(&self, params: &Params, images: &dyn Fn(usize) -> Result<Tensor>) -> Result<()> {
        let Some(spread) = self.training.initial_spread else { return Ok(()) };
        let x = dvae::map_pixels(&dvae::denormalized(&images(INITIAL_IMAGES)?, &self.normalize)?)?;
        let (w, b) = self.tokenizer.encoder.spread_output(&x, spread)?;
        for (name, values) in [("w", w), ("b", b)] {
            let name = format!("encoder.blocks.output.conv.{name}");
            let Some(parameter) = params.get(&name) else { candle_core::bail!("no parameter `{name}`") };
            parameter.var.set(&values)?;
        }
        Ok(())
    }
}

impl PretrainObjective for DiscreteAutoencoder {
    const NAME: &'static str = "dvae";
    type Options = DvaeTraining;

    fn new(options: &DvaeTraining, inputs: &ObjectiveInputs) -> Result<Self> {
        let [height, width] = inputs.model.image;
        let image = (inputs.model.channels, height, width);
        Self::new(options, inputs.model.normalize(), image, inputs.builder())
    }

    fn backbone(_: &DvaeTraining) -> bool {
        false
    }

    fn check(options: &DvaeTraining, _: &RecipeFacts) -> std::result::Result<(), String> {
        options.check()
    }
}

/// Values of the standard Gumbel distribution, `each` for every one of `count` images.
fn gumbel(count: usize, each: usize, rng: &mut Rng) -> Vec<f32> {
    let seeds: Vec<u64> = (0..count).map(|_| rng.random()).collect();
    let mut noise = vec![0f32; count * each];
    noise.par_chunks_mut(each.max(1)).zip(seeds).for_each(|(noise, seed)| {
        let mut rng = Rng::new(seed, "gumbel", &[]);
        noise.fill_with(|| -(-rng.random::<f32>().max(f32::MIN_POSITIVE).ln()).ln());
    });
    noise
}

/// 1 − H(p̄)/ln V of `log_q` [N, V], with p̄ the mean distribution.
fn diversity(log_q: &Tensor) -> Result<Tensor> {
    let vocabulary = log_q.dim(1)? as f64;
    let mean = log_q.exp()?.mean(0)?;
    // Σ p̄·log p̄, where 0·log 0 is 0.
    let negative_entropy = (&mean * (&mean + 1e-30)?.log()?)?.sum_all()?;
    negative_entropy.affine(vocabulary.ln().recip(), 1.)
}

/// One-hot vectors: 1 at the token of each row. `[N]` -> [N, vocabulary]
fn one_hot(tokens: &Tensor, vocabulary: usize) -> Result<Tensor> {
    let all = Tensor::arange(0u32, vocabulary as u32, tokens.device())?.unsqueeze(0)?;
    tokens.unsqueeze(1)?.broadcast_eq(&all)?.to_dtype(DType::F32)
}

/// How much of a code book a list of tokens uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Share of the code book that occurs.
    pub share: f64,
    /// Perplexity, exp of the entropy: the number of equally frequent tokens with the same entropy.
    pub perplexity: f64,
}

/// See [`Usage`].
pub fn used(tokens: &[u32], vocabulary: usize) -> Usage {
    let mut counts = vec![0usize; vocabulary];
    tokens.iter().for_each(|token| counts[*token as usize] += 1);
    let shares = counts.iter().filter(|count| **count > 0).map(|count| *count as f64 / tokens.len() as f64);
    let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
    let found = counts.iter().filter(|count| **count > 0).count();
    Usage { share: found as f64 / vocabulary as f64, perplexity: entropy.exp() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Anneal, DvaeSizes};
    use crate::data::{SampleId, SourceTransform};
    use crate::ops;
    use candle_core::Device;

    fn small(pixel_loss: PixelLoss) -> Result<(Params, DiscreteAutoencoder)> {
        let training = DvaeTraining {
            sizes: DvaeSizes { vocabulary: 11, hidden: 8, groups: 2, blocks: 1, embedding: 6, channels: 3 },
            pixel_loss,
            temperature: Anneal { from: 1., to: 0.1, until: 1. },
            kl_weight: Anneal { from: 1., to: 1., until: 0. },
            initial_spread: None,
            diversity: 0.1,
        };
        let params = Params::new(0, &Device::Cpu);
        let model = DiscreteAutoencoder::new(&training, Normalize::imagenet(3), (3, 8, 8), params.builder())?;
        Ok((params, model))
    }

    fn batch() -> Result<Batch<()>> {
        let mut rng = Rng::new(0, "test", &[]);
        let values: Vec<f32> = (0..2 * 3 * 64).map(|_| rng.random_range(-2f32..2.)).collect();
        Ok(Batch {
            ids: vec![SampleId::new("a"), SampleId::new("b")],
            images: Tensor::from_vec(values, (2, 3, 8, 8), &Device::Cpu)?,
            views: vec![],
            source_transforms: vec![SourceTransform::new((8, 8)); 2],
            targets: vec![(); 2],
        })
    }

    #[test]
    fn every_parameter_learns() -> Result<()> {
        for loss in [PixelLoss::LogitLaplace, PixelLoss::L2] {
            let (params, model) = small(loss)?;
            let mut rng = Rng::new(0, "pass", &[]);
            let losses =
                model.losses(&batch()?, &mut Pass::Train { rng: &mut rng, progress: 0.5, epoch: 0. })?;
            let store = ops::backward(&losses.total()?)?;
            for p in params.trainable() {
                let gradient = store.get(&p.var).map(|g| g.sqr()?.sum_all()?.to_scalar::<f32>());
                // L2 does not read the scales.
                let unread = loss == PixelLoss::L2 && p.name.starts_with("decoder.blocks.output");
                assert!(gradient.transpose()?.is_some_and(|g| g > 0. || unread), "{loss:?}: {}", p.name);
            }
            let noted: Vec<&str> = losses.metrics().map(|(name, _)| name).collect();
            assert_eq!(noted, ["codes_used", "perplexity"]);
        }
        Ok(())
    }

    #[test]
    fn the_density_of_logit_laplace_integrates_to_one() -> Result<()> {
        let (_, model) = small(PixelLoss::LogitLaplace)?;
        let n = 20_000;
        let mut mass = 0.;
        for i in 0..n {
            let x = (i as f32 + 0.5) / n as f32;
            let pixel = Tensor::full(x, (1, 1, 1, 1), &Device::Cpu)?;
            let out = Tensor::from_vec(vec![0.3f32, -0.7], (1, 2, 1, 1), &Device::Cpu)?;
            mass += (-model.pixel_loss(&out, &pixel)?.to_scalar::<f32>()? as f64).exp() / n as f64;
        }
        assert!((mass - 1.).abs() < 1e-3, "{mass}");
        Ok(())
    }

    /// `count` images of 16 pixels of two colours with an edge between them.
    fn edges(count: usize) -> Result<Tensor> {
        let mut rng = Rng::new(0, "edges", &[]);
        let mut values = Vec::new();
        for _ in 0..count {
            let edge = rng.random_range(0..16);
            for _ in 0..3 {
                let (left, right) = (rng.random_range(-2f32..2.), rng.random_range(-2f32..2.));
                values.extend((0..256).map(|i| if i % 16 < edge { left } else { right }));
            }
        }
        Tensor::from_vec(values, (count, 3, 16, 16), &Device::Cpu)
    }

    /// Share of a code book of 64 that `images` use before training.
    fn used_at_first(images: &Tensor, initial_spread: Option<f64>) -> Result<f64> {
        let training = DvaeTraining {
            sizes: DvaeSizes { vocabulary: 64, hidden: 16, groups: 3, blocks: 1, embedding: 8, channels: 3 },
            initial_spread,
            ..small(PixelLoss::L2)?.1.training
        };
        let (params, normalize) = (Params::new(0, &Device::Cpu), Normalize::imagenet(3));
        let model = DiscreteAutoencoder::new(&training, normalize.clone(), (3, 16, 16), params.builder())?;
        model.initialize(&params, &|_| Ok(images.clone()))?;
        let tokens = model.tokenizer.tokens(images, &normalize, (4, 4))?;
        Ok(used(&tokens, 64).share)
    }

    #[test]
    fn scores_fitted_to_images_use_the_code_book_from_the_first_step() -> Result<()> {
        let images = edges(64)?;
        let (drawn, fitted) = (used_at_first(&images, None)?, used_at_first(&images, Some(4.))?);
        assert!(drawn < 0.2, "as the layers draw them: {drawn}");
        assert!(fitted > 0.6, "fitted: {fitted}");
        Ok(())
    }

    #[test]
    fn noise_has_the_moments_of_gumbel() {
        let noise = gumbel(64, 4096, &mut Rng::new(0, "test", &[]));
        let mean = noise.iter().map(|x| f64::from(*x)).sum::<f64>() / noise.len() as f64;
        let square = noise.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / noise.len() as f64;
        assert!((mean - 0.577_215_66).abs() < 0.01, "{mean}");
        assert!((square - std::f64::consts::PI.powi(2) / 6.).abs() < 0.02, "{square}");
        assert_ne!(noise[..4096], noise[4096..8192]);
    }

    #[test]
    fn diversity_by_hand() -> Result<()> {
        // Two places, surely of two tokens out of four: H = ln 2.
        let q = Tensor::new(&[[1f32, 0., 0., 0.], [0., 1., 0., 0.]], &Device::Cpu)?;
        let loss = diversity(&(q + 1e-20)?.log()?)?.to_scalar::<f32>()?;
        assert!((loss - 0.5).abs() < 1e-6, "{loss}");
        let even = diversity(&Tensor::full(0.25f32.ln(), (3, 4), &Device::Cpu)?)?.to_scalar::<f32>()?;
        assert!(even.abs() < 1e-6, "{even}");
        Ok(())
    }

    #[test]
    fn usage_by_hand() {
        let Usage { share, perplexity } = used(&[0, 0, 3, 3], 8);
        assert_eq!(share, 0.25);
        assert!((perplexity - 2.).abs() < 1e-12);
    }

    #[test]
    fn images_that_do_not_fit_are_refused() -> Result<()> {
        let params = Params::new(0, &Device::Cpu);
        let (_, model) = small(PixelLoss::L2)?;
        let error = |image| {
            let built =
                DiscreteAutoencoder::new(&model.training, Normalize::imagenet(3), image, params.builder());
            built.unwrap_err().to_string()
        };
        assert!(error((1, 8, 8)).contains("3 channels"), "{}", error((1, 8, 8)));
        assert!(error((3, 9, 8)).contains("3×9×8"));
        Ok(())
    }
}
