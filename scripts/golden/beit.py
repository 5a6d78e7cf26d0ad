#!/usr/bin/env python3
"""Makes tests/golden/beit.safetensors: small BEiT models of transformers 5 with random weights, in unilm's names.

`shared.*` is the masked-image model with one table of relative positions, `block.*` a backbone with a table a block.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from shared import randomize
from transformers import BeitConfig, BeitForMaskedImageModeling, BeitModel

DEPTH, WIDTH = 2, 16
SIZES = dict(
    vocab_size=23,
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=2,
    intermediate_size=4 * WIDTH,
    image_size=24,
    patch_size=4,
    layer_scale_init_value=0.3,
    layer_norm_eps=1e-6,
    use_absolute_position_embeddings=False,
    drop_path_rate=0.0,
)


def unilm(state):
    """The tensors of a model of transformers in the names of unilm."""
    names = {}
    get = lambda key: state.pop(key)
    names["cls_token"] = get("embeddings.cls_token")
    if "embeddings.mask_token" in state:
        names["mask_token"] = get("embeddings.mask_token")
    for part in ["weight", "bias"]:
        names[f"patch_embed.proj.{part}"] = get(f"embeddings.patch_embeddings.projection.{part}")
    for i in range(DEPTH):
        old, new = f"layers.{i}.", f"blocks.{i}."
        attention = old + "attention."
        names[new + "gamma_1"], names[new + "gamma_2"] = get(old + "lambda_1"), get(old + "lambda_2")
        parts = [get(f"{attention}{part}_proj.weight") for part in "qkv"]
        names[new + "attn.qkv.weight"] = torch.cat(parts)
        names[new + "attn.q_bias"], names[new + "attn.v_bias"] = get(attention + "q_proj.bias"), get(attention + "v_proj.bias")
        table = old + "relative_position_bias.relative_position_bias_table"
        if table in state:
            names[new + "attn.relative_position_bias_table"] = get(table)
        layers = {
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
            "attention.o_proj": "attn.proj",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }
        for theirs, ours in layers.items():
            for part in ["weight", "bias"]:
                names[f"{new}{ours}.{part}"] = get(f"{old}{theirs}.{part}")
    table = "shared_position_bias.relative_position_bias_table"
    if table in state:
        names["rel_pos_bias.relative_position_bias_table"] = get(table)
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests/golden/beit.safetensors")
    out = parser.parse_args().out
    torch.manual_seed(0)
    images = torch.randn(2, 3, 24, 24)
    masks = torch.rand(2, 36) < 0.4
    golden = {"images": images, "masks": masks.to(torch.uint8)}

    model = randomize(BeitForMaskedImageModeling(BeitConfig(use_mask_token=True, use_shared_relative_position_bias=True, **SIZES)))
    with torch.no_grad():
        logits = model(images, bool_masked_pos=masks).logits
    state = model.state_dict()
    names = unilm({key.removeprefix("beit."): value for key, value in state.items() if key.startswith("beit.")})
    for part in ["weight", "bias"]:
        names[f"norm.{part}"] = state[f"layernorm.{part}"]
        names[f"lm_head.{part}"] = state[f"lm_head.{part}"]
    golden["shared.logits"] = logits[:, -36:]
    golden |= {f"shared.weights.{name}": value for name, value in names.items()}

    config = BeitConfig(use_relative_position_bias=True, use_mean_pooling=False, **SIZES)
    model = randomize(BeitModel(config, add_pooling_layer=False))
    with torch.no_grad():
        features = model(images).last_hidden_state
    state = model.state_dict()
    names = unilm(dict(state))
    for part in ["weight", "bias"]:
        names[f"norm.{part}"] = state[f"layernorm.{part}"]
    golden["block.cls"] = features[:, 0]
    golden |= {f"block.weights.{name}": value for name, value in names.items()}
    save_file({name: value.contiguous().clone() for name, value in golden.items()}, out)


if __name__ == "__main__":
    main()
