//! Names that other programs give to the tensors of a ViT, as tables: one list of rules per program, read from left to
//! right when a file is read and from right to left when one is written.
//!
//! Ours are those of facebookresearch/mae, which timm shares, and of microsoft/unilm for what BEiT adds.

mod dense;
mod dinov2;
mod plain;

use super::WeightEntry;
use dense::{HUGGING_FACE_UPERNET, MMSEG_HEADS, UNILM_UPERNET, VITDET};
use dinov2::{DINOV2, DINOV2_CHUNKED, HUGGING_FACE_DINOV2};
pub(super) use plain::{ours, unread};

/// A module of theirs and what it is called here; `{}` stands for a number, and the last one is that of a block. What
/// follows the module (`.weight`, `.bias`) stays. A rule may name a tensor whole, and the first one that fits counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub theirs: &'static str,
    pub ours: &'static str,
    /// Which third of our tensor theirs is, along the first dimension: queries, keys, values.
    pub third: Option<usize>,
}

pub(super) const fn rule(theirs: &'static str, ours: &'static str) -> Rule {
    Rule { theirs, ours, third: None }
}

const fn third(theirs: &'static str, ours: &'static str, third: usize) -> Rule {
    Rule { theirs, ours, third: Some(third) }
}

/// The names of one program.
#[derive(Debug)]
pub(super) struct Names {
    pub title: &'static str,
    /// What its files may put before the names of the backbone.
    pub prefixes: &'static [&'static str],
    /// Backbone tensors, without the prefix, that are in a file of its names and in no other's.
    pub probes: &'static [&'static str],
    /// Tensors that tell another program's names although the probes are there.
    pub never: &'static [&'static str],
    /// Of the backbone, after the prefix.
    pub rules: &'static [Rule],
    /// Of what stands beside the backbone, without a prefix.
    pub others: &'static [Rule],
    /// Names of some versions, with a prefix or without: read and not written.
    pub read: &'static [Rule],
    /// Modules that a ViT has no place for: read over.
    pub ignored: &'static [&'static str],
}

/// A block of Hugging Face's ViT, ViT-MAE and BEiT, below `$theirs`.
macro_rules! hugging_face_block {
    ($theirs:literal, $ours:literal) => {
        [
            third(concat!($theirs, ".attention.attention.query"), concat!($ours, ".attn.qkv"), 0),
            third(concat!($theirs, ".attention.attention.key"), concat!($ours, ".attn.qkv"), 1),
            third(concat!($theirs, ".attention.attention.value"), concat!($ours, ".attn.qkv"), 2),
            rule(concat!($theirs, ".attention.output.dense"), concat!($ours, ".attn.proj")),
            rule(concat!($theirs, ".layernorm_before"), concat!($ours, ".norm1")),
            rule(concat!($theirs, ".layernorm_after"), concat!($ours, ".norm2")),
            rule(concat!($theirs, ".intermediate.dense"), concat!($ours, ".mlp.fc1")),
            rule(concat!($theirs, ".output.dense"), concat!($ours, ".mlp.fc2")),
        ]
    };
}

pub(super) const fn joined<const A: usize, const B: usize, const N: usize>(
    a: [Rule; A],
    b: [Rule; B],
) -> [Rule; N] {
    let mut all = [a[0]; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < A { a[i] } else { b[i - A] };
        i += 1;
    }
    all
}

const EMBEDDINGS: [Rule; 3] = [
    rule("embeddings.cls_token", "cls_token"),
    rule("embeddings.position_embeddings", "pos_embed"),
    rule("embeddings.patch_embeddings.projection", "patch_embed.proj"),
];
const NORM: [Rule; 1] = [rule("layernorm", "norm")];
const VIT_BLOCKS: [Rule; 11] = joined(EMBEDDINGS, hugging_face_block!("encoder.layer.{}", "blocks.{}"));
const VIT: [Rule; 12] = joined(NORM, VIT_BLOCKS);
const MAE_DECODER: [Rule; 13] = joined(
    [
        rule("decoder.mask_token", "mask_token"),
        rule("decoder.decoder_pos_embed", "decoder_pos_embed"),
        rule("decoder.decoder_embed", "decoder_embed"),
        rule("decoder.decoder_norm", "decoder_norm"),
        rule("decoder.decoder_pred", "decoder_pred"),
    ],
    hugging_face_block!("decoder.decoder_layers.{}", "decoder_blocks.{}"),
);
pub(super) const BEIT_BLOCKS: [Rule; 19] = joined(
    [
        rule("pooler.layernorm", "fc_norm"),
        rule("embeddings.mask_token", "mask_token"),
        rule("encoder.layer.{}.attention.attention.query.bias", "blocks.{}.attn.q_bias"),
        rule("encoder.layer.{}.attention.attention.value.bias", "blocks.{}.attn.v_bias"),
        rule(
            "encoder.layer.{}.attention.attention.relative_position_bias.relative_position_bias_table",
            "blocks.{}.attn.relative_position_bias_table",
        ),
        rule(
            "encoder.relative_position_bias.relative_position_bias_table",
            "rel_pos_bias.relative_position_bias_table",
        ),
        rule("encoder.layer.{}.lambda_1", "blocks.{}.gamma_1"),
        rule("encoder.layer.{}.lambda_2", "blocks.{}.gamma_2"),
    ],
    VIT_BLOCKS,
);
const BEIT: [Rule; 20] = joined(NORM, BEIT_BLOCKS);

/// What stands beside the backbone: the decoder of ViT-MAE, a classifier.
const BESIDE: [Rule; 14] = joined([rule("classifier", "head")], MAE_DECODER);

pub(super) const HUGGING_FACE: Names = Names {
    title: "Hugging Face ViT or ViT-MAE",
    prefixes: &["vit.", "deit.", ""],
    probes: &["embeddings.cls_token", "encoder.layer.0.attention.attention.key.bias"],
    never: &["embeddings.distillation_token", "encoder.layer.0.layer_scale1.lambda1"],
    rules: &VIT,
    others: &BESIDE,
    // transformers 5
    read: &hugging_face_block!("decoder.decoder_encoder.layer.{}", "decoder_blocks.{}"),
    ignored: &["pooler", "embeddings.mask_token"],
};

/// What stands beside a BEiT: a classifier of masked patches or of images, or a UperNet.
const BESIDE_BEIT: [Rule; 9] =
    joined([rule("layernorm", "norm"), rule("lm_head", "lm_head"), rule("classifier", "head")], MMSEG_HEADS);

pub(super) const HUGGING_FACE_BEIT: Names = Names {
    title: "Hugging Face BEiT",
    prefixes: &["beit.", ""],
    probes: &["embeddings.cls_token", "encoder.layer.0.lambda_1"],
    never: &[],
    rules: &BEIT,
    others: &BESIDE_BEIT,
    read: &[],
    ignored: &[],
};

/// With the final norm and the classifier of masked patches beside the backbone.
pub(super) const HUGGING_FACE_BEIT_MASKED: Names = Names { rules: &BEIT_BLOCKS, ..HUGGING_FACE_BEIT };

/// Programs whose files are read.
pub(super) const ALL: [Names; 14] = [
    HUGGING_FACE,
    HUGGING_FACE_BEIT,
    HUGGING_FACE_UPERNET,
    UNILM_UPERNET,
    VITDET,
    HUGGING_FACE_DINOV2,
    DINOV2,
    DINOV2_CHUNKED,
    Names {
        title: "OpenMMLab",
        prefixes: &["backbone.", ""],
        probes: &["cls_token", "layers.0.ln1.weight", "layers.0.ffn.layers.0.0.weight"],
        never: &[],
        rules: &[
            rule("cls_token", "cls_token"),
            rule("pos_embed", "pos_embed"),
            rule("patch_embed.projection", "patch_embed.proj"),
            rule("layers.{}.ln1", "blocks.{}.norm1"),
            rule("layers.{}.ln2", "blocks.{}.norm2"),
            rule("layers.{}.attn.gamma1.weight", "blocks.{}.gamma_1"),
            rule("layers.{}.attn", "blocks.{}.attn"),
            rule("layers.{}.gamma_1", "blocks.{}.gamma_1"),
            rule("layers.{}.gamma_2", "blocks.{}.gamma_2"),
            rule("layers.{}.ffn.gamma2.weight", "blocks.{}.gamma_2"),
            rule("layers.{}.ffn.layers.0.0", "blocks.{}.mlp.fc1"),
            rule("layers.{}.ffn.layers.1", "blocks.{}.mlp.fc2"),
            rule("ln1", "norm"),
        ],
        others: &[
            rule("neck.upsample_4x", "fpn1"),
            rule("neck.upsample_2x", "fpn2"),
            rule("decode_head", "decode_head"),
            rule("auxiliary_head", "auxiliary_head"),
        ],
        read: &[],
        ignored: &["neck", "head", "data_preprocessor"],
    },
    Names {
        title: "MoCo v3 or DINO",
        prefixes: &["base_encoder.", "backbone."],
        probes: &["cls_token", "blocks.0.attn.qkv.weight"],
        never: &["fpn1.0.weight", "blocks.0.ls1.gamma"],
        rules: &ENCODER,
        others: &[],
        read: &[],
        ignored: &["momentum_encoder", "predictor", "base_encoder.head", "head"],
    },
    Names {
        title: "DINO's teacher beside its student",
        prefixes: &["teacher.backbone."],
        probes: &["cls_token", "blocks.0.attn.qkv.weight"],
        never: &[],
        rules: &ENCODER,
        others: &[],
        read: &[],
        ignored: &["student", "teacher.head", "teacher.dino_head", "teacher.ibot_head", "mask_token"],
    },
    Names {
        title: "DINO's student",
        prefixes: &["student.backbone."],
        probes: &["cls_token", "blocks.0.attn.qkv.weight"],
        never: &["teacher.backbone.cls_token"],
        rules: &ENCODER,
        others: &[],
        read: &[],
        ignored: &["student.head", "student.dino_head", "student.ibot_head", "mask_token"],
    },
    Names {
        title: "timm with layer scale (DeiT III, DINOv2)",
        prefixes: &[""],
        probes: &["cls_token", "blocks.0.ls1.gamma"],
        never: &["mask_token"],
        rules: &FAIR,
        others: &[rule("reg_token", "register_tokens")],
        read: &[rule("register_tokens", "register_tokens")],
        ignored: &[],
    },
    Names {
        title: "google-research/vision_transformer (JAX)",
        prefixes: &["", "opt/target/", "params/"],
        probes: &["cls", "Transformer/encoderblock_0/LayerNorm_0.weight"],
        never: &[],
        rules: &JAX,
        others: &[],
        read: &[],
        ignored: &[],
    },
];

const ENCODER: [Rule; 12] = [
    rule("cls_token", "cls_token"),
    rule("pos_embed", "pos_embed"),
    rule("patch_embed.proj", "patch_embed.proj"),
    rule("blocks.{}.norm1", "blocks.{}.norm1"),
    rule("blocks.{}.norm2", "blocks.{}.norm2"),
    rule("blocks.{}.attn.qkv", "blocks.{}.attn.qkv"),
    rule("blocks.{}.attn.proj", "blocks.{}.attn.proj"),
    rule("blocks.{}.mlp.fc1", "blocks.{}.mlp.fc1"),
    rule("blocks.{}.mlp.fc2", "blocks.{}.mlp.fc2"),
    rule("blocks.{}.ls1.gamma", "blocks.{}.gamma_1"),
    rule("blocks.{}.ls2.gamma", "blocks.{}.gamma_2"),
    rule("norm", "norm"),
];
const FAIR: [Rule; 14] = joined(ENCODER, [rule("head", "head"), rule("fc_norm", "fc_norm")]);

const JAX: [Rule; 14] = [
    rule("cls", "cls_token"),
    rule("Transformer/posembed_input/pos_embedding", "pos_embed"),
    rule("embedding", "patch_embed.proj"),
    third("Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/query", "blocks.{}.attn.qkv", 0),
    third("Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/key", "blocks.{}.attn.qkv", 1),
    third("Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/value", "blocks.{}.attn.qkv", 2),
    rule("Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/out", "blocks.{}.attn.proj"),
    rule("Transformer/encoderblock_{}/LayerNorm_0", "blocks.{}.norm1"),
    rule("Transformer/encoderblock_{}/LayerNorm_2", "blocks.{}.norm2"),
    rule("Transformer/encoderblock_{}/MlpBlock_3/Dense_0", "blocks.{}.mlp.fc1"),
    rule("Transformer/encoderblock_{}/MlpBlock_3/Dense_1", "blocks.{}.mlp.fc2"),
    rule("Transformer/encoder_norm", "norm"),
    rule("pre_logits", "pre_logits"),
    rule("head", "head"),
];

/// Layer scale in the names of unilm, as facebookresearch/deit has it.
const GAMMAS: [Rule; 2] =
    [rule("blocks.{}.gamma_1", "blocks.{}.gamma_1"), rule("blocks.{}.gamma_2", "blocks.{}.gamma_2")];
const UNPLACED_RULES: [Rule; 16] = joined(GAMMAS, FAIR);
/// Ours, but for a position of the class token, which is not there.
pub(super) const DEIT_III: Names = Names {
    title: "facebookresearch/deit (DeiT III)",
    prefixes: &[""],
    probes: &[],
    never: &[],
    rules: &UNPLACED_RULES,
    others: &[],
    read: &[],
    ignored: &[],
};
/// What timm calls the tensors of a ViT; BEiT's it calls as we do.
pub(super) const TIMM: Names = Names { title: "timm", rules: &FAIR, ..DEIT_III };

fn has(entries: &[WeightEntry], name: &str) -> bool {
    entries.iter().any(|entry| entry.name == name)
}

impl Rule {
    /// What `name`, written in the names of `from`, is called in those of `to`.
    fn apply(name: &str, from: &str, to: &str) -> Option<String> {
        let (mut number, mut pieces) = ("", from.split("{}"));
        let mut rest = name.strip_prefix(pieces.next()?)?;
        for piece in pieces {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let tail;
            (number, tail) = rest.split_at(digits);
            rest = tail.strip_prefix(piece).filter(|_| digits > 0)?;
        }
        (rest.is_empty() || rest.starts_with('.')).then(|| to.replacen("{}", number, 1) + rest)
    }
}

/// What follows from the size of a window, and how many batches a norm has seen, which nothing reads.
fn is_derived(name: &str) -> bool {
    [".relative_position_index", ".num_batches_tracked"].iter().any(|end| name.ends_with(end))
}

impl Names {
    /// The prefix of a file in these names; `None` for any other file.
    pub fn prefix(&self, entries: &[WeightEntry]) -> Option<&'static str> {
        let has = |name: &str| has(entries, name);
        let below = |prefix: &str, name: &str| has(&format!("{prefix}{name}"));
        let fits = |prefix: &&&str| {
            let foreign = self.never.iter().any(|name| below(prefix, name) || has(name));
            self.probes.iter().all(|name| below(prefix, name)) && !foreign
        };
        self.prefixes.iter().find(fits).copied()
    }

    /// Our name of `theirs`, and the third that it is. `None` for what has no name here.
    pub fn ours(&self, prefix: &str, theirs: &str) -> Option<(String, Option<usize>)> {
        let find = |rules: &[Rule], name: &str| {
            rules.iter().find_map(|r| Rule::apply(name, r.theirs, r.ours).map(|ours| (ours, r.third)))
        };
        if is_derived(theirs) {
            return None;
        }
        let inside = theirs
            .strip_prefix(prefix)
            .and_then(|name| find(self.rules, name).or_else(|| find(self.read, name)));
        inside.or_else(|| find(self.others, theirs)).or_else(|| find(self.read, theirs))
    }

    /// Whether `theirs` belongs to a module that is read over.
    pub fn ignores(&self, prefix: &str, theirs: &str) -> bool {
        let names = [Some(theirs), theirs.strip_prefix(prefix)];
        let within = |name: &str, module: &str| {
            name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        is_derived(theirs)
            || names.iter().flatten().any(|name| self.ignored.iter().any(|module| within(name, module)))
    }

    /// Their names of `ours`, with the thirds that they are: one, or those of queries, keys and values. The first
    /// prefix is put before the backbone's.
    pub fn theirs(&self, ours: &str) -> Vec<(String, Option<usize>)> {
        let prefix = self.prefixes.first().copied().unwrap_or_default();
        let find = |rules: &[Rule], prefix: &str| -> Vec<(String, Option<usize>)> {
            let renamed =
                |r: &Rule| Some((prefix.to_string() + &Rule::apply(ours, r.ours, r.theirs)?, r.third));
            let mut found: Vec<_> = rules.iter().filter_map(renamed).collect();
            if found.iter().any(|(_, third)| third.is_none()) {
                found.truncate(1);
            }
            found
        };
        match find(self.rules, prefix) {
            found if found.is_empty() => find(self.others, ""),
            found => found,
        }
    }
}
