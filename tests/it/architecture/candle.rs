//! What candle differentiates wrongly, or not at all without saying so, is used inside `src/ops` only,
//! where every operator has its gradient tested.
//!
//! Names are read in the text: calls as methods or through `Tensor::`, and paths from `candle_nn`.

use super::report;
use super::source::{Source, Token};

/// Methods of tensors whose gradient is wrong, missing or an error for some arguments.
const METHODS: [&str; 16] = [
    "avg_pool2d",
    "avg_pool2d_with_stride",
    "interpolate1d",
    "interpolate2d",
    "max_pool2d",
    "max_pool2d_with_stride",
    "relu",
    "scatter",
    "scatter_add",
    "scatter_add_set",
    "scatter_set",
    "unfold",
    "upsample_bilinear2d",
    "upsample_bilinear2d_with_scale",
    "upsample_nearest1d",
    "upsample_nearest2d",
];

/// Items of `candle_nn` that cut the gradient graph.
const ITEMS: [&str; 13] = [
    "LayerNorm",
    "LayerNormConfig",
    "RmsNorm",
    "layer_norm",
    "layer_norm_no_bias",
    "rms_norm",
    "rms_norm_non_quantized",
    "rope",
    "rope_i",
    "rope_thd",
    "rotary_emb",
    "sdpa",
    "softmax_last_dim",
];

/// Ends of paths of `candle_nn` behind which its items would have other names.
const WHOLE: [&str; 3] = ["*", "ops", "self"];

#[test]
fn operators_without_a_right_gradient_stay_inside_ops() {
    report(Source::all().iter().flat_map(traps));
}

#[test]
fn an_operator_without_a_right_gradient_is_found() {
    let text = "//! Made up: x.max_pool2d(2) in a comment is no call.
use candle_nn::{Init, VarBuilder, ops::{softmax_last_dim, softmax}, LayerNorm as Norm};
use candle_nn::ops;
use candle_nn as nn;
use crate::ops::{layer_norm, max_pool2d};
fn f(x: &Tensor) -> Result<Tensor> {
    let text = \"x.unfold(1)\";
    let y = crate::ops::max_pool2d(&candle_nn::ops::softmax(x, 1)?, 2, 2, 0)?;
    let y = y.avg_pool2d(2)?;
    let y = Tensor::upsample_nearest2d(&y, 4, 4)?;
    candle_nn::ops::rms_norm(&y, &y, 1e-5)
}
";
    let places = [(9, "avg_pool2d"), (10, "upsample_nearest2d"), (2, "softmax_last_dim"), (2, "LayerNorm")];
    let places = places.into_iter().chain([(3, "ops"), (11, "rms_norm"), (4, "candle_nn as")]);
    let expected: Vec<String> = places
        .map(|(line, name)| {
            format!(
                "src/models/made_up.rs:{line}: candle's `{name}` has no gradient to rely on; see `crate::ops`"
            )
        })
        .collect();
    assert_eq!(traps(&Source::new("models/made_up.rs", text)), expected);
    assert!(traps(&Source::new("ops/made_up.rs", text)).is_empty());
}

/// What `source` uses of candle's that it must not.
fn traps(source: &Source) -> Vec<String> {
    if source.module().as_deref() == Some("ops") {
        return Vec::new();
    }
    let has = |names: &[&str], token: &Token| names.contains(&token.text.as_str());
    let methods = source.methods().filter(|token| has(&METHODS, token)).cloned();
    let items = source.paths("candle_nn").into_iter().filter_map(|path| {
        let whole = path.last().filter(|last| has(&WHOLE, last)).cloned();
        path.into_iter().find(|token| has(&ITEMS, token)).or(whole)
    });
    let renamed =
        source.renamed("candle_nn").map(|token| Token { text: "candle_nn as".into(), ..token.clone() });
    let message = |token: Token| {
        let (file, Token { line, text }) = (source.name(), token);
        format!("{file}:{line}: candle's `{text}` has no gradient to rely on; see `crate::ops`")
    };
    methods.chain(items).chain(renamed).map(message).collect()
}
