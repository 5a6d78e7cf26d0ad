#!/usr/bin/env python3
"""GFLOP/s of PyTorch's convolutions at the sizes of `cargo bench --bench conv`: the other side of that table.

  conv.py [--threads N] [NAME]       the lines that contain NAME; all when absent

Forward, and forward and backward (three times the work), the fastest of the runs of a second; f32 and autocast to bf16.
Run both sides in turn, several times, on an idle machine, with the same number of threads (RAYON_NUM_THREADS).
"""

import argparse
import contextlib
import time

import torch
import torch.nn.functional as F

# Name, batch, channels in and out, height and width, kernel, stride, padding (None: transposed).
CASES = [
    ("3x3 pyramid", 1, 256, 256, 64, 3, 1, 1),
    ("3x3 residual", 8, 64, 64, 56, 3, 1, 1),
    ("3x3 narrow", 8, 24, 24, 48, 3, 1, 1),
    ("3x3 UperNet small", 8, 192, 48, 48, 3, 1, 1),
    ("1x1 lateral", 1, 768, 256, 64, 1, 1, 0),
    ("3x3 stride 2", 1, 256, 256, 64, 3, 2, 1),
    ("7x7 stem", 4, 3, 64, 224, 7, 2, 3),
    ("7x7 dVAE", 1, 64, 64, 56, 7, 1, 3),
    ("3x3 mask head", 64, 256, 256, 14, 3, 1, 1),
    ("3x3 box head", 128, 128, 128, 7, 3, 1, 1),
    ("3x3 UperNet", 1, 3072, 768, 64, 3, 1, 1),
    ("2x2 transposed", 1, 256, 256, 64, 2, 2, None),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"PyTorch {torch.__version__}, {args.threads} threads; GFLOP/s, forward / forward and backward")
    print(f"{'':<18}{'f32':>18}{'bf16':>18}")
    for name, *case in CASES:
        if args.name in name:
            print(f"{name:<18}{measure(*case, False):>18}{measure(*case, True):>18}", flush=True)


def measure(batch, channels, out, size, kernel, stride, padding, bf16):
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    shape = (channels, out) if padding is None else (out, channels)
    weight = torch.randn(*shape, kernel, kernel, requires_grad=True)
    bias = torch.randn(out, requires_grad=True)

    def forward():
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            if padding is None:
                return F.conv_transpose2d(x, weight, bias, stride)
            return F.conv2d(x, weight, bias, stride, padding)

    def both():
        y = forward()
        y.backward(torch.ones_like(y))
        x.grad = weight.grad = bias.grad = None

    side = size if padding is None else (size + 2 * padding - kernel) // stride + 1
    work = 2e-9 * batch * side * side * kernel * kernel * channels * out
    return f"{work / fastest(forward):.0f} / {3 * work / fastest(both):.0f}"


def fastest(run):
    run()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < 1:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
