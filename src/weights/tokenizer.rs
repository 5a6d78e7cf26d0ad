//! [`load_tokenizer`]: a discrete autoencoder from a file, whose names and shapes tell its sizes.
//!
//! Read: runs of this program (names below `encoder.` and `decoder.`), and the encoder of DALL·E in its own names, as
//! the pickled module `encoder.pkl`, the state dict `dalle_encoder.pth`, or converted to safetensors. A decoder in the
//! same folder, whose file is named alike, is taken too: it draws what tokens stand for.

use super::{FileError, LoadError, WeightFile, load_exact};
use crate::config::DvaeSizes;
use crate::models::dvae::{Decoder, Encoder, Tokenizer};
use crate::nn::Params;
use candle_core::{Device, Tensor};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A file that makes no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("tokenizer `{}`: {reason}", path.display())]
    Unfit { path: PathBuf, reason: String },
    #[error("tokenizer `{}`: {source}", path.display())]
    Load { path: PathBuf, source: LoadError },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Reads the tokenizer in `path`.
///
/// # Errors
/// A file that is no discrete autoencoder, lacks tensors, or has some of other shapes.
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
    let params = Params::new(0, device);
    let encoder = Encoder::new(&sizes, params.builder().pp("encoder"))?;
    let has_decoder = tensors.iter().any(|(name, _)| name.starts_with("decoder."));
    let decoder = has_decoder.then(|| Decoder::new(&sizes, params.builder().pp("decoder"))).transpose()?;
    load_exact(&params, &tensors).map_err(|source| TokenizerError::Load { path: path.into(), source })?;
    Ok(Tokenizer { sizes, encoder, decoder })
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

/// The sizes that names and shapes reveal.
fn sizes(tensors: &[(String, Tensor)]) -> Result<DvaeSizes, String> {
    let shape = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t.dims().to_vec());
    let four = |name: &str| match shape(name).as_deref() {
        Some(&[a, b, c, d]) => Ok([a, b, c, d]),
        Some(other) => Err(format!("`{name}` is {other:?}, expected four dimensions")),
        None => Err(format!("this is no discrete autoencoder: there is no `{name}`")),
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
