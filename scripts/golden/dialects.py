#!/usr/bin/env python3
"""Makes tests/golden/dialects: small models of transformers with random weights as that library saves them, and what
they compute.

  vit_mae.safetensors    ViTMAEForPreTraining
  vit.safetensors        ViTForImageClassification
  beit.safetensors       BeitForMaskedImageModeling, one table of relative positions
  beit_model.safetensors BeitModel, a table per block
  beit_class.safetensors BeitForImageClassification
  expected.safetensors   images, noise of masks; logits, loss and features of each
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from shared import randomize, save
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitModel,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

SIZES = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=24,
    patch_size=4,
    layer_norm_eps=1e-6,
)
DECODER = dict(
    decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=32
)
BEIT = dict(vocab_size=23, use_absolute_position_embeddings=False, layer_scale_init_value=0.3, drop_path_rate=0.0)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests/golden/dialects")
    out = parser.parse_args().out
    torch.manual_seed(0)
    images, noise = torch.randn(2, 3, 24, 24), torch.rand(2, 36)
    expected = {"images": images, "noise": noise}

    model = randomize(ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **DECODER, norm_pix_loss=True)))
    found = model(images, noise=noise)
    expected |= {"vit_mae.logits": found.logits, "vit_mae.loss": found.loss.reshape(1)}
    save(model, out / "vit_mae.safetensors")

    model = randomize(ViTForImageClassification(ViTConfig(**SIZES, num_labels=5)))
    expected["vit.logits"] = model(images).logits
    save(model, out / "vit.safetensors")

    config = BeitConfig(**SIZES, **BEIT, use_mask_token=True, use_shared_relative_position_bias=True)
    model = randomize(BeitForMaskedImageModeling(config))
    expected["beit.logits"] = model(images, bool_masked_pos=noise > 0.6).logits
    expected["beit.class"] = model.layernorm(model.beit(images).last_hidden_state)[:, 0]
    save(model, out / "beit.safetensors")

    config = BeitConfig(**SIZES, **BEIT, use_relative_position_bias=True, use_mean_pooling=False)
    model = randomize(BeitModel(config, add_pooling_layer=False))
    expected["beit_model.class"] = model(images).last_hidden_state[:, 0]
    save(model, out / "beit_model.safetensors")

    model = randomize(BeitForImageClassification(BeitConfig(**SIZES, **BEIT, use_relative_position_bias=True, num_labels=5)))
    expected["beit_class.logits"] = model(images).logits
    save(model, out / "beit_class.safetensors")
    save_file({name: value.contiguous().clone() for name, value in expected.items()}, out / "expected.safetensors")


if __name__ == "__main__":
    main()
