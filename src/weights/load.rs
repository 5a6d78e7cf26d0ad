//! Puts tensors of a file into a model: strict both ways, with named exceptions.
//!
//! Positions of another grid are resized as the model says ([`crate::nn::pos_embed::resize`]).
//! Nothing is written unless everything fits.

use super::relative::fit_tables;
use super::{Dialect, Guess, WeightEntry};
use crate::config::{ModelConfig, ResizePositions};
use crate::models::{Vit, VitOptions};
use crate::nn::pos_embed::{self, Bicubic};
use crate::nn::{Parameter, Params, is_relative_position, parameter_shapes};
use candle_core::Tensor;
use serde::Serialize;

/// Tensors of a pre-training or fine-tuning file that a backbone has no place for.
const LEFT_OUT: [&str; 7] =
    ["decoder_", "mask_token", "encoder_mask_token", "target.", "head.", "fc_norm.", "lm_head."];

/// What loading did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Tensors taken.
    pub loaded: usize,
    /// Tensors of the file that the backbone has no place for.
    pub left_out: Vec<String>,
    /// Relative positions of the model that the file lacks: they keep their initial values.
    pub new: usize,
    /// Old and new grid of the positions, when they were resized.
    pub resized: Option<((usize, usize), (usize, usize))>,
}

/// Weights that do not fit the model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the model needs {}, which the weights lack; {file}", list(names))]
    Missing { names: Vec<String>, file: String },
    #[error("the weights hold {}, which the model has no place for; {file}", list(names))]
    Unexpected { names: Vec<String>, file: String },
    #[error("`{name}` has shape {found:?} in the weights and {expected:?} in the model; {file}")]
    Shape { name: String, found: Vec<usize>, expected: Vec<usize>, file: String },
    #[error("`{name}`: {found} positions are no square grid, so they cannot be resized to {}×{}", to.0, to.1)]
    Grid { name: String, found: usize, to: (usize, usize) },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Fills the backbone that lies in `params` (built from `model`) from the `tensors` of a file.
///
/// Left out: decoder, mask tokens, targets, `head.*`, `fc_norm.*`, and `norm.*` and `cls_token` when the model has
/// none. Relative positions are taken where the file has them and keep their initial values where it has not.
/// Everything else must match both ways. Positions lie in the grid `grid` (rows, columns); where that is unknown, in a
/// square, or else in that of the model, if it has as many.
pub fn load_backbone(
    params: &Params,
    tensors: &[(String, Tensor)],
    model: &ModelConfig,
    grid: Option<(usize, usize)>,
) -> Result<LoadReport, LoadError> {
    let options = VitOptions { final_norm: true, ..VitOptions::default() };
    let backbone = parameter_shapes(|vb| Vit::new(model, options, vb))?;
    let relative = params.all().into_iter().filter(|p| is_relative_position(&p.name));
    let tables: Vec<(String, Vec<usize>)> = relative.map(|p| (p.name, p.var.dims().to_vec())).collect();
    let mut fitted = tensors.to_vec();
    fit_tables(&mut fitted, &tables)?;
    let tensors = fitted.as_slice();
    let held = |name: &str| tensors.iter().any(|(held, _)| held == name);
    let mut wanted: Vec<Parameter> = backbone.iter().filter_map(|(name, _)| params.get(name)).collect();
    let relative = params.all().into_iter().filter(|p| is_relative_position(&p.name));
    let (found, new): (Vec<_>, Vec<_>) = relative.partition(|p| held(&p.name));
    let more: Vec<Parameter> =
        found.into_iter().filter(|p| !wanted.iter().any(|other| other.name == p.name)).collect();
    wanted.extend(more);
    let mut report = LoadReport { new: new.len(), ..LoadReport::default() };
    let mut unexpected = Vec::new();
    for (name, _) in tensors.iter().filter(|(name, _)| !wanted.iter().any(|p| p.name == *name)) {
        // This model is built without it.
        let unused = backbone.iter().any(|(part, _)| part == name) || is_relative_position(name);
        let known = unused || LEFT_OUT.iter().any(|prefix| name.starts_with(prefix));
        if known { &mut report.left_out } else { &mut unexpected }.push(name.clone());
    }
    if !unexpected.is_empty() {
        return Err(LoadError::Unexpected { names: unexpected, file: describe(tensors) });
    }
    let mut resized = tensors.to_vec();
    for (name, tensor) in resized.iter_mut().filter(|(name, _)| name == "pos_embed") {
        let (found, to) = (tensor.dim(1).unwrap_or(0).saturating_sub(1), model.grid());
        let side = found.isqrt();
        let from = match grid {
            Some((rows, columns)) if rows * columns == found => (rows, columns),
            _ if side * side != found && found == to.0 * to.1 => to,
            _ => (side, side),
        };
        if tensor.rank() == 3 && tensor.dim(2)? == model.width && from != to {
            if from.0 * from.1 != found || found == 0 {
                return Err(LoadError::Grid { name: name.clone(), found, to });
            }
            *tensor = pos_embed::resize(tensor, from, to, kernel(model.resize_positions))?;
            report.resized = Some((from, to));
        }
    }
    report.loaded = assign(&wanted, &resized)?;
    Ok(report)
}

/// DINOv2's `interpolate_offset` (facebookresearch/dinov2 `hub/backbones.py`).
const OFFSET: f64 = 0.1;

fn kernel(resize: ResizePositions) -> Bicubic {
    match resize {
        ResizePositions::Bicubic => Bicubic::Plain,
        ResizePositions::Antialias => Bicubic::Antialias,
        ResizePositions::Offset => Bicubic::Offset(OFFSET),
    }
}

/// Fills all of `params` from `tensors`, which must hold exactly the same names and shapes: for resuming
/// and for evaluating our own runs.
pub fn load_exact(params: &Params, tensors: &[(String, Tensor)]) -> Result<(), LoadError> {
    let wanted = params.all();
    let unknown = tensors.iter().filter(|(name, _)| !wanted.iter().any(|p| p.name == *name));
    let names: Vec<String> = unknown.map(|(name, _)| name.clone()).collect();
    if !names.is_empty() {
        return Err(LoadError::Unexpected { names, file: describe(tensors) });
    }
    assign(&wanted, tensors).map(|_| ())
}

/// Checks that every one of `wanted` is there in its shape, then writes them all.
fn assign(wanted: &[Parameter], tensors: &[(String, Tensor)]) -> Result<usize, LoadError> {
    let find = |p: &Parameter| tensors.iter().find(|(name, _)| *name == p.name).map(|(_, tensor)| tensor);
    let missing: Vec<String> = wanted.iter().filter(|p| find(p).is_none()).map(|p| p.name.clone()).collect();
    if !missing.is_empty() {
        return Err(LoadError::Missing { names: missing, file: describe(tensors) });
    }
    let pairs: Vec<(&Parameter, &Tensor)> = wanted.iter().filter_map(|p| Some((p, find(p)?))).collect();
    if let Some((p, tensor)) = pairs.iter().find(|(p, tensor)| p.var.dims() != tensor.dims()) {
        return Err(LoadError::Shape {
            name: p.name.clone(),
            found: tensor.dims().to_vec(),
            expected: p.var.dims().to_vec(),
            file: describe(tensors),
        });
    }
    for (p, tensor) in &pairs {
        p.var.set(&tensor.to_dtype(p.var.dtype())?.to_device(p.var.device())?)?;
    }
    Ok(pairs.len())
}

/// What the file seems to be.
fn describe(tensors: &[(String, Tensor)]) -> String {
    let entry = |(name, tensor): &(String, Tensor)| WeightEntry {
        name: name.clone(),
        shape: tensor.dims().to_vec(),
        dtype: tensor.dtype(),
    };
    let entries: Vec<WeightEntry> = tensors.iter().map(entry).collect();
    match (Dialect::of(&entries), Guess::of(&entries)) {
        (Dialect::Foreign(name), _) => format!("this file has the names of {name}, which cannot be read"),
        (_, Some(guess)) => format!("this file is {guess}"),
        (_, None) => "this file is no ViT in the names of MAE's checkpoints".into(),
    }
}
