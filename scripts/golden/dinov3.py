#!/usr/bin/env python3
"""Makes the files of DINOv3, and those of DINOv2 with a SwiGLU as in ViT-g/14, in tests/golden/dialects: small models with
random weights, as transformers and timm save them and in the names of facebookresearch, and what they compute for images
of several sizes. Needs torch, transformers and timm.

  dinov3.safetensors              DINOv3ViTModel with a plain MLP
  dinov3_plus.safetensors         DINOv3ViTModel with a SwiGLU, as in ViT-S+/16
  dinov3_original.safetensors     the weights of dinov3_plus as facebookresearch/dinov3 names them, with the mask of the biases
                                  of qkv and with periods in bf16: timm's converter reads them, and its model computes the same
  dinov3_timm.safetensors         dinov3 as timm's Eva saves it, with biases of queries and values
  dinov3_timm_plus.safetensors    dinov3_plus without biases of queries, keys and values, as timm's default models have none
  dinov3_gradients.safetensors    gradients of all weights of dinov3_plus, by the names of transformers
  dinov3_expected.safetensors     images; last hidden state and outputs of blocks; the factor of the loss of the gradients
  dinov2_giant.safetensors        Dinov2Model with a SwiGLU
  dinov2_giant_registers.safetensors, dinov2_giant_original.safetensors, dinov2_giant_timm.safetensors
                                  Dinov2WithRegistersModel with a SwiGLU, under three names
  dinov2_giant_expected.safetensors  images, last hidden state and outputs of blocks
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from dinov2 import original as original_of_dinov2
from safetensors.torch import load_file, save_file
from shared import randomize, save
from timm.layers import SwiGLUPacked
from timm.models.eva import Eva
from timm.models.eva import checkpoint_filter_fn as eva_filter
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as vit_filter
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

WIDTH, DEPTH, HEADS, PATCH, REGISTERS = 32, 2, 2, 4, 4
# Height and width of images: square, larger, wide and high.
IMAGES = [(24, 24), (40, 40), (16, 36), (32, 12)]
GIANT_IMAGES = [(24, 24), (16, 36)]
GIANT = dict(
    hidden_size=16,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    mlp_ratio=4,
    image_size=24,
    patch_size=PATCH,
    layer_norm_eps=1e-6,
    use_swiglu_ffn=True,
)


def dinov3(gated):
    config = DINOv3ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=128,
        patch_size=PATCH,
        image_size=24,
        num_register_tokens=REGISTERS,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        layerscale_value=1.0,
    )
    return randomize(DINOv3ViTModel(config))


def original_of_dinov3(state, gated):
    """Weights of transformers by the names of facebookresearch/dinov3."""
    renamed = {
        "embeddings.patch_embeddings": "patch_embed.proj",
        "embeddings.register_tokens": "storage_tokens",
        "embeddings.": "",
        "attention.o_proj": "attn.proj",
        "attention": "attn",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
    }
    if gated:
        renamed |= {"mlp.gate_proj": "mlp.w1", "mlp.up_proj": "mlp.w2", "mlp.down_proj": "mlp.w3"}
    else:
        renamed |= {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}
    out = {}
    for name, value in state.items():
        name = "blocks." + name.removeprefix("layer.") if name.startswith("layer.") else name
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        out[name] = value
    for i in range(DEPTH):
        block = f"blocks.{i}.attn"
        parts = [out.pop(f"{block}.{part}.weight") for part in ["q_proj", "k_proj", "v_proj"]]
        out[f"{block}.qkv.weight"] = torch.cat(parts)
        # Training leaves anything where the mask is 0.
        noise = torch.randn(WIDTH)
        out[f"{block}.qkv.bias"] = torch.cat([out.pop(f"{block}.q_proj.bias"), noise, out.pop(f"{block}.v_proj.bias")])
        out[f"{block}.qkv.bias_mask"] = torch.cat([torch.ones(WIDTH), torch.zeros(WIDTH), torch.ones(WIDTH)])
    out["mask_token"] = out["mask_token"].reshape(1, WIDTH)
    quarter = WIDTH // HEADS // 4
    periods = 100 ** (torch.arange(quarter) / quarter)
    out["rope_embed.periods"] = periods.to(torch.bfloat16).float()
    return out


def eva(state, biases, gated):
    """timm's model with weights in the names of facebookresearch/dinov3."""
    model = Eva(
        img_size=24,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        global_pool="token",
        qkv_bias=biases,
        init_values=1e-5,
        rope_type="dinov3",
        rope_temperature=100,
        rope_rotate_half=True,
        use_rot_pos_emb=True,
        use_abs_pos_emb=False,
        swiglu_mlp=gated,
        swiglu_align_to=8 if gated else 0,
        num_reg_tokens=REGISTERS,
        use_fc_norm=False,
        dynamic_img_size=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
        mlp_ratio=4,
    )
    model.load_state_dict(eva_filter(dict(state), model))
    return model.eval()


def outputs(model, images, name):
    """What a model of transformers computes for all images."""
    expected = {}
    for size, batch in images.items():
        size = size.removeprefix("images.")
        found = model(batch, output_hidden_states=True)
        expected[f"{name}.{size}"] = found.last_hidden_state
        expected |= {f"{name}.{size}.{i}": found.hidden_states[1 + i] for i in range(DEPTH)}
    return expected


def compare(model, images, expected, name):
    """timm computes the same as transformers."""
    for size, batch in images.items():
        error = (model.forward_features(batch) - expected[f"{name}.{size.removeprefix('images.')}"]).abs().max()
        print(f"{name} {size}: timm and transformers differ by {error:.1e}")
        assert error < 2e-5


def write(tensors, path):
    save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, path)


def make_dinov3(out):
    images = {f"images.{h}x{w}": torch.randn(1, 3, h, w) for h, w in IMAGES}
    expected = dict(images)
    for name, gated in [("dinov3", False), ("dinov3_plus", True)]:
        model = dinov3(gated)
        save(model, out / f"{name}.safetensors")
        with torch.no_grad():
            expected |= outputs(model, images, name)
        # The file has the names that it is saved with, whatever the library calls them inside.
        state = original_of_dinov3(load_file(out / f"{name}.safetensors"), gated)
        with torch.no_grad():
            timm = eva(state, True, gated)
            compare(timm, images, expected, name)
        if not gated:
            write(timm.state_dict(), out / "dinov3_timm.safetensors")
            continue
        write(state, out / "dinov3_original.safetensors")

        # Gradients of a weighted sum of the last hidden state without the registers, by the names of the file.
        size = "16x36"
        expected["seed"] = torch.randn_like(expected[f"{name}.{size}"])
        expected["seed"][:, 1 : 1 + REGISTERS] = 0
        (model(images[f"images.{size}"]).last_hidden_state * expected["seed"]).sum().backward()
        for parameter in model.parameters():
            parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        save(model, out / "dinov3_gradients.safetensors")

        # The same model without the three biases.
        for i in range(DEPTH):
            state[f"blocks.{i}.attn.qkv.bias"] *= 0
        with torch.no_grad():
            timm = eva(state, False, gated)
            for size, batch in images.items():
                expected[f"dinov3_timm_plus.{size.removeprefix('images.')}"] = timm.forward_features(batch)
        write(timm.state_dict(), out / "dinov3_timm_plus.safetensors")
    write(expected, out / "dinov3_expected.safetensors")


@torch.no_grad()
def make_giant(out):
    images = {f"images.{h}x{w}": torch.randn(1, 3, h, w) for h, w in GIANT_IMAGES}
    expected = dict(images)
    plain = Dinov2Model(Dinov2Config(**GIANT))
    registers = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**GIANT, num_register_tokens=3))
    for name, model in [("dinov2_giant", plain), ("dinov2_giant_registers", registers)]:
        save(randomize(model), out / f"{name}.safetensors")
        expected |= outputs(model, images, name)
    state = original_of_dinov2(load_file(out / "dinov2_giant_registers.safetensors"))
    state = {n.replace("weights_in", "w12").replace("weights_out", "w3"): t for n, t in state.items()}
    write(state, out / "dinov2_giant_original.safetensors")
    hidden = state["blocks.0.mlp.w12.weight"].shape[0]
    model = VisionTransformer(
        img_size=24,
        patch_size=PATCH,
        embed_dim=16,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        init_values=1e-5,
        mlp_ratio=hidden / 16,
        mlp_layer=SwiGLUPacked,
        act_layer=torch.nn.SiLU,
        reg_tokens=3,
        no_embed_class=True,
    )
    model.load_state_dict(vit_filter(dict(state), model))
    native = {name: batch for name, batch in images.items() if name == "images.24x24"}
    compare(model.eval(), native, expected, "dinov2_giant_registers")
    write(model.state_dict(), out / "dinov2_giant_timm.safetensors")
    write(expected, out / "dinov2_giant_expected.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests/golden/dialects")
    out = parser.parse_args().out
    torch.manual_seed(0)
    make_dinov3(out)
    make_giant(out)


if __name__ == "__main__":
    main()
