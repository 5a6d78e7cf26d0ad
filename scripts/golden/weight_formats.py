#!/usr/bin/env python3
"""Makes tests/golden/dialects/formats: small models with random weights in further containers and names, and what timm and
transformers compute with them. Reads what timm_dialects.py and dense_dialects.py made, so run those first.

  deit_distilled_hf.safetensors   DeiTForImageClassificationWithTeacher, as transformers saves it
  big_vision.npz        ViT with a class token in the names of google-research/big_vision: it has no position
  big_vision_scan.npz   the same below `params/`, with one array for the blocks (`scan=True`), in half precision
  siglip.npz            image and text towers of SigLIP: no class token, a pooling head with attention
  sincos.npz            ViT with a class token and positions that are computed, not stored
  vitdet.pkl            dense/vitdet.pth as detectron2 publishes its models: a pickle of NumPy arrays (protocol 4)
  vitdet_5.pkl          the backbone of vitdet.pkl in protocol 5, some arrays in the order of Fortran
  expected.safetensors  class tokens of the ViTs for the images of timm/expected.safetensors (of distilled models also that of
                        the distillation token), logits, and the patches of the tower of SigLIP

detectron2 and JAX need no installation: their names are written out here from their sources, and timm reads the archives of
big_vision (`load_pretrained`), except `sincos.npz`, whose positions timm does not compute.
"""

import argparse
import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from shared import randomize
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

DIALECTS = Path(__file__).parents[2] / "tests/golden/dialects"
SIZES = dict(img_size=24, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=5)
HEADS, WIDTH, DEPTH = 2, 8, 2


def jax_layer(found, theirs, weight, bias):
    found[f"{theirs}/bias"] = bias.numpy()
    if weight.dim() == 1:
        found[f"{theirs}/scale"] = weight.numpy()
    else:
        found[f"{theirs}/kernel"] = (weight.permute(2, 3, 1, 0) if weight.dim() == 4 else weight.T).numpy()


def jax_attention(found, theirs, parts, out):
    """Queries, keys and values [width, heads, size], as pairs of weight and bias, and the output [heads, size, width]."""
    for name, (weight, bias) in parts.items():
        found[f"{theirs}/{name}/kernel"] = weight.T.reshape(WIDTH, HEADS, -1).numpy()
        found[f"{theirs}/{name}/bias"] = bias.reshape(HEADS, -1).numpy()
    found[f"{theirs}/out/kernel"] = out[0].T.reshape(HEADS, -1, WIDTH).numpy()
    found[f"{theirs}/out/bias"] = out[1].numpy()


def big_vision(state):
    """The tensors of a ViT of timm in the names of big_vision (`models/vit.py`), whose modules are numbered from 0."""
    found = {}

    def layer(theirs, ours):
        jax_layer(found, theirs, state[f"{ours}.weight"], state[f"{ours}.bias"])

    if "cls_token" in state:
        found["cls"] = state["cls_token"].numpy()
    if "pos_embed" in state:
        found["pos_embedding"] = state["pos_embed"].numpy()
    layer("embedding", "patch_embed.proj")
    layer("Transformer/encoder_norm", "norm")
    if "head.weight" in state:
        layer("head", "head")
    for i in range(DEPTH):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        layer(f"{theirs}/LayerNorm_0", f"{ours}.norm1")
        layer(f"{theirs}/LayerNorm_1", f"{ours}.norm2")
        layer(f"{theirs}/MlpBlock_0/Dense_0", f"{ours}.mlp.fc1")
        layer(f"{theirs}/MlpBlock_0/Dense_1", f"{ours}.mlp.fc2")
        weights, biases = state[f"{ours}.attn.qkv.weight"].chunk(3), state[f"{ours}.attn.qkv.bias"].chunk(3)
        parts = dict(zip(["query", "key", "value"], zip(weights, biases)))
        out = state[f"{ours}.attn.proj.weight"], state[f"{ours}.attn.proj.bias"]
        jax_attention(found, f"{theirs}/MultiHeadDotProductAttention_0", parts, out)
    if "attn_pool.latent" in state:
        found["MAPHead_0/probe"] = state["attn_pool.latent"].numpy()
        (key, value), (b_key, b_value) = state["attn_pool.kv.weight"].chunk(2), state["attn_pool.kv.bias"].chunk(2)
        query = state["attn_pool.q.weight"], state["attn_pool.q.bias"]
        parts = {"query": query, "key": (key, b_key), "value": (value, b_value)}
        out = state["attn_pool.proj.weight"], state["attn_pool.proj.bias"]
        jax_attention(found, "MAPHead_0/MultiHeadDotProductAttention_0", parts, out)
        layer("MAPHead_0/LayerNorm_0", "attn_pool.norm")
        layer("MAPHead_0/MlpBlock_0/Dense_0", "attn_pool.mlp.fc1")
        layer("MAPHead_0/MlpBlock_0/Dense_1", "attn_pool.mlp.fc2")
    return found


def scanned(arrays):
    """One array for all blocks, along a first axis."""
    first, blocks = "Transformer/encoderblock_0/", {}
    for name in [name for name in arrays if name.startswith(first)]:
        rest = name.removeprefix(first)
        each = [arrays[f"Transformer/encoderblock_{i}/{rest}"] for i in range(DEPTH)]
        blocks[f"Transformer/encoderblock/{rest}"] = np.stack(each)
    return {name: value for name, value in arrays.items() if "/encoderblock_" not in name} | blocks


def save_npz(path, arrays, prefix="", more=None):
    arrays = {prefix + name: np.ascontiguousarray(value) for name, value in arrays.items()}
    np.savez(path, **arrays, **(more or {}))


def state_of(model):
    return {name: value.contiguous().clone() for name, value in model.state_dict().items()}


def sincos(rows, columns, width):
    """`posemb_sincos_2d` of big_vision: the last frequency is 1e-4, unlike in MAE."""
    y, x = np.mgrid[:rows, :columns]
    omega = 1.0 / 10_000 ** (np.arange(width // 4) / (width // 4 - 1))
    y, x = np.outer(y.flatten(), omega), np.outer(x.flatten(), omega)
    return torch.tensor(np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1), dtype=torch.float32)[None]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DIALECTS / "formats")
    out = parser.parse_args().out
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    images = load_file(DIALECTS / "timm/expected.safetensors")["images"]
    expected = {}

    model = VisionTransformerDistilled(**SIZES).eval()
    model.load_state_dict(load_file(DIALECTS / "timm/deit_distilled.safetensors"))
    tokens = model.forward_features(images)
    expected["deit_distilled.class"], expected["deit_distilled.distillation"] = tokens[:, 0], tokens[:, 1]

    config = DeiTConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=32, image_size=24,
        patch_size=4, num_labels=5, layer_norm_eps=1e-6, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = randomize(DeiTForImageClassificationWithTeacher(config), 0.4)
    save_dir = out / "deit"
    model.save_pretrained(save_dir)
    (save_dir / "model.safetensors").rename(out / "deit_distilled_hf.safetensors")
    (save_dir / "config.json").unlink()
    save_dir.rmdir()
    (out / "deit_distilled_hf.safetensors").chmod(0o644)
    tokens = model.deit(images).last_hidden_state
    expected["deit_distilled_hf.class"], expected["deit_distilled_hf.distillation"] = tokens[:, 0], tokens[:, 1]

    # Positions are added before the class token, which therefore has none.
    kind = dict(**SIZES, no_embed_class=True)
    arrays = big_vision(state_of(randomize(VisionTransformer(**kind), 0.4)))
    save_npz(out / "big_vision.npz", arrays)
    halves = {name: value.astype(np.float16) for name, value in scanned(arrays).items()}
    save_npz(out / "big_vision_scan.npz", halves, "params/")
    for name in ["big_vision", "big_vision_scan"]:
        reader = VisionTransformer(**kind).eval()
        reader.load_pretrained(out / f"{name}.npz")
        expected[f"{name}.class"], expected[f"{name}.logits"] = reader.forward_features(images)[:, 0], reader(images)
    assert (expected["big_vision.logits"] - expected["big_vision_scan.logits"]).abs().max() < 0.1

    kind = dict(SIZES, num_classes=0, class_token=False, global_pool="map")
    arrays = scanned(big_vision(state_of(randomize(VisionTransformer(**kind), 0.4))))
    text = {
        "params/txt/Encoder_0/encoderblock/LayerNorm_0/scale": np.ones((DEPTH, WIDTH), np.float32),
        "params/txt/Embed_0/embedding": np.ones((9, WIDTH), np.float32),
        "params/txt/head/kernel": np.ones((WIDTH, WIDTH), np.float32),
        "params/t": np.ones(1, np.float32),
        "params/b": np.ones(1, np.float32),
    }
    save_npz(out / "siglip.npz", arrays, "params/img/", text)
    reader = VisionTransformer(**kind).eval()
    reader.load_pretrained(out / "siglip.npz")
    expected["siglip.patches"] = reader.forward_intermediates(images, [1], output_fmt="NLC", intermediates_only=True)[0]

    model = randomize(VisionTransformer(**SIZES, no_embed_class=True), 0.4)
    model.pos_embed.copy_(sincos(6, 6, WIDTH))
    expected["sincos.class"] = model.forward_features(images)[:, 0]
    arrays = big_vision(state_of(model))
    del arrays["pos_embedding"]
    save_npz(out / "sincos.npz", arrays, "params/")

    state = torch.load(DIALECTS / "dense/vitdet.pth", weights_only=True)["model"]
    arrays = {name: value.numpy() for name, value in state.items()}
    beside = {"__author__": "third_party", "matching_heuristics": True}
    with open(out / "vitdet.pkl", "wb") as file:
        pickle.dump({"model": arrays, **beside}, file, protocol=4)
    backbone = {name: value for name, value in arrays.items() if name.startswith("backbone.net.")}
    for i in range(4):
        name = f"backbone.net.blocks.{i}.mlp.fc1.weight"
        backbone[name] = np.asfortranarray(backbone[name])
    with open(out / "vitdet_5.pkl", "wb") as file:
        pickle.dump({"model": backbone, **beside}, file, protocol=5)

    save_file({name: value.contiguous().clone() for name, value in expected.items()}, out / "expected.safetensors")
    (out / "expected.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
