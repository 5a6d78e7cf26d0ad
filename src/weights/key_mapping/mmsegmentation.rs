//! Rules for the segmentation heads of mmsegmentation, whose names are used here too.

use super::rule::{Rule, rule};

/// Heads as mmsegmentation names them, and as transformers' BEiT does, where only the classifiers differ.
pub(super) const HEADS: [Rule; 6] = [
    rule("decode_head.classifier", "decode_head.conv_seg"),
    rule("decode_head", "decode_head"),
    rule("auxiliary_head.classifier", "auxiliary_head.conv_seg"),
    rule("auxiliary_head", "auxiliary_head"),
    rule("fpn1", "fpn1"),
    rule("fpn2", "fpn2"),
];
