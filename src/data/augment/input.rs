//! [`ModelInput`]: size and normalization of the images that a model takes, which are the defaults of operations.

use super::super::Size;
use super::error::{AugmentError, expect};
use crate::config::Normalize;

/// Size and statistics of a model's input.
#[derive(Clone, Debug)]
pub struct ModelInput {
    /// (height, width) in pixels.
    pub size: Size,
    /// Mean and standard deviation of each channel, with pixels from 0 to 1.
    pub statistics: Vec<(f32, f32)>,
}

impl ModelInput {
    /// The input of a model that takes images of `size`, [height, width], with `channels` channels.
    ///
    /// # Errors
    /// Channels other than 1 or 3, statistics of another number of channels, a standard deviation that is not positive.
    pub fn new(normalize: &Normalize, size: [usize; 2], channels: usize) -> Result<Self, AugmentError> {
        if ![1, 3].contains(&channels) {
            return Err(AugmentError::Channels(channels));
        }
        for (what, values) in [("normalize: mean", &normalize.mean), ("normalize: std", &normalize.std)] {
            if ![1, channels].contains(&values.len()) {
                return Err(AugmentError::PerChannel { what, values: values.len(), channels });
            }
        }
        for std in &normalize.std {
            expect(*std > 0. && std.is_finite(), "normalize: std", std, "more than 0")?;
        }
        let statistics = (0..channels).map(|c| normalize.channel(c)).collect();
        Ok(Self { size: size.into(), statistics })
    }

    /// The size that an operation gives or, if it gives none, the size of the input: (height, width).
    ///
    /// # Errors
    /// A height or width of 0.
    pub fn or_size(&self, asked: Option<[usize; 2]>) -> Result<Size, AugmentError> {
        match asked {
            Some([h, w]) if h == 0 || w == 0 => Err(AugmentError::EmptySize(h, w)),
            Some(size) => Ok(size.into()),
            None => Ok(self.size),
        }
    }

    /// Length of the longer side in pixels.
    pub fn longer_side(&self) -> usize {
        self.size.0.max(self.size.1)
    }

    /// Length of the shorter side in pixels.
    pub fn shorter_side(&self) -> usize {
        self.size.0.min(self.size.1)
    }

    /// The mean of each channel as a byte; saturates, as timm's min(255, round(255 · mean)) does.
    pub fn mean_colour(&self) -> Vec<u8> {
        let byte = |(mean, _): &(f32, f32)| (255. * f64::from(*mean)).round_ties_even() as u8;
        self.statistics.iter().map(byte).collect()
    }

    /// One byte per channel: `fill`, which has one byte or one for each channel, or the mean. `what` names operation and
    /// key in the error.
    ///
    /// # Errors
    /// A `fill` of another number of bytes.
    pub fn colour(&self, what: &'static str, fill: Option<&[u8]>) -> Result<Vec<u8>, AugmentError> {
        let channels = self.statistics.len();
        match fill {
            None => Ok(self.mean_colour()),
            Some([byte]) => Ok(vec![*byte; channels]),
            Some(bytes) if bytes.len() == channels => Ok(bytes.to_vec()),
            Some(bytes) => Err(AugmentError::PerChannel { what, values: bytes.len(), channels }),
        }
    }
}
