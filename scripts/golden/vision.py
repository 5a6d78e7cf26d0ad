#!/usr/bin/env python3
"""Makes tests/golden/vision.safetensors: the operators of dense prediction by PyTorch and torchvision.

Every case has its inputs, the output `y`, a `seed`, and the gradients of sum(y * seed) for the inputs.
Computed in float64, but for RoIAlign, whose sample counts depend on rounding in float32, and stored in
float32. Values lie on a grid of 1/8, so that pools see ties.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.ops import batched_nms, nms, roi_align

draw = torch.Generator().manual_seed(0)
golden = {}


def random(*shape):
    return (torch.randn(shape, generator=draw) * 8).round() / 8


def case(name, run, dtype=torch.float64, **inputs):
    exact = {key: value.to(dtype).requires_grad_() for key, value in inputs.items()}
    y = run(*exact.values())
    seed = random(*y.shape)
    gradients = torch.autograd.grad((y * seed.to(dtype)).sum(), list(exact.values()))
    file = inputs | {"y": y, "seed": seed}
    file |= {f"gradient.{key}": gradient for key, gradient in zip(inputs, gradients)}
    golden.update({f"{name}.{key}": value.detach().float().contiguous().clone() for key, value in file.items()})


def norms():
    affine = dict(weight=random(6), bias=random(6))
    for name, shape in [("pixels", (3, 6, 4, 5)), ("rows", (7, 6))]:
        case(f"batch_norm.{name}", lambda x, w, b: F.batch_norm(x, None, None, w, b, True), x=random(*shape), **affine)
    mean, var = random(6), random(6).square() + 0.5
    golden.update({"batch_norm.given.mean": mean, "batch_norm.given.var": var})
    given = lambda x, w, b: F.batch_norm(x, mean.double(), var.double(), w, b, False)
    case("batch_norm.given", given, x=random(2, 6, 3, 4), **affine)
    for groups in [1, 2, 3, 6]:
        case(f"group_norm.{groups}", lambda x, w, b: F.group_norm(x, groups, w, b), x=random(2, 6, 3, 4), **affine)

    def over_channels(x, w, b):
        return F.layer_norm(x.permute(0, 2, 3, 1), (6,), w, b, 1e-6).permute(0, 3, 1, 2)

    case("layer_norm2d", over_channels, x=random(2, 6, 3, 5), **affine)


def pools():
    for kernel, stride, padding in [(3, 2, 1), (2, 2, 0), (3, 1, 1), (1, 2, 0), (5, 3, 2)]:
        name = f"max_pool2d.{kernel}.{stride}.{padding}"
        case(name, lambda x: F.max_pool2d(x, kernel, stride, padding), x=random(2, 2, 9, 8))
    for kernel, stride in [((2, 2), (2, 2)), ((3, 2), (1, 3))]:
        name = ".".join(map(str, ("avg_pool2d", *kernel, *stride)))
        case(name, lambda x: F.avg_pool2d(x, kernel, stride), x=random(2, 2, 9, 8))
    for h, w in [(1, 1), (2, 2), (3, 3), (6, 6), (10, 5)]:
        case(f"adaptive_avg_pool2d.{h}.{w}", lambda x: F.adaptive_avg_pool2d(x, (h, w)), x=random(2, 2, 9, 8))


def resizes():
    for mode in ["nearest", "bilinear", "bicubic"]:
        for h, w in [(18, 16), (3, 4), (5, 13), (1, 30), (9, 8)]:
            name = f"resize_{mode}.{h}.{w}"
            case(name, lambda x: F.interpolate(x, size=(h, w), mode=mode), x=random(1, 2, 9, 8))
    # Which input each output takes, for every pair of sizes; float32 as in use.
    rows, sizes = [], [1, 2, 3, 5, 7, 10, 13, 17, 29, 40]
    for size in sizes:
        line = torch.arange(size, dtype=torch.float32)[None, None]
        rows += [F.interpolate(line, size=to, mode="nearest").flatten() for to in sizes]
    golden["nearest"] = torch.cat(rows)


def boxes(count, limit):
    low = torch.rand(count, 2, generator=draw) * limit * 1.2 - 0.1 * limit
    size = torch.rand(count, 2, generator=draw) ** 2 * limit
    return torch.cat([low, low + size], 1)


def detection():
    rois = torch.cat([torch.randint(0, 2, (12, 1), generator=draw).float(), boxes(12, 60.0)], 1)
    rois[10, 3:] = rois[10, 1:3]
    rois[11, 1:] = torch.tensor([0.0, 0.0, 56.0, 28.0])  # bins of exactly 2 and 1 pixels
    golden["roi_align.boxes"] = rois
    for ratio in [0, 2]:
        for h, w in [(7, 7), (3, 5)]:
            name = f"roi_align.{ratio}.{h}.{w}"
            run = lambda x: roi_align(x, rois, (h, w), 0.25, ratio, aligned=True)
            case(name, run, dtype=torch.float32, x=random(2, 2, 14, 15))
    held, scores = boxes(300, 100.0), (torch.rand(300, generator=draw) * 50).round() / 50  # with ties
    classes = torch.randint(0, 4, (300,), generator=draw)
    golden.update({"nms.boxes": held, "nms.scores": scores, "nms.classes": classes.to(torch.uint32)})
    for threshold in [0.3, 0.5, 0.7]:
        golden[f"nms.{threshold}"] = nms(held, scores, threshold).to(torch.uint32)
        # torchvision sorts the survivors by score without a rule for ties; position is ours.
        found = batched_nms(held, scores, classes, threshold).sort().values
        found = found[scores[found].argsort(descending=True, stable=True)]
        golden[f"batched_nms.{threshold}"] = found.to(torch.uint32)


def losses():
    for name, shape in [("rows", (11, 7)), ("pixels", (2, 5, 3, 4))]:
        targets = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=draw)
        targets.flatten()[::4] = 255
        golden[f"cross_entropy.{name}.targets"] = targets.to(torch.uint32)
        for smoothing in [0.0, 0.1]:
            run = lambda x: F.cross_entropy(x, targets, ignore_index=255, label_smoothing=smoothing)
            case(f"cross_entropy.{name}.{smoothing}", run, x=random(*shape))
    targets, weights = torch.rand(5, 9, generator=draw), torch.rand(5, 9, generator=draw)
    golden.update({"pointwise.targets": targets, "pointwise.weights": weights})
    t, w = targets.double(), weights.double()
    bce = F.binary_cross_entropy_with_logits
    case("bce.mean", lambda x: bce(x, t), x=20 * random(5, 9))
    case("bce.weighted", lambda x: bce(x, t, weight=w, reduction="sum"), x=random(5, 9))
    case("smooth_l1.mean", lambda x: F.smooth_l1_loss(x, t, beta=0.5), x=random(5, 9))
    weighted = lambda x: (F.smooth_l1_loss(x, t, beta=0.5, reduction="none") * w).sum()
    case("smooth_l1.weighted", weighted, x=random(5, 9))
    case("l1.mean", lambda x: F.smooth_l1_loss(x, t, beta=0.0), x=random(5, 9))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=Path, default=root / "tests" / "golden", help="folder to write to")
    out = parser.parse_args().out
    norms()
    pools()
    resizes()
    detection()
    losses()
    save_file(golden, out / "vision.safetensors")


if __name__ == "__main__":
    main()
