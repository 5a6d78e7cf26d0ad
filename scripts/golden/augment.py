#!/usr/bin/env python3
"""Makes tests/golden/augment.safetensors and augment.json: image operations of Pillow, torchvision and timm.

The json lists the cases: the arguments, or the random numbers that the reference drew, and its scalar answers. The
safetensors file holds their images ([H, W, C], 8-bit) and tensors under the name of the case. Sources are synthetic.
Made with Pillow 9.4, torchvision 0.14.1 and timm 0.9.16.
"""

import argparse
import contextlib
import json
import math
import pathlib
import random
from unittest import mock

import numpy as np
import safetensors.numpy
import torch
from PIL import Image
from timm.data import auto_augment, mixup, random_erasing
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = tuple(min(255, round(255 * mean)) for mean in MEAN)  # as timm's transforms_factory
SMALL = (16, 20)
OPS = [  # rand_augment_choices("inc1"), in its order
    "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd",
    "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY",
    "TranslateXRel", "TranslateYRel",
]  # fmt: skip


def scene(height, width, rng):
    """Gradients, hard edges, saturated blocks and noise, so that filters overshoot and every hue occurs."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (height + width)], -1)
    image[height // 4 : height // 2, width // 3 : width // 2] = (250, 20, 5)
    image[height // 2 :, : width // 4] = (0, 255, 255)
    image[: height // 3, -width // 5 :] = rng.integers(0, 256, (height // 3, math.ceil(width / 5), 3))
    image += rng.normal(0, 8, image.shape)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


class Golden:
    def __init__(self):
        self.cases, self.tensors = {}, {}

    def add(self, kind, result=None, **case):
        cases = self.cases.setdefault(kind, [])
        if result is not None:
            case["tensor"] = f"{kind}.{len(cases)}"
            self.image(case["tensor"], result) if isinstance(result, Image.Image) else self.tensor(case["tensor"], result)
        cases.append(case)

    def image(self, name, image):
        pixels = np.array(image)
        self.tensors[name] = pixels.reshape(*pixels.shape[:2], -1)

    def tensor(self, name, tensor):
        self.tensors[name] = np.ascontiguousarray(tensor)


@contextlib.contextmanager
def recorded(owner, names):
    """Lists what the functions `names` of `owner` return."""
    drawn = []

    def record(function):
        def call(*args, **kwargs):
            value = function(*args, **kwargs)
            drawn.append(value.item() if hasattr(value, "item") else value)
            return value

        return call

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(owner, name, record(getattr(owner, name))))
        yield drawn


def resizes(golden, sources):
    for name, filter in FILTERS.items():
        for source, size in (
            ("rgb", (20, 13)), ("rgb", (33, 53)), ("grey", (20, 13)), ("grey", (33, 53)), ("grey", (32, 20)),
        ):  # fmt: skip
            image = sources[source].resize(size[::-1], filter)
            golden.add("resize", image, source=source, filter=name, crop=None, size=size)
        # Pixels outside of the crop must not matter.
        top, left, height, width = crop = (3, 5, 21, 30)
        image = F.resized_crop(sources["rgb"], *crop, (18, 18), InterpolationMode(name))
        golden.add("resize", image, source="rgb", filter=name, crop=crop, size=(18, 18))
    for size in ((32, 40), (40, 32), (375, 500), (500, 333), (7, 300)):
        for short in (16, 224, 256):
            target = transforms.functional._compute_resized_output_size(size, [short])
            golden.add("short", size=size, short=short, target=target)


def crops(golden, sources):
    for size in ((10, 12), (11, 13), (15, 40), (33, 41), (45, 29), (37, 47)):
        golden.add("center", F.center_crop(sources["grey"], size), size=size)
    for top, left in ((0, 0), (3, 7), (8, 8)):
        padded = F.pad(sources["grey"], 4, padding_mode="reflect")
        golden.add("reflect", F.crop(padded, top, left, 32, 40), padding=4, top=top, left=left)
    golden.add("flip", F.hflip(sources["rgb"]), source="rgb")
    golden.add("flip", F.hflip(sources["grey"]), source="grey")
    for seed in range(12):
        size = ((375, 500), (20, 200), (300, 40), (64, 64))[seed % 4]
        scale = ((0.08, 1.0), (0.2, 1.0), (0.9, 1.0))[seed % 3]
        torch.manual_seed(seed)
        image = Image.new("L", size[::-1])
        with recorded(torch.Tensor, ["uniform_"]) as drawn:
            rect = transforms.RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3))
        golden.add("random_resized_crop", size=size, scale=scale, drawn=drawn, rect=rect)


def colours(golden, sources):
    adjust = {
        "brightness": (F.adjust_brightness, (0.0, 0.35, 1.6)),
        "contrast": (F.adjust_contrast, (0.0, 0.35, 1.6)),
        "saturation": (F.adjust_saturation, (0.0, 0.35, 1.6)),
        "hue": (F.adjust_hue, (-0.3, 0.02, 0.5)),
    }
    for name, (function, factors) in adjust.items():
        for factor in factors:
            golden.add("adjust", function(sources["hues"], factor), source="hues", op=name, factor=factor)
        golden.add("adjust", function(sources["small_grey"], 0.35), source="small_grey", op=name, factor=0.35)


def rand_augment(golden, sources):
    assert OPS == auto_augment.rand_augment_choices("inc1", increasing=True)
    draws = [
        # source, filter, magnitude, negative
        ("small", "bicubic", 9.4, True),
        ("small", "bicubic", 3.0, False),
        ("small", "bicubic", 10.0, False),
        ("small", "bilinear", 9.4, False),
        ("small", "nearest", 9.4, True),
        ("small_grey", "bicubic", 6.5, False),
    ]
    unsigned = OPS[:3] + OPS[4:7]
    for index, name in enumerate(OPS):
        for source, filter, magnitude, negative in draws:
            if index < 3 and magnitude != 9.4 or index in range(4, 11) and filter != "bicubic":
                continue
            if index < 3 and filter != "bicubic" or name in unsigned and source == "small_grey":
                continue
            fill = FILL if source == "small" else FILL[0]
            hparams = {"img_mean": fill, "interpolation": FILTERS[filter]}
            op = auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
            with mock.patch.object(random, "random", lambda: 0.9 if negative else 0.1):
                image = op(sources[source])
            case = dict(source=source, filter=filter, magnitude=magnitude, negative=negative)
            golden.add("rand_augment", image, index=index, name=name, **case)


def erasing(golden):
    for seed in range(8):
        size = ((224, 224), (32, 64), (12, 200), (200, 14))[seed % 4]
        erase = random_erasing.RandomErasing(1.0, mode="pixel", device="cpu")
        random.seed(seed)
        image = torch.zeros(1, *size)
        with recorded(random, ["uniform"]) as drawn:
            erase(image)
        rows, columns = image[0].nonzero().unbind(1)
        extent = None
        if len(rows):
            extent = [int(v) for v in (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1)]
        golden.add("erase", size=size, drawn=drawn, extent=extent)


def mixing(golden):
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 10, 14), torch.tensor([2, 0, 2, 4])
    golden.tensor("mix.images", images)
    for cutmix, lam, smoothing in ((False, 0.3, 0.1), (False, 0.85, 0.0), (True, 0.3, 0.1), (True, 0.75, 0.1)):
        mix = mixup.Mixup(0.8, 1.0, label_smoothing=smoothing, num_classes=5)
        np.random.seed(int(100 * lam))
        with mock.patch.object(mix, "_params_per_batch", lambda: (lam, cutmix)):
            with recorded(np.random, ["randint"]) as centre:
                mixed, targets = mix(images.clone(), labels)
        case = dict(labels=labels.tolist(), classes=5, smoothing=smoothing, cutmix=cutmix, lam=lam, centre=centre)
        golden.tensor(f"mix.{len(golden.cases.get('mix', []))}.targets", targets)
        golden.add("mix", mixed, **case)


def pipelines(golden, sources):
    """The evaluation protocol at a small scale."""
    steps = [transforms.Resize(24, InterpolationMode.BICUBIC), transforms.CenterCrop(21)]
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    golden.add("pipeline", transforms.Compose(steps)(sources["rgb"]), source="rgb", short=24, size=(21, 21))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden"), help="folder to write to")
    out = parser.parse_args().out

    rng = np.random.default_rng(0)
    rgb = scene(32, 40, rng)
    # A narrow range of values, so that stretching the contrast changes it.
    small = Image.fromarray((np.array(scene(*SMALL, rng)) * 0.7 + 20).astype(np.uint8))
    hues = Image.fromarray(rng.integers(0, 256, (*SMALL, 3)).astype(np.uint8))
    sources = {"rgb": rgb, "grey": rgb.convert("L"), "small": small, "small_grey": small.convert("L"), "hues": hues}
    golden = Golden()
    for name, image in sources.items():
        golden.image(f"source.{name}", image)
    resizes(golden, sources)
    crops(golden, sources)
    colours(golden, sources)
    rand_augment(golden, sources)
    erasing(golden)
    mixing(golden)
    pipelines(golden, sources)

    out.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(golden.tensors, str(out / "augment.safetensors"))
    lines = (f'"{kind}": [\n' + ",\n".join(map(json.dumps, cases)) + "\n]" for kind, cases in golden.cases.items())
    (out / "augment.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
