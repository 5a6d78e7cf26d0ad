#!/usr/bin/env python3
"""Makes the DINOv2 files of tests/golden/dialects: small models with random weights, as transformers and timm save them
and in the names of facebookresearch/dinov2, and what they compute at their own grid and at others.

  dinov2.safetensors           Dinov2Model
  dinov2_registers.safetensors Dinov2WithRegistersModel
  dinov2_original.safetensors  the same weights as facebookresearch/dinov2 names them: timm's converter reads them, and its
                               model computes the same
  dinov2_timm.safetensors      that model of timm, which adds the position of the class token to the token
  dinov2_expected.safetensors  images; last hidden state and outputs of blocks; positions resized in f64
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from shared import randomize, save
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

WIDTH, DEPTH, HEADS, PATCH, IMAGE, REGISTERS = 16, 2, 2, 4, 24, 3
SIZES = dict(
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    mlp_ratio=4,
    image_size=IMAGE,
    patch_size=PATCH,
    layer_norm_eps=1e-6,
)
# Height and width of images: the grid that the positions are for, a larger one, a smaller one, more and fewer.
IMAGES = [(24, 24), (40, 40), (16, 16), (16, 36)]


def original(state):
    """Weights of transformers by the names of facebookresearch/dinov2."""
    renamed = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.": "",
        "layernorm": "norm",
        "encoder.layer": "blocks",
        "attention.output.dense": "attn.proj",
        "attention.attention": "attn",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
    }
    out = {}
    for name, value in state.items():
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        out[name] = value
    for i in range(DEPTH):
        for kind in ["weight", "bias"]:
            parts = [out.pop(f"blocks.{i}.attn.{part}.{kind}") for part in ["query", "key", "value"]]
            out[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    return out


def timm_model(state):
    """The model of timm with weights in the names of facebookresearch/dinov2."""
    model = VisionTransformer(
        img_size=IMAGE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        init_values=1e-5,
        reg_tokens=REGISTERS,
        no_embed_class=True,
    )
    model.load_state_dict(checkpoint_filter_fn(dict(state), model))
    return model.eval()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests/golden/dialects")
    out = parser.parse_args().out
    torch.manual_seed(0)
    images = {f"images.{h}x{w}": torch.randn(1, 3, h, w) for h, w in IMAGES}
    expected = dict(images)
    plain = Dinov2Model(Dinov2Config(**SIZES))
    registers = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=REGISTERS))
    for name, model in [("dinov2", plain), ("dinov2_registers", registers)]:
        save(randomize(model), out / f"{name}.safetensors")
        for (h, w), batch in zip(IMAGES, images.values()):
            found = model(batch, output_hidden_states=True)
            expected[f"{name}.{h}x{w}"] = found.last_hidden_state
            expected |= {f"{name}.{h}x{w}.{i}": found.hidden_states[1 + i] for i in range(DEPTH)}

    # The file has the names that it is saved with, whatever the library calls them inside.
    state = original(load_file(out / "dinov2_registers.safetensors"))
    save_file(state, out / "dinov2_original.safetensors")
    model = timm_model(state)
    native = f"{IMAGE}x{IMAGE}"
    error = (model.forward_features(images[f"images.{native}"]) - expected[f"dinov2_registers.{native}"]).abs().max()
    print(f"timm and transformers differ by {error:.1e}")
    assert error < 1e-5
    save_file(model.state_dict(), out / "dinov2_timm.safetensors")

    # facebookresearch/dinov2: a scale with an offset of 0.1, antialiased with registers.
    table = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    expected["positions"] = table
    for h, w in [(10, 10), (4, 4), (4, 9)]:
        scale = ((h + 0.1) / 6, (w + 0.1) / 6)
        resized = F.interpolate(table, scale_factor=scale, mode="bicubic")
        assert resized.shape[-2:] == (h, w)
        expected[f"positions.offset.{h}x{w}"] = resized
        expected[f"positions.antialias.{h}x{w}"] = F.interpolate(table, size=(h, w), mode="bicubic", antialias=True)
    expected = {name: value.contiguous().clone() for name, value in expected.items()}
    save_file(expected, out / "dinov2_expected.safetensors")


if __name__ == "__main__":
    main()
