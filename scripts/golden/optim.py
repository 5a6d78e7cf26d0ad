#!/usr/bin/env python3
"""Makes tests/golden/optim.safetensors: 100 steps of AdamW, SGD and LARS on recorded gradients.

AdamW and SGD are PyTorch's; LARS is written out here from the recipe of MAE's linear probing
(arXiv:2111.06377, Table 10). The learning rate follows MAE's schedule: warm-up, then half a cosine,
evaluated at every step. Layer decay and weight-decay exemptions are those of MAE's fine-tuning.
The parameters of every optimiser are stored after 1, 10 and 100 steps as `<optimiser>.<step>.<name>`.
"""

import argparse
import math
import pathlib

import safetensors.torch
import torch

STEPS, STEPS_PER_EPOCH = 100, 5
PEAK, WARMUP, MIN_LR = 0.02, 3.0, 1e-4
LAYERS, LAYER_DECAY, WEIGHT_DECAY, MOMENTUM, TRUST = 2, 0.65, 0.05, 0.9, 1e-3
# name -> (shape, layer, decayed)
PARAMETERS = {
    "pos_embed": ((1, 5, 6), 0, False),
    "blocks.0.attn.qkv.weight": ((18, 6), 1, True),
    "blocks.0.attn.qkv.bias": ((18,), 1, False),
    "blocks.0.norm1.weight": ((6,), 1, False),
    "head.weight": ((5, 6), 2, True),
    "head.bias": ((5,), 2, False),
}


def learning_rate(step):
    """MAE's schedule at a fractional epoch."""
    epoch, epochs = step / STEPS_PER_EPOCH, STEPS / STEPS_PER_EPOCH
    if epoch < WARMUP:
        return PEAK * epoch / WARMUP
    return MIN_LR + (PEAK - MIN_LR) * 0.5 * (1.0 + math.cos(math.pi * (epoch - WARMUP) / (epochs - WARMUP)))


class Lars:
    """The trust ratio and the weight decay touch tensors of two or more dimensions only."""

    def __init__(self, groups):
        self.param_groups = groups
        self.buffers = [torch.zeros_like(g["params"][0]) for g in groups]

    @torch.no_grad()
    def step(self):
        for group, buffer in zip(self.param_groups, self.buffers):
            (p,) = group["params"]
            update = p.grad
            if p.dim() > 1:
                update = update + group["weight_decay"] * p
                norms = p.norm(), update.norm()
                if min(norms) > 0:
                    update = update * (TRUST * norms[0] / norms[1])
            buffer.mul_(MOMENTUM).add_(update)
            p.sub_(group["lr"] * buffer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden"), help="folder to write to")
    out = parser.parse_args().out

    draw = torch.Generator().manual_seed(0)
    shapes = {name: shape for name, (shape, _, _) in PARAMETERS.items()}
    initial = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    gradients = {}
    for name, shape in shapes.items():
        # Scales over five decades, with a drift, so that moments differ between elements and steps.
        scale = 10.0 ** torch.empty(STEPS, *[1] * len(shape)).uniform_(-4, 1, generator=draw)
        gradients[name] = scale * (torch.randn(STEPS, *shape, generator=draw) + 0.3)
    gradients["head.weight"][7] = 0  # a zero norm: LARS falls back to ratio 1
    file = {f"initial.{k}": v for k, v in initial.items()} | {f"gradient.{k}": v for k, v in gradients.items()}
    file["learning_rate"] = torch.tensor([learning_rate(s) for s in range(STEPS)], dtype=torch.float64)

    optimisers = {
        "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8),
        "sgd": lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM),
        "lars": Lars,
    }
    for optimiser, make in optimisers.items():
        params = {name: value.clone().requires_grad_() for name, value in initial.items()}
        groups = [
            {
                "params": [params[name]],
                "weight_decay": WEIGHT_DECAY if decayed else 0.0,
                "scale": LAYER_DECAY ** (LAYERS - layer),
            }
            for name, (_, layer, decayed) in PARAMETERS.items()
        ]
        optim = make(groups)
        for step in range(STEPS):
            for name, p in params.items():
                p.grad = gradients[name][step].clone()
            for group in optim.param_groups:
                group["lr"] = learning_rate(step) * group["scale"]
            optim.step()
            if step + 1 in (1, 10, STEPS):
                file |= {f"{optimiser}.{step + 1}.{name}": p.detach().clone() for name, p in params.items()}
    out.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(file, str(out / "optim.safetensors"))


if __name__ == "__main__":
    main()
