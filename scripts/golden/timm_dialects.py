#!/usr/bin/env python3
"""Makes tests/golden/dialects/timm: small models of timm with random weights, in the names and containers in which they
and their relatives are published, and what timm computes.

  vit.safetensors       VisionTransformer, class token
  vit_avg.safetensors   VisionTransformer, global_pool="avg": fc_norm in place of norm
  deit.pth              VisionTransformer as facebookresearch/deit saves it, below `model`
  deit_distilled.safetensors   VisionTransformerDistilled: two tokens and two heads
  deit3.safetensors     VisionTransformer with layer scale, no position of the class token
  deit3_fair.pth        the same as facebookresearch/deit names it
  beit.safetensors      Beit, fine-tuned: mean pooling, a table per block
  augreg.npz            vit in the names and layouts of google-research/vision_transformer, which timm reads
  augreg_compressed.npz the same, as numpy.savez_compressed writes it
  moco_v3.pth           vit in the container of facebookresearch/moco-v3: base and momentum encoder, predictor
  moco_v3_linear.pth    vit as its linear probe is published
  dino.pth              vit in the full checkpoint of facebookresearch/dino: student, teacher, arguments
  dinov2_train.pth      vit below `teacher.backbone.`, beside a student, as trainers that hold both save it
  expected.safetensors  images; logits of each classifier, `vit.class` for backbones
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from shared import randomize
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

SIZES = dict(img_size=24, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=5)


def jax_names(state, heads):
    """The tensors of google-research/vision_transformer: linear layers [in, out], attention with an axis of heads."""
    width = state["cls_token"].shape[-1]
    size, found = width // heads, {}

    def put(name, value):
        found[name] = np.ascontiguousarray(value.numpy())

    def layer(theirs, ours):
        weight = state[f"{ours}.weight"]
        put(f"{theirs}/bias", state[f"{ours}.bias"])
        if weight.dim() == 1:
            put(f"{theirs}/scale", weight)
        else:
            put(f"{theirs}/kernel", weight.permute(2, 3, 1, 0) if weight.dim() == 4 else weight.T)

    put("cls", state["cls_token"])
    put("Transformer/posembed_input/pos_embedding", state["pos_embed"])
    layer("embedding", "patch_embed.proj")
    layer("Transformer/encoder_norm", "norm")
    layer("head", "head")
    for i in range(SIZES["depth"]):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        layer(f"{theirs}/LayerNorm_0", f"{ours}.norm1")
        layer(f"{theirs}/LayerNorm_2", f"{ours}.norm2")
        layer(f"{theirs}/MlpBlock_3/Dense_0", f"{ours}.mlp.fc1")
        layer(f"{theirs}/MlpBlock_3/Dense_1", f"{ours}.mlp.fc2")
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        weights, biases = state[f"{ours}.attn.qkv.weight"].chunk(3), state[f"{ours}.attn.qkv.bias"].chunk(3)
        for part, weight, bias in zip(["query", "key", "value"], weights, biases):
            put(f"{attention}/{part}/kernel", weight.T.reshape(width, heads, size))
            put(f"{attention}/{part}/bias", bias.reshape(heads, size))
        put(f"{attention}/out/kernel", state[f"{ours}.attn.proj.weight"].T.reshape(heads, size, width))
        put(f"{attention}/out/bias", state[f"{ours}.attn.proj.bias"])
    return found


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests/golden/dialects/timm")
    out = parser.parse_args().out
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 24, 24)
    expected = {"images": images}
    kinds = {
        "vit": lambda: VisionTransformer(**SIZES),
        "vit_avg": lambda: VisionTransformer(**SIZES, global_pool="avg"),
        "deit": lambda: VisionTransformer(**SIZES),
        "deit_distilled": lambda: VisionTransformerDistilled(**SIZES),
        "deit3": lambda: VisionTransformer(**SIZES, init_values=0.3, no_embed_class=True),
        "beit": lambda: Beit(**SIZES, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.3),
    }
    states = {}
    for name, kind in kinds.items():
        model = randomize(kind(), 0.4)
        states[name] = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
        expected[f"{name}.logits"] = model(images)
        if name == "deit":
            torch.save({"model": states[name]}, out / "deit.pth")
        else:
            save_file(states[name], out / f"{name}.safetensors")
        if name == "vit":
            expected["vit.class"] = model.forward_features(images)[:, 0]

    layer_scale = [("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2")]
    fair = {}
    for key, value in states["deit3"].items():
        for theirs, ours in layer_scale:
            key = key.replace(theirs, ours)
        fair[key] = value
    torch.save({"model": fair}, out / "deit3_fair.pth")

    vit = states["vit"]
    np.savez(out / "augreg.npz", **jax_names(vit, SIZES["num_heads"]))
    np.savez_compressed(out / "augreg_compressed.npz", **jax_names(vit, SIZES["num_heads"]))
    reader = VisionTransformer(**SIZES).eval()
    reader.load_pretrained(out / "augreg.npz")
    assert torch.equal(reader(images), expected["vit.logits"]), "timm reads what was written"

    backbone = {key: value for key, value in vit.items() if not key.startswith("head.")}
    others = {key: torch.zeros_like(value) for key, value in backbone.items()}

    def under(prefix, state):
        return {prefix + key: value for key, value in state.items()}

    def mlp(*sizes):
        layers = {}
        for i, (inside, outside) in enumerate(zip(sizes, sizes[1:])):
            layers[f"{3 * i}.weight"] = torch.zeros(outside, inside)
            norm = torch.nn.BatchNorm1d(outside).state_dict()
            layers |= under(f"{3 * i + 1}.", norm)
        return layers

    state = under("module.base_encoder.", backbone) | under("module.base_encoder.head.", mlp(8, 16, 4))
    state |= under("module.momentum_encoder.", others) | under("module.momentum_encoder.head.", mlp(8, 16, 4))
    state |= under("module.predictor.", mlp(4, 16, 4))
    torch.save({"epoch": 300, "arch": "vit_base", "state_dict": state, "optimizer": {}}, out / "moco_v3.pth")
    torch.save({"epoch": 90, "state_dict": under("module.", vit), "best_acc1": 76.7}, out / "moco_v3_linear.pth")

    head = {"mlp.0.weight": torch.zeros(4, 8), "mlp.0.bias": torch.zeros(4), "last_layer.weight_v": torch.zeros(3, 4)}
    student = under("module.backbone.", others) | under("module.head.", head)
    teacher = under("backbone.", backbone) | under("head.", head)
    arguments = argparse.Namespace(arch="vit_base", patch_size=16)
    saved = {"student": student, "teacher": teacher, "optimizer": {}, "epoch": 400, "args": arguments}
    torch.save(saved, out / "dino.pth")
    state = under("student.backbone.", others) | under("student.dino_head.", head)
    state |= under("teacher.backbone.", backbone) | under("teacher.dino_head.", head)
    torch.save({"model": state, "iteration": 9}, out / "dinov2_train.pth")
    save_file({name: value.contiguous().clone() for name, value in expected.items()}, out / "expected.safetensors")


if __name__ == "__main__":
    main()
