//! Distilled DeiT (arXiv:2012.12877): a distillation token beside the class token, with a position of its own.
//!
//! A register is a token without a position. The distillation token with its position added is therefore one register, and the
//! model with `registers = 1` computes the same.

use super::entry::WeightEntry;
use candle_core::{Result, Tensor};

/// The distillation token, by the names of timm.
const TOKEN: &str = "dist_token";
const REGISTERS: &str = "register_tokens";
const POSITIONS: &str = "pos_embed";

/// Renames the distillation token among `entries` and takes its row from the position embeddings; returns whether there is one.
///
/// # Errors
/// A distillation token without a position.
pub(super) fn fold_entries(entries: &mut [WeightEntry]) -> std::result::Result<bool, String> {
    let Some(token) = entries.iter().position(|entry| entry.name == TOKEN) else { return Ok(false) };
    let of_token = entries[token].clone();
    let positions = entries.iter_mut().find(|entry| entry.name == POSITIONS);
    let positions =
        positions.ok_or_else(|| format!("`{TOKEN}` has no position: there is no `{POSITIONS}`"))?;
    match (of_token.shape.as_slice(), positions.shape.as_mut_slice()) {
        ([1, 1, width], [1, rows, also])
            if width == also
                && *rows > 2
                && of_token.dtype == positions.dtype
                && of_token.dtype.is_float() =>
        {
            *rows -= 1;
        }
        (token, positions) => {
            return Err(format!(
                "`{TOKEN}` of shape {token:?} has no position in `{POSITIONS}` of shape {positions:?}"
            ));
        }
    }
    entries[token].name = REGISTERS.into();
    Ok(true)
}

/// Does to `tensors` what [`fold_entries`] did to their entries: adds the second position to the register, and removes it.
pub(super) fn fold(tensors: &mut [(String, Tensor)]) -> Result<()> {
    let find = |name: &str| tensors.iter().position(|(held, _)| held == name);
    let (Some(token), Some(positions)) = (find(REGISTERS), find(POSITIONS)) else { return Ok(()) };
    let table = tensors[positions].1.clone(); // [1, 2 + N, C]
    tensors[token].1 = (&tensors[token].1 + table.narrow(1, 1, 1)?)?;
    let patches = table.narrow(1, 2, table.dim(1)? - 2)?;
    tensors[positions].1 = Tensor::cat(&[&table.narrow(1, 0, 1)?, &patches], 1)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn entry(name: &str, shape: &[usize]) -> WeightEntry {
        WeightEntry { name: name.into(), shape: shape.to_vec(), dtype: DType::F32 }
    }

    #[test]
    fn the_token_with_its_position_becomes_a_register() {
        let mut entries = [entry(POSITIONS, &[1, 4, 2]), entry(TOKEN, &[1, 1, 2])];
        assert!(fold_entries(&mut entries).unwrap());
        assert_eq!(entries, [entry(POSITIONS, &[1, 3, 2]), entry(REGISTERS, &[1, 1, 2])]);
        let table = Tensor::arange(0f32, 8., &Device::Cpu).unwrap().reshape((1, 4, 2)).unwrap();
        let token = Tensor::new(&[[[10f32, 20.]]], &Device::Cpu).unwrap();
        let mut tensors = [(POSITIONS.to_string(), table), (REGISTERS.to_string(), token)];
        fold(&mut tensors).unwrap();
        let values = |i: usize| tensors[i].1.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((values(0), values(1)), (vec![0., 1., 4., 5., 6., 7.], vec![12., 23.]));
    }

    #[test]
    fn a_token_without_a_position_is_refused() {
        assert!(!fold_entries(&mut [entry(POSITIONS, &[1, 4, 2])]).unwrap());
        for (positions, token) in [
            (None, [1, 1, 2]),
            (Some([1, 2, 2]), [1, 1, 2]),
            (Some([1, 4, 3]), [1, 1, 2]),
            (Some([1, 4, 2]), [1, 2, 2]),
        ] {
            let positions = positions.map(|shape| entry(POSITIONS, &shape));
            let mut entries: Vec<_> = positions.into_iter().chain([entry(TOKEN, &token)]).collect();
            let error = fold_entries(&mut entries).unwrap_err();
            assert!(error.contains("`dist_token`") && error.contains("position"), "{error}");
        }
    }
}
