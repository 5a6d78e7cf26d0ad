//! [`load_tokenizer`]: loads a discrete autoencoder; its sizes follow from the names and shapes of its tensors.
//!
//! Supported are runs of this program (names that start with `encoder.` and `decoder.`) and the encoder of DALL·E with its
//! own names: the pickled module `encoder.pkl`, the state dict `dalle_encoder.pth`, or a conversion to safetensors. If the
//! folder holds a decoder with a matching file name, it is loaded too, to draw the images that tokens stand for.

use super::{WeightFile, WeightFileError, WeightLoadError, load_exact};
use crate::config::DvaeSizes;
use crate::models::dvae::{Decoder, Encoder, Tokenizer};
use crate::nn::Params;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// A file that cannot be loaded as a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] WeightFileError),
    /// The file does not hold a discrete autoencoder.
    #[error("tokenizer `{}`: {reason}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// The tensors do not fit the model that their shapes imply.
    #[error("tokenizer `{}`: {source}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The tensors that do not fit.
        source: WeightLoadError,
    },
    /// A tensor operation that failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Loads the tokenizer at `path` onto `device`.
///
/// # Errors
/// A file that is not a discrete autoencoder, lacks tensors, or has tensors of other shapes.
pub fn load_tokenizer(path: &Path, device: &Device) -> Result<Tokenizer, TokenizerError> {
    let unfit = |reason: String| TokenizerError::Unfit { path: path.into(), reason };
    let mut tensors = WeightFile::open(path)?.read(device)?;
    if !tensors.iter().any(|(name, _)| name.starts_with("encoder.")) {
        rename(&mut tensors, "encoder.");
        if let Some(file) = decoder_beside(path) {
            let mut decoder = WeightFile::open(&file)?.read(device)?;
            rename(&mut decoder, "decoder.");
            tensors.extend(decoder);
        }
    }
    let sizes = sizes(&tensors).map_err(unfit)?;
    let has_decoder = tensors.iter().any(|(name, _)| name.starts_with("decoder."));
    let build = |vb: VarBuilder| -> candle_core::Result<Tokenizer> {
        let encoder = Encoder::new(&sizes, vb.pp("encoder"))?;
        let decoder = has_decoder.then(|| Decoder::new(&sizes, vb.pp("decoder"))).transpose()?;
        Ok(Tokenizer { sizes, encoder, decoder })
    };
    // The sizes come from the file: check that it holds all tensors before memory is allocated for them.
    let held: HashMap<String, Tensor> = tensors.iter().cloned().collect();
    build(VarBuilder::from_tensors(held, DType::F32, device)).map_err(|e| unfit(e.to_string()))?;
    let params = Params::new(0, device);
    let tokenizer = build(params.builder())?;
    load_exact(&params, &tensors).map_err(|source| TokenizerError::Load { path: path.into(), source })?;
    Ok(tokenizer)
}

fn rename(tensors: &mut [(String, Tensor)], prefix: &str) {
    tensors.iter_mut().for_each(|(name, _)| name.insert_str(0, prefix));
}

/// The file of a decoder beside that of an encoder: `decoder.pkl` beside `encoder.pkl`.
fn decoder_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let other = path.with_file_name(name.replace("encoder", "decoder"));
    (name.contains("encoder") && other.is_file()).then_some(other)
}

/// Sizes of the autoencoder, from names and shapes.
fn sizes(tensors: &[(String, Tensor)]) -> Result<DvaeSizes, String> {
    let shape = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t.dims().to_vec());
    let four = |name: &str| match shape(name).as_deref() {
        Some(&[a, b, c, d]) if [a, b, c, d].iter().all(|n| *n > 0) => Ok([a, b, c, d]),
        Some(other) => Err(format!("`{name}` is {other:?}, expected four dimensions, none of them 0")),
        None => Err(format!("not a discrete autoencoder: there is no `{name}`")),
    };
    let numbers = |prefix: &str| -> usize {
        let number = |(name, _): &(String, Tensor)| {
            name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok()
        };
        tensors.iter().filter_map(number).collect::<BTreeSet<_>>().len()
    };
    let [hidden, channels, ..] = four("encoder.blocks.input.w")?;
    let [vocabulary, ..] = four("encoder.blocks.output.conv.w")?;
    let embedding = match shape("decoder.blocks.input.w") {
        Some(_) => four("decoder.blocks.input.w")?[0],
        None => DvaeSizes::default().embedding,
    };
    let groups = numbers("encoder.blocks.group_");
    let blocks = numbers("encoder.blocks.group_1.block_");
    let sizes = DvaeSizes { vocabulary, hidden, groups, blocks, embedding, channels };
    sizes.check()?;
    Ok(sizes)
}
