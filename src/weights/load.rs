//! Loads tensors into a model. Loading is strict in both directions, with named exceptions.
//!
//! Position embeddings of another grid are resized as the model specifies ([`crate::nn::pos_embed::resize`]), and so is the
//! patch embedding if the patch size differs. The model is unchanged unless everything fits.

use super::entry::{WeightEntry, lies_beside};
use super::error::WeightLoadError;
use super::finite::NotFinite;
use super::inspect::{Contents, InferredVit};
use super::relative::fit_tables;
use super::rope::{ROPE_PERIODS, check_periods};
use super::sincos;
use crate::config::{ModelConfig, ResizePositions};
use crate::models::{BackboneUsage, Backbones, Vit, WeightMatching};
use crate::nn::pos_embed::{self, Bicubic};
use crate::nn::{Parameter, Params, is_relative_position, parameter_shapes, resize_kernel};
use candle_core::{Shape, Tensor};
use serde::Serialize;

/// Prefixes of tensors (pre-training decoders, heads) that are skipped when a backbone is loaded.
const LEFT_OUT: [&str; 18] = [
    "decoder_",
    "mask_token",
    "encoder_mask_token",
    ROPE_PERIODS,
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

/// Number of names in the description of an unknown file.
const SHOWN: usize = 5;

/// Result of loading a backbone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Number of tensors loaded.
    pub loaded: usize,
    /// Names of tensors in the file that were skipped.
    pub left_out: Vec<String>,
    /// Number of relative position bias tables that the file lacks; they keep their initial values.
    pub new: usize,
    /// Old and new grid (rows, columns) of the position embeddings, if they were resized.
    pub resized: Option<Resized>,
    /// Whether the file lacks a position embedding for the class token, which gets a zero.
    pub no_class_position: bool,
    /// Old and new side of the patches in pixels, if the patch embedding was resized.
    pub patches: Option<(usize, usize)>,
}

/// Loads the `tensors` of a file into the backbone in `params`, which was built from `model`, in the way of its kind
/// ([`WeightMatching`]); `grid` is that of [`load_backbone`].
///
/// # Errors
/// Tensors that do not fit; a backbone that is not registered.
pub fn load_initial(
    backbones: &Backbones,
    params: &Params,
    tensors: &[(String, Tensor)],
    model: &ModelConfig,
    grid: Option<(usize, usize)>,
) -> Result<LoadReport, WeightLoadError> {
    match backbones.weight_matching(model).map_err(candle_core::Error::wrap)? {
        WeightMatching::Vit => load_backbone(params, tensors, model, grid),
        WeightMatching::ByName => load_by_name(params, tensors, &backbones.parameters(model)?),
    }
}

/// Loads those of `params` that `backbone` names, each from the tensor of its name. Other tensors are skipped.
fn load_by_name(
    params: &Params,
    tensors: &[(String, Tensor)],
    backbone: &[(String, Shape)],
) -> Result<LoadReport, WeightLoadError> {
    let wanted: Vec<Parameter> = backbone.iter().filter_map(|(name, _)| params.get(name)).collect();
    let unused = tensors.iter().filter(|(name, _)| !wanted.iter().any(|p| p.name == *name));
    let left_out = unused.map(|(name, _)| name.clone()).collect();
    Ok(LoadReport { loaded: assign(&wanted, tensors)?, left_out, ..LoadReport::default() })
}

/// Loads the `tensors` of a file into the ViT in `params`, which was built from `model`.
///
/// Skipped are decoders, mask tokens, targets, `head.*`, `fc_norm.*` and other modules beside a backbone, and `norm.*` and
/// `cls_token` if the model has none. Position embeddings without one for the class token get a zero for it.
/// Relative position bias tables that the file lacks keep their initial values. Everything else must match in both
/// directions. `grid` is the grid (rows, columns) of the position embeddings in the file; if `None`, the grid of a square
/// image is assumed, or that of the model if their number is not a square.
///
/// # Errors
/// Missing, unexpected or non-finite tensors, and tensors of other shapes.
pub fn load_backbone(
    params: &Params,
    tensors: &[(String, Tensor)],
    model: &ModelConfig,
    grid: Option<(usize, usize)>,
) -> Result<LoadReport, WeightLoadError> {
    let options = BackboneUsage { final_norm: true, ..BackboneUsage::default() };
    let backbone = parameter_shapes(|vb| Vit::new(model, options, vb))?;
    let relative = params.all().into_iter().filter(|p| is_relative_position(&p.name));
    let tables: Vec<(String, Vec<usize>)> = relative.map(|p| (p.name, p.var.dims().to_vec())).collect();
    let mut fitted = tensors.to_vec();
    fit_tables(&mut fitted, &tables)?;
    compute_positions(&mut fitted, model)?;
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
        // Parameters that this model could have, but is built without.
        let unused = backbone.iter().any(|(part, _)| part == name) || is_relative_position(name);
        let known = unused || LEFT_OUT.iter().any(|prefix| name.starts_with(prefix)) || lies_beside(name);
        if known { &mut report.left_out } else { &mut unexpected }.push(name.clone());
    }
    if !unexpected.is_empty() {
        return Err(WeightLoadError::Unexpected { names: unexpected, file: describe(tensors) });
    }
    check_periods(tensors, model)?;
    let mut resized = tensors.to_vec();
    (report.resized, report.no_class_position) = fit_positions(&mut resized, model, grid)?;
    report.patches = fit_patches(&mut resized, model)?;
    report.loaded = assign(&wanted, &resized)?;
    Ok(report)
}

/// Replaces the frequencies of positions among `tensors`, if there are any, by position embeddings for the grid of `model`.
fn compute_positions(tensors: &mut [(String, Tensor)], model: &ModelConfig) -> Result<(), WeightLoadError> {
    if let Some((name, tensor)) = tensors.iter_mut().find(|(name, _)| name == sincos::FREQUENCIES) {
        (*name, *tensor) = ("pos_embed".into(), sincos::positions(tensor, model.grid())?);
    }
    Ok(())
}

/// Old and new grid.
type Resized = ((usize, usize), (usize, usize));

/// Resizes the position embeddings among `tensors` to the grid of `model`; `from` is their grid, if it is known. Also returns
/// whether the class token had none.
fn fit_positions(
    tensors: &mut [(String, Tensor)],
    model: &ModelConfig,
    from: Option<(usize, usize)>,
) -> Result<(Option<Resized>, bool), WeightLoadError> {
    let Some((name, tensor)) = tensors.iter_mut().find(|(name, _)| name == "pos_embed") else {
        return Ok((None, false));
    };
    if tensor.rank() != 3 || tensor.dim(2)? != model.width {
        return Ok((None, false)); // an error of shapes follows
    }
    let (rows, to) = (tensor.dim(1)?, model.grid());
    let Some((from, class)) = grid_of(rows, from, to) else {
        return Err(WeightLoadError::Grid { name: name.clone(), found: rows, to });
    };
    if !class {
        *tensor = tensor.pad_with_zeros(1, 1, 0)?;
    }
    if from == to {
        return Ok((None, !class));
    }
    *tensor = pos_embed::resize(tensor, from, to, kernel(model.resize_positions))?;
    Ok((Some((from, to)), !class))
}

/// The grid of `rows` position embeddings, and whether the first one belongs to the class token. `known` is the grid, if it is
/// known; `to` is that of the model. A square grid is preferred to that of the model, and one with a class token to one without.
fn grid_of(rows: usize, known: Option<(usize, usize)>, to: (usize, usize)) -> Option<((usize, usize), bool)> {
    let area = |(rows, columns): (usize, usize)| rows * columns;
    let square = |n: usize| Some((n.isqrt(), n.isqrt())).filter(|side| n > 0 && area(*side) == n);
    let patches = rows.checked_sub(1)?;
    let of = |grid: Option<(usize, usize)>, n: usize| grid.filter(|grid| n > 0 && area(*grid) == n);
    let with_class = of(known, patches).or_else(|| square(patches)).or_else(|| of(Some(to), patches));
    let alone = || of(known, rows).or_else(|| square(rows)).or_else(|| of(Some(to), rows));
    with_class.map(|grid| (grid, true)).or_else(|| alone().map(|grid| (grid, false)))
}

/// Resizes the patch embedding among `tensors` to the patch size of `model`.
fn fit_patches(
    tensors: &mut [(String, Tensor)],
    model: &ModelConfig,
) -> Result<Option<(usize, usize)>, WeightLoadError> {
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

/// Loads `tensors` of another program into all of `params`, a backbone of `model` with its head. Names and shapes must
/// match exactly, except that position embeddings are resized, as ViTDet and others do in every forward pass.
///
/// # Errors
/// Missing, unexpected or non-finite tensors, and tensors of other shapes.
pub fn load_model(
    params: &Params,
    tensors: &[(String, Tensor)],
    model: &ModelConfig,
) -> Result<(), WeightLoadError> {
    let mut tensors = tensors.to_vec();
    compute_positions(&mut tensors, model)?;
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

/// Loads `tensors` into all of `params`; names and shapes must match exactly. Used to resume and to evaluate runs.
///
/// # Errors
/// Missing, unexpected or non-finite tensors, and tensors of other shapes.
pub fn load_exact(params: &Params, tensors: &[(String, Tensor)]) -> Result<(), WeightLoadError> {
    let wanted = params.all();
    let unknown = tensors.iter().filter(|(name, _)| !wanted.iter().any(|p| p.name == *name));
    let names: Vec<String> = unknown.map(|(name, _)| name.clone()).collect();
    if !names.is_empty() {
        return Err(WeightLoadError::Unexpected { names, file: describe(tensors) });
    }
    assign(&wanted, tensors).map(|_| ())
}

/// Checks that `tensors` hold neither NaN nor infinity.
///
/// # Errors
/// Names the tensors that hold them.
pub(crate) fn refuse_not_finite(tensors: &[(String, Tensor)]) -> Result<(), WeightLoadError> {
    let found = tensors.iter().filter_map(|(name, tensor)| NotFinite::of(name, tensor).transpose());
    let found = found.collect::<candle_core::Result<Vec<_>>>()?;
    if found.is_empty() { Ok(()) } else { Err(WeightLoadError::NotFinite { tensors: found }) }
}

/// Sets all parameters `wanted`, after checking that each has a finite tensor of its shape.
fn assign(wanted: &[Parameter], tensors: &[(String, Tensor)]) -> Result<usize, WeightLoadError> {
    let shapes: Vec<(String, Vec<usize>)> =
        wanted.iter().map(|p| (p.name.clone(), p.var.dims().to_vec())).collect();
    let found = matching(&shapes, tensors)?;
    if let Some((p, tensor)) = wanted.iter().zip(&found).find(|(_, tensor)| !tensor.dtype().is_float()) {
        let (name, found, file) = (p.name.clone(), tensor.dtype(), describe(tensors));
        return Err(WeightLoadError::Type { name, found, file });
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

/// The tensors with these names, which must have these shapes.
fn matching<'a>(
    wanted: &[(String, Vec<usize>)],
    tensors: &'a [(String, Tensor)],
) -> Result<Vec<&'a Tensor>, WeightLoadError> {
    let find = |name: &str| tensors.iter().find(|(held, _)| held == name).map(|(_, tensor)| tensor);
    let missing = wanted.iter().filter(|(name, _)| find(name).is_none());
    let names: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
    if !names.is_empty() {
        return Err(WeightLoadError::Missing { names, file: describe(tensors) });
    }
    let pairs: Vec<_> = wanted.iter().filter_map(|wanted| Some((wanted, find(&wanted.0)?))).collect();
    if let Some(((name, expected), tensor)) = pairs.iter().find(|((_, shape), t)| shape != t.dims()) {
        return Err(WeightLoadError::Shape {
            name: name.clone(),
            found: tensor.dims().to_vec(),
            expected: expected.clone(),
            file: describe(tensors),
        });
    }
    Ok(pairs.into_iter().map(|(_, tensor)| tensor).collect())
}

/// Describes what the file seems to hold, for error messages.
fn describe(tensors: &[(String, Tensor)]) -> String {
    let entry = |(name, tensor): &(String, Tensor)| WeightEntry {
        name: name.clone(),
        shape: tensor.dims().to_vec(),
        dtype: tensor.dtype(),
    };
    let entries: Vec<WeightEntry> = tensors.iter().map(entry).collect();
    match (Contents::of(&entries), InferredVit::of(&entries)) {
        (Contents::Unread(what), _) => format!("this file is {what}"),
        (Contents::ClasslessEncoder, Some(guess)) => {
            format!(
                "this file is {guess}, without a class token: only windowed attention (ViTDet) does without it"
            )
        }
        (_, Some(guess)) => format!("this file is {guess}"),
        (_, None) => {
            let shown: Vec<String> =
                entries.iter().take(SHOWN).map(|entry| format!("`{}`", entry.name)).collect();
            let more = if entries.len() > SHOWN {
                format!(" and {} more", entries.len() - SHOWN)
            } else {
                String::new()
            };
            format!("this file is not a ViT with known names; it holds {}{more}", shown.join(", "))
        }
    }
}
