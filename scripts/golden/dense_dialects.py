#!/usr/bin/env python3
"""Makes tests/golden/dialects/dense: whole models of segmentation and detection with random weights, in the names and
containers in which programs save them, and what transformers computes.

  upernet.safetensors   UperNetForSemanticSegmentation on a BEiT, as transformers saves it
  mmseg.pth             the same weights as mmsegmentation 1.x names them (BEiT, Feature2Pyramid, UPerHead, FCNHead)
  unilm.pth             the same weights as microsoft/unilm names them for mmsegmentation 0.x
  beit.safetensors      BeitForSemanticSegmentation, as transformers saves it
  vitdet.pth            detectron2's ViTDet: the backbone is VitDetBackbone of transformers under detectron2's names; what
                        follows has the names and shapes that detectron2 builds, and random values
  expected.safetensors  images, labels; losses and labels of each segmenter; the map of the ViTDet backbone

detectron2 and mmsegmentation need no installation: their names are written out here from their sources.
"""

import argparse
import re
import shutil
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    VitDetBackbone,
    VitDetConfig,
)

CLASSES = 5
SIZES = dict(hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=48, patch_size=8)
BEIT = dict(
    **SIZES, layer_scale_init_value=0.3, use_relative_position_bias=True, use_absolute_position_embeddings=True,
    layer_norm_eps=1e-6, drop_path_rate=0.0, num_labels=CLASSES, auxiliary_channels=6)


@torch.no_grad()
def randomize(model):
    """Weights, norms and running statistics away from their initial values."""
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(value.shape)
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif value.dim() == 1 and name.endswith("weight"):
            value.copy_(1 + 0.2 * noise)
        elif value.dim() > 1:
            value.copy_(noise * 0.3 if value.dim() < 4 else noise * (value[0].numel() ** -0.5) * 1.5)
        else:
            value.copy_(0.2 * noise)
    return model.eval()


def saved(model, path):
    """As a user of the library gets it."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        shutil.copyfile(Path(folder) / "model.safetensors", path)
    path.chmod(0o644)
    return load_file(path)


BLOCK = [
    ("attention.attention.relative_position_bias.", "attn."), ("attention.output.dense", "attn.proj"),
    ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"), ("lambda_1", "gamma_1"), ("lambda_2", "gamma_2"),
]


def unilm(state):
    """Names of transformers to those of microsoft/unilm's semantic_segmentation."""
    out = {}
    for name, value in state.items():
        name = name.replace("embeddings.cls_token", "cls_token").replace("embeddings.position_embeddings", "pos_embed")
        name = name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        name = name.replace("encoder.layer.", "blocks.")
        for old, new in BLOCK:
            name = name.replace(old, new)
        name = name.replace(".batch_norm.", ".bn.").replace("_head.classifier", "_head.conv_seg")
        out[name] = value
    for i in range(SIZES["num_hidden_layers"]):
        block = f"backbone.blocks.{i}.att"
        parts = [out.pop(f"{block}ention.attention.{part}.weight") for part in ["query", "key", "value"]]
        out[f"{block}n.qkv.weight"] = torch.cat(parts)
        out[f"{block}n.q_bias"] = out.pop(f"{block}ention.attention.query.bias")
        out[f"{block}n.v_bias"] = out.pop(f"{block}ention.attention.value.bias")
        out[f"{block}n.relative_position_index"] = torch.zeros(37, 37, dtype=torch.int64)
    return out


def mmseg(state):
    """Names of unilm to those of mmsegmentation 1.x."""
    out = {}
    for name, value in state.items():
        name = name.replace("patch_embed.proj", "patch_embed.projection").replace(".blocks.", ".layers.")
        name = name.replace(".norm1", ".ln1").replace(".norm2", ".ln2")
        name = name.replace(".mlp.fc1", ".ffn.layers.0.0").replace(".mlp.fc2", ".ffn.layers.1")
        name = name.replace("backbone.fpn1", "neck.upsample_4x").replace("backbone.fpn2", "neck.upsample_2x")
        out[name] = value
    return out


def detectron2(backbone, channels=8, wide=16, classes=3):
    """The state dict of detectron2's mask_rcnn_vitdet around a VitDetBackbone."""
    out = {}
    for name, value in backbone.items():
        name = name.replace("embeddings.position_embeddings", "pos_embed")
        name = name.replace("embeddings.projection", "patch_embed.proj").replace("encoder.layer.", "blocks.")
        name = name.replace(".attention.", ".attn.")
        out[f"backbone.net.{name}"] = value
    width = SIZES["hidden_size"]

    def tensor(name, *shape):
        out[name] = torch.randn(shape) * 0.3

    def layer(name, *shape):
        tensor(f"{name}.weight", *shape)
        tensor(f"{name}.bias", shape[0])

    def normed(name, outside, inside, kernel):
        tensor(f"{name}.weight", outside, inside, kernel, kernel)
        layer(f"{name}.norm", outside)

    def up(name, inside, outside):
        tensor(f"{name}.weight", inside, outside, 2, 2)
        tensor(f"{name}.bias", outside)

    up("backbone.simfp_2.0", width, width // 2)
    layer("backbone.simfp_2.1", width // 2)
    up("backbone.simfp_2.3", width // 2, width // 4)
    up("backbone.simfp_3.0", width, width // 2)
    for level, inside, at in [(2, width // 4, 4), (3, width // 2, 1), (4, width, 0), (5, width, 1)]:
        normed(f"backbone.simfp_{level}.{at}", channels, inside, 1)
        normed(f"backbone.simfp_{level}.{at + 1}", channels, channels, 3)
    for i in range(2):
        layer(f"proposal_generator.rpn_head.conv.conv{i}", channels, channels, 3, 3)
    layer("proposal_generator.rpn_head.objectness_logits", 3, channels, 1, 1)
    layer("proposal_generator.rpn_head.anchor_deltas", 12, channels, 1, 1)
    for i in range(1, 5):
        normed(f"roi_heads.box_head.conv{i}", channels, channels, 3)
        normed(f"roi_heads.mask_head.mask_fcn{i}", channels, channels, 3)
    layer("roi_heads.box_head.fc1", wide, channels * 49)
    layer("roi_heads.box_predictor.cls_score", classes + 1, wide)
    layer("roi_heads.box_predictor.bbox_pred", 4 * classes, wide)
    up("roi_heads.mask_head.deconv", channels, channels)
    layer("roi_heads.mask_head.predictor", classes, channels, 1, 1)
    return out


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests/golden/dialects/dense")
    out = parser.parse_args().out
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 48, 48)
    labels = torch.randint(0, CLASSES, (2, 48, 48))
    expected = {"images": images, "labels": labels.to(torch.uint8)}

    def scaled(logits):
        return F.interpolate(logits, size=(48, 48), mode="bilinear", align_corners=False)

    def expect(name, logits, beside):
        expected[f"{name}.decode"] = F.cross_entropy(logits, labels).reshape(1)
        expected[f"{name}.auxiliary"] = 0.4 * F.cross_entropy(beside, labels).reshape(1)
        best = logits.topk(2, dim=1)
        expected[f"{name}.labels"] = best.indices[:, 0].to(torch.uint8)
        expected[f"{name}.margin"] = best.values[:, 0] - best.values[:, 1]

    stages = [f"stage{i}" for i in range(1, 5)]
    backbone = BeitConfig(**BEIT, out_features=stages, add_fpn=True, reshape_hidden_states=True)
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=8, pool_scales=[1, 2, 3, 6], auxiliary_in_channels=8,
        auxiliary_channels=6, num_labels=CLASSES)
    model = randomize(UperNetForSemanticSegmentation(config))
    maps = model.backbone(images).feature_maps
    expect("upernet", scaled(model.decode_head(maps)), scaled(model.auxiliary_head(maps)))
    state = unilm(saved(model, out / "upernet.safetensors"))
    torch.save({"meta": {"epoch": 1}, "state_dict": state, "optimizer": {}}, out / "unilm.pth")
    torch.save({"meta": {"epoch": 1}, "state_dict": mmseg(state), "optimizer": {}}, out / "mmseg.pth")

    # Maps are counted from the embedding, which is 1: those of all blocks but the last.
    config = BeitConfig(**(BEIT | {"num_hidden_layers": 5}), out_indices=[2, 3, 4, 5])
    model = randomize(BeitForSemanticSegmentation(config))
    found = []
    model.auxiliary_head.register_forward_hook(lambda *arguments: found.append(arguments[2]))
    logits = model(images, labels=labels).logits
    expect("beit", scaled(logits), scaled(found[0]))
    saved(model, out / "beit.safetensors")

    config = VitDetConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, image_size=48, pretrain_image_size=32, patch_size=8,
        window_block_indices=[0, 2], window_size=4, use_relative_position_embeddings=True, out_features=["stage4"])
    model = randomize(VitDetBackbone(config))
    expected["vitdet.map"] = model(images).feature_maps[0]
    torch.save({"model": detectron2(model.state_dict()), "iteration": 9}, out / "vitdet.pth")
    save_file({name: value.contiguous().clone() for name, value in expected.items()}, out / "expected.safetensors")
    (out / "expected.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
