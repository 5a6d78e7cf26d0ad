#!/usr/bin/env python3
"""Makes tests/golden/mix.safetensors and mix.json: mixup and cutmix of groups of images, by timm.

A program on several devices calls timm's Mixup (mode `batch`) on each of them, with random numbers of its own. The json
lists the cases: the labels, the size of the groups, and for each group what timm drew. The safetensors file holds the
batch, and the mixed images and soft targets of each case. Made with torch 2.15 and timm 1.0.22.
"""

import argparse
import json
import pathlib
from unittest import mock

import numpy as np
import safetensors.numpy
import torch
from timm.data.mixup import Mixup


def recorded(draw):
    """One call of Mixup, of which `draw` says (λ, whether it is cutmix), and what it drew beside."""

    def call(mix, images, labels):
        drawn, randint = [], np.random.randint

        def record(*args, **kwargs):
            drawn.append(int(randint(*args, **kwargs)))
            return drawn[-1]

        with mock.patch.object(mix, "_params_per_batch", lambda: draw), mock.patch.object(np.random, "randint", record):
            mixed, targets = mix(images.clone(), labels)
        return mixed, targets, dict(lam=draw[0], cutmix=draw[1], centre=drawn)

    return call


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden"), help="folder to write to")
    out = parser.parse_args().out

    torch.manual_seed(0)
    np.random.seed(1)
    batch, classes, smoothing = 10, 6, 0.1
    images, labels = torch.randn(batch, 3, 8, 12), torch.randint(classes, (batch,))
    tensors, cases = {"images": images.numpy()}, []
    for group in (2, 4, 10):
        mix = Mixup(0.8, 1.0, label_smoothing=smoothing, num_classes=classes)
        parts = []
        for start in range(0, batch, group):  # the last group of 4 is one of 2
            draw = mix._params_per_batch()
            assert 0 < draw[0] < 1
            parts.append(recorded(draw)(mix, images[start : start + group], labels[start : start + group]))
        name = f"group{group}"
        tensors[f"{name}.images"] = torch.cat([part[0] for part in parts]).numpy()
        tensors[f"{name}.targets"] = torch.cat([part[1] for part in parts]).numpy()
        cases.append(dict(name=name, group=group, draws=[part[2] for part in parts]))
    kinds = {draw["cutmix"] for case in cases for draw in case["draws"]}
    assert kinds == {True, False}, "both methods occur"

    out.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, str(out / "mix.safetensors"))
    head = json.dumps(dict(classes=classes, smoothing=smoothing, labels=labels.tolist()))[:-1]
    lines = ",\n".join(map(json.dumps, cases))
    (out / "mix.json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
