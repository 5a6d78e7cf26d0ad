#!/usr/bin/env python3
"""Makes tests/golden/external.{safetensors,json}: pooled features of torchvision's and timm's networks.

    scripts/golden/external.py

Weights are a formula of the name's place and the element's index, which the test repeats: they are not in the file.
Written with torch 2.15.0, torchvision 0.29.2 and timm 1.0.31.
"""

import json
import math
import pathlib

import timm
import torch
import torchvision
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden"


def fill(k, name, shape):
    index = torch.arange(math.prod(shape), dtype=torch.int64)
    wave = torch.sin((index * 7919 % 10007).double() * 0.1 + k)
    last = name.split(".")[-1]
    if last == "running_var":
        value = 1 + 0.5 * wave
    elif last == "weight" and len(shape) > 1:
        value = wave * math.sqrt(2 / max(1, math.prod(shape[1:])))
    elif last == "weight":
        value = 1 + 0.1 * wave
    elif last == "gamma":
        value = 0.5 + 0.1 * wave
    else:
        value = 0.1 * wave
    return value.float().reshape(shape)


def main():
    networks = {
        "resnet18": torchvision.models.resnet18(),
        "resnet50": torchvision.models.resnet50(),
        "convnext_atto": timm.create_model("convnext_atto", num_classes=0),
    }
    outputs, shapes = {}, {}
    for name, network in networks.items():
        if name.startswith("resnet"):
            network.fc = torch.nn.Identity()
        state = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
        shapes[name] = {key: list(state[key].shape) for key in sorted(state)}
        filled = {key: fill(k, key, shape) for k, (key, shape) in enumerate(shapes[name].items())}
        network.load_state_dict(filled, strict=False)
        network.eval()
        with torch.no_grad():
            outputs[name] = network(fill(0, "x.weight", [2, 3, 64, 64])).contiguous()
        print(name, tuple(outputs[name].shape), "mean size", outputs[name].abs().mean().item())
    save_file(outputs, OUT / "external.safetensors")
    (OUT / "external.json").write_text(json.dumps(shapes))


if __name__ == "__main__":
    main()
