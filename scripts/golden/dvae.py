#!/usr/bin/env python3
"""Makes tests/golden/dvae.safetensors: a small discrete autoencoder of DALL·E by PyTorch, with random weights.

Beside it dvae_encoder.pkl, the encoder as a pickled module, and dvae_stranger.pkl, one that would run a command.

The layers are those of the paper (arXiv:2102.12092, appendix A) with the names of its released files. Computed in
float64, stored in float32.
"""

import argparse
import os
import sys
import types
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

VOCABULARY, HIDDEN, GROUPS, BLOCKS, EMBEDDING = 19, 8, 3, 2, 6


class Conv(nn.Module):
    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.w = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5)
        self.b = nn.Parameter(torch.randn(outputs) * 0.1)

    def forward(self, x):
        return F.conv2d(x, self.w, self.b, padding=(self.w.shape[-1] - 1) // 2)


class Block(nn.Module):
    def __init__(self, inputs, outputs, kernels):
        super().__init__()
        self.id_path = Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        widths = [inputs] + 3 * [outputs // 4] + [outputs]
        path = OrderedDict()
        for i, kernel in enumerate(kernels):
            path[f"relu_{i + 1}"] = nn.ReLU()
            path[f"conv_{i + 1}"] = Conv(widths[i], widths[i + 1], kernel)
        self.res_path = nn.Sequential(path)

    def forward(self, x):
        return self.id_path(x) + self.res_path(x) / (GROUPS * BLOCKS) ** 2


class Coder(nn.Module):
    def __init__(self, first, widths, kernels, between, last):
        super().__init__()
        blocks = OrderedDict(input=first)
        inputs = first.w.shape[0]
        for g, width in enumerate(widths):
            group = OrderedDict()
            for b in range(BLOCKS):
                group[f"block_{b + 1}"] = Block(inputs, width, kernels)
                inputs = width
            if g + 1 < len(widths):
                group["between"] = between()
            blocks[f"group_{g + 1}"] = nn.Sequential(group)
        blocks["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv(inputs, last, 1)))
        self.blocks = nn.Sequential(blocks)

    def forward(self, x):
        return self.blocks(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests/golden/dvae.safetensors")
    out = parser.parse_args().out
    torch.manual_seed(0)
    widths = [HIDDEN << g for g in range(GROUPS)]
    encoder = Coder(Conv(3, HIDDEN, 7), widths, [3, 3, 3, 1], lambda: nn.MaxPool2d(2), VOCABULARY)
    decoder = Coder(Conv(VOCABULARY, EMBEDDING, 1), widths[::-1], [1, 3, 3, 3], lambda: nn.Upsample(scale_factor=2), 6)
    encoder.double(), decoder.double()
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64) * 0.8 + 0.1
    z = torch.randn(2, VOCABULARY, 4, 6, dtype=torch.float64).softmax(1)
    with torch.no_grad():
        logits, result = encoder(x), decoder(z)
        image = ((result[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1)
    golden = dict(x=x, logits=logits, tokens=logits.argmax(1), z=z, out=result, image=image)
    golden |= {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    golden |= {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    for kind in [Conv, Block, Coder]:  # where the published file has its classes
        kind.__module__ = "dall_e.encoder"
    module = sys.modules["dall_e"] = sys.modules["dall_e.encoder"] = types.ModuleType("dall_e.encoder")
    module.Conv, module.Block, module.Coder = Conv, Block, Coder
    encoder.float()
    torch.save(encoder, out.with_name("dvae_encoder.pkl"))
    encoder.extra = Stranger()
    torch.save(encoder, out.with_name("dvae_stranger.pkl"))
    save_file({name: (t if t.dtype == torch.int64 else t.float()).contiguous() for name, t in golden.items()}, out)


class Stranger:
    """What a hostile file does: its pickle calls a function when it is loaded."""

    def __reduce__(self):
        return os.system, ("true",)


if __name__ == "__main__":
    main()
