#!/usr/bin/env python3
"""Makes tests/golden/conv.safetensors: convolutions of PyTorch and their gradients.

Every case holds `x`, `weight`, `bias` and `probe`, the result `y`, and the gradients `dx`, `dweight` and `dbias` of
the sum of y·probe, as `<case>.<name>`; `<case>.options` is the stride and the padding. The inputs are f32; PyTorch
computes in f64, and the results are rounded to f32.
"""

import argparse
import pathlib

import safetensors.torch
import torch
from torch.nn import functional

# case -> (batch, channels in, channels out, size, kernel, stride, padding)
CONVOLUTIONS = {
    "conv.lateral": (2, 5, 4, (6, 7), (1, 1), 1, 0),
    "conv.pyramid": (2, 9, 6, (11, 10), (3, 3), 1, 1),
    "conv.pool": (1, 3, 3, (7, 8), (1, 1), 2, 0),
    "conv.stem": (1, 3, 8, (19, 18), (7, 7), 2, 3),
    "conv.dvae": (1, 4, 5, (9, 8), (7, 7), 1, 3),
    "conv.patches": (2, 3, 6, (12, 8), (4, 4), 4, 0),
    "conv.residual": (2, 4, 6, (9, 12), (3, 3), 2, 1),
    "conv.mask_head": (3, 6, 8, (14, 14), (3, 3), 1, 1),
}
TRANSPOSED = {
    "transposed.pyramid": (2, 5, 4, (6, 7), (2, 2), 2, 0),
    "transposed.patches": (1, 3, 2, (3, 4), (4, 4), 4, 0),
    "transposed.overlapping": (1, 3, 4, (5, 4), (3, 3), 2, 0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden"), help="folder to write to")
    out = parser.parse_args().out

    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator).double()

    file = {}
    for case, (batch, channels, features, size, kernel, stride, padding) in (CONVOLUTIONS | TRANSPOSED).items():
        transposed = case in TRANSPOSED
        weight_shape = (channels, features) if transposed else (features, channels)
        x, weight, bias = draw(batch, channels, *size), draw(*weight_shape, *kernel), draw(features)
        for tensor in (x, weight, bias):
            tensor.requires_grad_()
        operator = functional.conv_transpose2d if transposed else functional.conv2d
        y = operator(x, weight, bias, stride, padding)
        probe = draw(*y.shape)
        (y * probe).sum().backward()
        tensors = {"x": x, "weight": weight, "bias": bias, "probe": probe, "y": y}
        tensors |= {"dx": x.grad, "dweight": weight.grad, "dbias": bias.grad}
        file |= {f"{case}.{name}": tensor.detach().float().contiguous() for name, tensor in tensors.items()}
        file[f"{case}.options"] = torch.tensor([stride, padding], dtype=torch.uint32)
    out.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(file, str(out / "conv.safetensors"))


if __name__ == "__main__":
    main()
