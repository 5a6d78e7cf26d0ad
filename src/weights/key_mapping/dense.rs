//! Key mappings of whole segmentation and detection models: UperNet of several programs, and detectron2's ViTDet.
//!
//! The names used here are those of mmsegmentation (`decode_head.*`, `auxiliary_head.*`) and of BEiT's pyramid (`fpn1.*`,
//! `fpn2.*`) for segmentation, and those of torchvision (`rpn.*`, `roi_heads.*`) for detection.

use super::hugging_face::BEIT_BLOCKS;
use super::mmsegmentation;
use super::rule::{KeyMapping, Rule, joined, rule};

/// Heads of transformers' UperNet, where the norms have other names too.
const UPERNET_HEADS: [Rule; 13] = joined(
    [
        rule("decode_head.psp_modules.{}.1.batch_norm", "decode_head.psp_modules.{}.1.bn"),
        rule("decode_head.bottleneck.batch_norm", "decode_head.bottleneck.bn"),
        rule("decode_head.lateral_convs.{}.batch_norm", "decode_head.lateral_convs.{}.bn"),
        rule("decode_head.fpn_convs.{}.batch_norm", "decode_head.fpn_convs.{}.bn"),
        rule("decode_head.fpn_bottleneck.batch_norm", "decode_head.fpn_bottleneck.bn"),
        rule("auxiliary_head.convs.{}.batch_norm", "auxiliary_head.convs.{}.bn"),
        rule("auxiliary_head.conv_seg", "auxiliary_head.conv_seg"),
    ],
    mmsegmentation::HEADS,
);
const PYRAMID: [Rule; 2] = [rule("fpn1", "fpn1"), rule("fpn2", "fpn2")];
const UPERNET_BEIT: [Rule; 21] = joined(PYRAMID, BEIT_BLOCKS);

pub(super) const HUGGING_FACE_UPERNET: KeyMapping = KeyMapping {
    title: "Hugging Face UperNet on a BEiT",
    prefixes: &["backbone."],
    probes: &["embeddings.cls_token", "fpn1.0.weight"],
    never: &[],
    rules: &UPERNET_BEIT,
    others: &UPERNET_HEADS,
    read: &[],
    ignored: &[],
};

pub(super) const UNILM_UPERNET: KeyMapping = KeyMapping {
    title: "microsoft/unilm's UperNet",
    prefixes: &["backbone."],
    probes: &["cls_token", "blocks.0.attn.qkv.weight", "fpn1.0.weight"],
    never: &[],
    rules: &[
        rule("cls_token", "cls_token"),
        rule("pos_embed", "pos_embed"),
        rule("patch_embed.proj", "patch_embed.proj"),
        rule("blocks.{}", "blocks.{}"),
        rule("rel_pos_bias", "rel_pos_bias"),
        rule("norm", "norm"),
        rule("fpn1", "fpn1"),
        rule("fpn2", "fpn2"),
    ],
    others: &mmsegmentation::HEADS,
    read: &[],
    ignored: &[],
};

/// Heads of detectron2. Its numbers start at 1, a norm belongs to its convolution, and the box head has four
/// convolutions, as in ViTDet.
const VITDET_HEADS: [Rule; 25] = [
    rule("proposal_generator.rpn_head.conv.conv{}", "rpn.head.conv.{}.0"),
    rule("proposal_generator.rpn_head.conv", "rpn.head.conv.0.0"),
    rule("proposal_generator.rpn_head.objectness_logits", "rpn.head.cls_logits"),
    rule("proposal_generator.rpn_head.anchor_deltas", "rpn.head.bbox_pred"),
    rule("roi_heads.box_head.conv1.norm", "roi_heads.box_head.0.1"),
    rule("roi_heads.box_head.conv2.norm", "roi_heads.box_head.1.1"),
    rule("roi_heads.box_head.conv3.norm", "roi_heads.box_head.2.1"),
    rule("roi_heads.box_head.conv4.norm", "roi_heads.box_head.3.1"),
    rule("roi_heads.box_head.conv1", "roi_heads.box_head.0.0"),
    rule("roi_heads.box_head.conv2", "roi_heads.box_head.1.0"),
    rule("roi_heads.box_head.conv3", "roi_heads.box_head.2.0"),
    rule("roi_heads.box_head.conv4", "roi_heads.box_head.3.0"),
    rule("roi_heads.box_head.fc1", "roi_heads.box_head.5"),
    rule("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.cls_score"),
    rule("roi_heads.box_predictor.bbox_pred", "roi_heads.box_predictor.bbox_pred"),
    rule("roi_heads.mask_head.mask_fcn1.norm", "roi_heads.mask_head.0.1"),
    rule("roi_heads.mask_head.mask_fcn2.norm", "roi_heads.mask_head.1.1"),
    rule("roi_heads.mask_head.mask_fcn3.norm", "roi_heads.mask_head.2.1"),
    rule("roi_heads.mask_head.mask_fcn4.norm", "roi_heads.mask_head.3.1"),
    rule("roi_heads.mask_head.mask_fcn1", "roi_heads.mask_head.0.0"),
    rule("roi_heads.mask_head.mask_fcn2", "roi_heads.mask_head.1.0"),
    rule("roi_heads.mask_head.mask_fcn3", "roi_heads.mask_head.2.0"),
    rule("roi_heads.mask_head.mask_fcn4", "roi_heads.mask_head.3.0"),
    rule("roi_heads.mask_head.deconv", "roi_heads.mask_predictor.conv5_mask"),
    rule("roi_heads.mask_head.predictor", "roi_heads.mask_predictor.mask_fcn_logits"),
];

pub(super) const VITDET: KeyMapping = KeyMapping {
    title: "detectron2's ViTDet",
    prefixes: &["backbone."],
    probes: &["net.patch_embed.proj.weight", "net.blocks.0.attn.qkv.weight"],
    never: &[],
    rules: &[
        rule("net.pos_embed", "pos_embed"),
        rule("net.patch_embed.proj", "patch_embed.proj"),
        rule("net.blocks.{}", "blocks.{}"),
        rule("simfp_2", "pyramid.simfp_2"),
        rule("simfp_3", "pyramid.simfp_3"),
        rule("simfp_4", "pyramid.simfp_4"),
        rule("simfp_5", "pyramid.simfp_5"),
    ],
    others: &VITDET_HEADS,
    read: &[],
    // The three stages of a cascade, which are not read, and what versions before 2021 save too.
    ignored: &[
        "roi_heads.box_head.0",
        "roi_heads.box_head.1",
        "roi_heads.box_head.2",
        "roi_heads.box_predictor.0",
        "roi_heads.box_predictor.1",
        "roi_heads.box_predictor.2",
        "roi_heads.box_predictor.freq_weight",
        "proposal_generator.anchor_generator",
    ],
};
