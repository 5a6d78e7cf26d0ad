//! Weights that are stored in parts, from which their program computes those of the model: adapters, masks, norms of weights,
//! scales of quantized values. Read as they are, they would be another model.

use super::entry::lies_beside;
use std::collections::BTreeSet;

/// Kinds of parts: words in the names of tensors that all occur beside the model's own names, and what the file is.
const KINDS: [(&[&str], &str); 4] = [
    (
        &[
            "lora_A",
            "lora_B",
            "lora_down",
            "lora_up",
            "lora_embedding_A",
            "lora_embedding_B",
            "lora_magnitude_vector",
        ],
        "a model with a LoRA adapter, or the adapter alone (`lora_A`, `lora_B`): merge it into its model with PEFT's \
         `merge_and_unload()`, and save that model",
    ),
    (
        &["absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state", "SCB"],
        "a model that bitsandbytes has quantized (`absmax`, `SCB`): save the model before it is quantized, or after \
         `dequantize()`",
    ),
    (
        &["qweight", "qzeros"],
        "a model that is quantized (`qweight`, `qzeros`): save the model before it is quantized",
    ),
    (
        &["parametrizations"],
        "a model with parametrizations (`parametrizations.weight.original0`), such as weight norm: save it after \
         `torch.nn.utils.parametrize.remove_parametrizations(module, \"weight\")` for each module that has one",
    ),
];

/// Pairs of tensors that stand for one: the ends of their names, and what the file is.
const PAIRS: [([&str; 2], &str); 3] = [
    (
        ["_orig", "_mask"],
        "a pruned model whose masks are not applied (`weight_orig`, `weight_mask`): save it after \
         `torch.nn.utils.prune.remove(module, \"weight\")` for each pruned module",
    ),
    (
        ["weight_g", "weight_v"],
        "a model with weight norm (`weight_g`, `weight_v`): save it after `torch.nn.utils.remove_weight_norm(module)` for \
         each module that has one",
    ),
    (
        ["_orig", "_u"],
        "a model with spectral norm (`weight_orig`, `weight_u`): save it after \
         `torch.nn.utils.remove_spectral_norm(module)` for each module that has one",
    ),
];

/// What a file with tensors of these names is, and what to do about it, if it holds weights in parts. Heads, which may hold
/// parts, do not count.
pub(super) fn unmerged<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let names: BTreeSet<&str> = names.filter(|name| !lies_beside(name)).collect();
    let has = |word: &&str| names.iter().any(|name| name.split('.').any(|part| part == *word));
    let kind = KINDS.iter().find(|(words, _)| words.iter().any(&has));
    let pair = |[first, second]: [&str; 2]| {
        names.iter().any(|name| {
            let start = name.strip_suffix(first);
            start.is_some_and(|start| names.contains(format!("{start}{second}").as_str()))
        })
    };
    kind.map(|(_, what)| *what).or_else(|| PAIRS.iter().find(|(ends, _)| pair(*ends)).map(|(_, what)| *what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_weights_are_named_with_the_remedy() {
        for (names, remedy) in [
            (&["base_model.model.vit.layer.0.query.lora_A.weight"][..], "merge_and_unload"),
            (&["blocks.0.attn.qkv.lora_B.default.weight", "cls_token"], "merge_and_unload"),
            (&["blocks.0.mlp.fc1.weight_orig", "blocks.0.mlp.fc1.weight_mask"], "prune.remove"),
            (&["blocks.0.mlp.fc1.weight_g", "blocks.0.mlp.fc1.weight_v"], "remove_weight_norm"),
            (&["blocks.0.mlp.fc1.weight_orig", "blocks.0.mlp.fc1.weight_u"], "remove_spectral_norm"),
            (&["blocks.0.mlp.fc1.parametrizations.weight.original1"], "remove_parametrizations"),
            (&["blocks.0.mlp.fc1.weight.absmax"], "dequantize"),
            (&["blocks.0.mlp.fc1.weight.quant_state.bitsandbytes__nf4"], "dequantize"),
            (&["blocks.0.mlp.fc1.SCB"], "dequantize"),
            (&["blocks.0.mlp.fc1.qweight"], "before it is quantized"),
        ] {
            let what = unmerged(names.iter().copied());
            assert!(what.is_some_and(|what| what.contains(remedy)), "{names:?}: {what:?}");
        }
        for names in [
            &["cls_token", "blocks.0.attn.qkv.weight"][..],
            &["head.last_layer.weight_g", "head.last_layer.weight_v"],
            &["dino_head.last_layer.parametrizations.weight.original0"],
            &["blocks.0.mlp.weight_mask", "blocks.0.attn.bias_mask"],
            &["blocks.0.mlp.weight_g", "blocks.1.mlp.weight_v"],
        ] {
            assert_eq!(unmerged(names.iter().copied()), None, "{names:?}");
        }
    }
}
