//! Puts tensors of a file into a model: strict both ways, with named exceptions.
//!
//! Positions of another grid are resized as the model says ([`crate::nn::pos_embed::resize`]), and so is the kernel of a
//! backbone's patches of another size.
//! Nothing is written unless everything fits.

use super::finite::{NotFinite, refuse_not_finite};
use super::relative::fit_tables;
use super::{Contents, InferredVit, WeightEntry};
use crate::config::{ModelConfig, ResizePositions};
use crate::models::{BackboneUsage, Backbones, InitialWeights, Vit};
use crate::nn::pos_embed::{self, Bicubic};
use crate::nn::{Parameter, Params, is_relative_position, parameter_shapes, resize_kernel};
use candle_core::{DType, Shape, Tensor};
use serde::Serialize;

/// Tensors of a pre-training file, or of one with a head, that a backbone has no place for.
const LEFT_OUT: [&str; 17] = [
    "decoder_",
    "mask_token",
    "encoder_mask_token",
    "target.",
    "teacher.",
    "head.",
    "fc_norm.",
    "lm_head.",
    "pre_logits.",
    "fpn1.",
    "fpn2.",
    "decode_head.",
    "auxiliary_head.",
    "pyramid.",
    "fpn.",
    "rpn.",
    "roi_heads.",
];

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
    pub resized: Option<Resized>,
    /// Old and new side of patches in pixels, when their kernel was resized.
    pub patches: Option<(usize, usize)>,
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
    #[error("`{name}`: {found} positions are not a square grid, so they cannot be resized to {}×{}", to.0, to.1)]
    Grid { name: String, found: usize, to: (usize, usize) },
    #[error("`{name}` has values of type {found:?}, which weights do not have; {file}")]
    Type { name: String, found: DType, file: String },
    #[error("weights contain NaN or infinity in {}: training diverged, or the file is damaged", list(&all(tensors)))]
    NotFinite { tensors: Vec<NotFinite> },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

fn all(tensors: &[NotFinite]) -> Vec<String> {
    tensors.iter().map(ToString::to_string).collect()
}

fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Fills the backbone that lies in `params` (built from `model`) from the `tensors` of a file, in the way of its kind
/// ([`InitialWeights`]); `grid` is that of [`load_backbone`].
///
/// # Errors
/// When the tensors do not fit, or `backbones` does not have the backbone of `model`.
pub fn load_initial(
    backbones: &Backbones,
    params: &Params,
    tensors: &[(String, Tensor)],
    model: &ModelConfig,
    grid: Option<(usize, usize)>,
) -> Result<LoadReport, LoadError> {
    match backbones.initial_weights(model).map_err(candle_core::Error::wrap)? {
        InitialWeights::Vit => load_backbone(params, tensors, model, grid),
        InitialWeights::ByName => load_by_name(params, tensors, &backbones.parameters(model)?),
    }
}

/// Fills those of `params` that `backbone` names, each from the tensor of its name. Other tensors are left out.
fn load_by_name(
    params: &Params,
    tensors: &[(String, Tensor)],
    backbone: &[(String, Shape)],
) -> Result<LoadReport, LoadError> {
    let wanted: Vec<Parameter> = backbone.iter().filter_map(|(name, _)| params.get(name)).collect();
    let unused = tensors.iter().filter(|(name, _)| !wanted.iter().any(|p| p.name == *name));
    let left_out = unused.map(|(name, _)| name.clone()).collect();
    Ok(LoadReport { loaded: assign(&wanted, tensors)?, left_out, ..LoadReport::default() })
}

/// Fills the ViT that lies in `params` (built from `model`) from the `tensors` of a file.
///
/// Left out: decoder, mask tokens, targets, `head.*`, `fc_norm.*`, and `norm.*` and `cls_token` when the model has
/// none. Relative positions are taken where the file has them and keep their initial values where it has not.
/// Everything else must match both ways. Positions lie in the grid `grid` (rows, columns); where that is unknown, in
/// that of a square image, or that of the model where they make no square.
pub fn load_backbone(
    params: &Params,
    tensors: &[(String, Tensor)],
    model: &ModelConfig,
    grid: Option<(usize, usize)>,
) -> Result<LoadReport, LoadError> {
    let options = BackboneUsage { final_norm: true, ..BackboneUsage::default() };
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
    report.resized = fit_positions(&mut resized, model, grid)?;
    report.patches = fit_patches(&mut resized, model)?;
    report.loaded = assign(&wanted, &resized)?;
    Ok(report)
}

/// Old and new grid.
type Resized = ((usize, usize), (usize, usize));

/// Resizes the table of positions among `tensors`, which lie in the grid `from` where that is known, to the grid of
/// `model`.
fn fit_positions(
    tensors: &mut [(String, Tensor)],
    model: &ModelConfig,
    from: Option<(usize, usize)>,
) -> Result<Option<Resized>, LoadError> {
    let Some((name, tensor)) = tensors.iter_mut().find(|(name, _)| name == "pos_embed") else {
        return Ok(None);
    };
    let (found, to) = (tensor.dim(1).unwrap_or(0).saturating_sub(1), model.grid());
    let side = found.isqrt();
    let from = match from {
        Some((rows, columns)) if rows * columns == found => (rows, columns),
        _ if found == to.0 * to.1 && side * side != found => to,
        _ => (side, side),
    };
    if tensor.rank() != 3 || tensor.dim(2)? != model.width || from == to {
        return Ok(None);
    }
    if from.0 * from.1 != found || found == 0 {
        return Err(LoadError::Grid { name: name.clone(), found, to });
    }
    *tensor = pos_embed::resize(tensor, from, to, kernel(model.resize_positions))?;
    Ok(Some((from, to)))
}

/// Resizes the kernel of patches among `tensors` to the patches of `model`.
fn fit_patches(
    tensors: &mut [(String, Tensor)],
    model: &ModelConfig,
) -> Result<Option<(usize, usize)>, LoadError> {
    let kernel = tensors.iter_mut().find(|(name, _)| name == "patch_embed.proj.weight");
    let Some((_, kernel)) = kernel else { return Ok(None) };
    match *kernel.dims() {
        [_, _, from, width] if from == width && from > 0 && from != model.patch => {
            *kernel = resize_kernel(kernel, model.patch)?;
            Ok(Some((from, model.patch)))
        }
        _ => Ok(None),
    }
}

/// Fills all of `params`, a backbone of `model` with its head, from `tensors` of another program: exactly, but for
/// positions of another grid, which ViTDet and others resize in every forward pass.
pub fn load_model(
    params: &Params,
    tensors: &[(String, Tensor)],
    model: &ModelConfig,
) -> Result<(), LoadError> {
    let mut tensors = tensors.to_vec();
    fit_positions(&mut tensors, model, None)?;
    load_exact(params, &tensors)
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

/// Checks that every one of `wanted` is there in its shape and holds numbers, then writes them all.
fn assign(wanted: &[Parameter], tensors: &[(String, Tensor)]) -> Result<usize, LoadError> {
    let shapes: Vec<(String, Vec<usize>)> =
        wanted.iter().map(|p| (p.name.clone(), p.var.dims().to_vec())).collect();
    let found = matching(&shapes, tensors)?;
    if let Some((p, tensor)) = wanted.iter().zip(&found).find(|(_, tensor)| !tensor.dtype().is_float()) {
        let (name, found, file) = (p.name.clone(), tensor.dtype(), describe(tensors));
        return Err(LoadError::Type { name, found, file });
    }
    let convert = |(p, tensor): (&Parameter, &Tensor)| {
        Ok((p.name.clone(), tensor.to_dtype(p.var.dtype())?.to_device(p.var.device())?))
    };
    let values = wanted.iter().zip(found).map(convert).collect::<candle_core::Result<Vec<_>>>()?;
    refuse_not_finite(&values)?;
    for (p, (_, tensor)) in wanted.iter().zip(&values) {
        p.var.set(tensor)?;
    }
    Ok(values.len())
}

/// The tensors of these names, which must have these shapes.
fn matching<'a>(
    wanted: &[(String, Vec<usize>)],
    tensors: &'a [(String, Tensor)],
) -> Result<Vec<&'a Tensor>, LoadError> {
    let find = |name: &str| tensors.iter().find(|(held, _)| held == name).map(|(_, tensor)| tensor);
    let missing = wanted.iter().filter(|(name, _)| find(name).is_none());
    let names: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
    if !names.is_empty() {
        return Err(LoadError::Missing { names, file: describe(tensors) });
    }
    let pairs: Vec<_> = wanted.iter().filter_map(|wanted| Some((wanted, find(&wanted.0)?))).collect();
    if let Some(((name, expected), tensor)) = pairs.iter().find(|((_, shape), t)| shape != t.dims()) {
        return Err(LoadError::Shape {
            name: name.clone(),
            found: tensor.dims().to_vec(),
            expected: expected.clone(),
            file: describe(tensors),
        });
    }
    Ok(pairs.into_iter().map(|(_, tensor)| tensor).collect())
}

/// What the file seems to be.
fn describe(tensors: &[(String, Tensor)]) -> String {
    let entry = |(name, tensor): &(String, Tensor)| WeightEntry {
        name: name.clone(),
        shape: tensor.dims().to_vec(),
        dtype: tensor.dtype(),
    };
    let entries: Vec<WeightEntry> = tensors.iter().map(entry).collect();
    match (Contents::of(&entries), InferredVit::of(&entries)) {
        (Contents::Unread(what), _) => format!("this file is {what}"),
        (_, Some(guess)) => format!("this file is {guess}"),
        (_, None) => "this file is no ViT in the names of MAE's checkpoints".into(),
    }
}
