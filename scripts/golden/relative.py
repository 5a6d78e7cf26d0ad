#!/usr/bin/env python3
"""Makes tests/golden/relative.safetensors: relative-position tables resized for another grid, by SciPy.

The rule is that of BEiT's fine-tuning (arXiv:2106.08254): a cubic spline through offsets that lie q^i apart, with the q
that makes the outermost ones meet; the three rows of the class token stay.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.interpolate import RectBivariateSpline


def places(source, target):
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if (1 - q ** (source // 2)) / (1 - q) > target // 2:
            high = q
        else:
            low = q
    outward = np.cumsum(((low + high) / 2) ** np.arange(source // 2))
    return np.concatenate([-outward[::-1], [0], outward])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parents[2] / "tests/golden/relative.safetensors"
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args().out
    draw = np.random.default_rng(0)
    golden = {}
    for name, source, target in [("larger", 7, 15), ("smaller", 15, 9)]:
        table = draw.standard_normal((source**2 + 3, 2)).astype(np.float32)
        at, to = places(source, target), np.arange(target) - target // 2
        heads = []
        for head in range(2):
            spline = RectBivariateSpline(at, at, table[:-3, head].reshape(source, source).astype(np.float64), s=0)
            heads.append(spline(to, to).reshape(-1))
        resized = np.concatenate([np.stack(heads, 1).astype(np.float32), table[-3:]])
        golden |= {f"{name}.table": torch.from_numpy(table), f"{name}.resized": torch.from_numpy(resized)}
    save_file(golden, out)


if __name__ == "__main__":
    main()
