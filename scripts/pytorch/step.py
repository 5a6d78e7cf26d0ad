#!/usr/bin/env python3
"""Milliseconds of training steps, forward passes and operators in PyTorch: the other side of scripts/compare_pytorch.

  step.py --list                                        the cases with their variants, and versions, as JSON
  step.py --case mae_vit_s16 --variant bf16             one measurement, as a line of JSON
  step.py --make-images DIR                             the JPEG files of the case `loader`

Variants: f32, bf16 (autocast), and either of them compiled (`torch.compile`); all with fused attention
(`scaled_dot_product_attention`) and fused AdamW. The loader is Pillow and torchvision in one thread.
"""

import argparse
import json
import pathlib
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import detector
import training
import upernet
import vit
from training import VARIANTS

WARMUP = 2
TRAIN, FORWARD, CLASSES = 8, 16, 1000
SIZES = {"vit_s16": (384, 12, 6), "vit_b16": (768, 12, 12), "vit_l16": (1024, 24, 16)}  # width, depth, heads


class Case:
    """`step()` is what is measured; it works on `images` images."""

    def __init__(self, step, images, model=None):
        self.step, self.images = step, images
        self.parameters, self.trainable = training.count_parameters(model) if model else (0, 0)


class Variant(training.Variant):
    """With the number of images of a step, where it is asked for."""

    def __init__(self, name, device, batch):
        super().__init__(name, device)
        self.batch = batch


def images(count, device, side=224):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)


def labels(count, device):
    return torch.arange(count, device=device) * 61 % CLASSES


def train(variant, model, loss, groups, betas, count):
    trainer, loss = training.Trainer(variant, model, groups, betas), variant.prepare(loss)
    return Case(lambda: trainer.step(loss), count, model)


def mae(name, variant):
    width, depth, heads = SIZES[name]
    model = vit.MaskedAutoencoder(vit.Vit(width, depth, heads), width).to(variant.device)
    count = variant.batch or TRAIN
    batch = images(count, variant.device)
    return train(variant, model, lambda: model(batch), training.decay_groups(model, 1.5e-4, 0.05), (0.9, 0.95), count)


def finetune(name, variant):
    width, depth, heads = SIZES[name]
    backbone = vit.Vit(width, depth, heads, drop_path=0.1, final_norm=False)
    model = vit.Classifier(backbone, width, CLASSES).to(variant.device)
    count = variant.batch or TRAIN
    batch, target = images(count, variant.device), labels(count, variant.device)
    groups = training.layer_groups(model, 5e-4, 0.65, 0.05, ("pos_embed", "cls_token"))
    loss = lambda: F.cross_entropy(model(batch), target, label_smoothing=0.1)
    return train(variant, model, loss, groups, (0.9, 0.999), count)


def linear_probe_forward(name, variant):
    width, depth, heads = SIZES[name]
    model = vit.Probe(vit.Vit(width, depth, heads), width, CLASSES).to(variant.device)
    batch, target = images(variant.batch or FORWARD, variant.device), labels(variant.batch or FORWARD, variant.device)
    loss = variant.prepare(lambda: F.cross_entropy(model(batch), target))

    def step():
        with variant.autocast():
            loss().item()

    return Case(step, variant.batch or FORWARD, model)


def evaluate(name, variant):
    width, depth, heads = SIZES[name]
    model = vit.Classifier(vit.Vit(width, depth, heads, final_norm=False), width, CLASSES)
    model = model.to(variant.device).eval()
    batch = images(variant.batch or FORWARD, variant.device)
    predict = variant.prepare(lambda: model(batch))

    def step():
        with torch.inference_mode(), variant.autocast():
            predict().float().cpu()

    return Case(step, variant.batch or FORWARD, model)


def operator(variant, count, function, inputs):
    """Forward and backward of `function`, from a gradient of ones."""
    inputs = [x.to(variant.device).requires_grad_() for x in inputs]
    function = variant.prepare(function)

    def step():
        with variant.autocast():
            y = function(*inputs)
        y.backward(torch.ones_like(y))
        for x in inputs:
            x.grad = None
        variant.synchronize()

    return Case(step, count)


def attention(variant):
    return operator(variant, 8, lambda qkv: vit.attention(qkv, 12), [torch.randn(8, 197, 3 * 12 * 64)])


def conv_head(variant):
    """The four 3×3 convolutions of a Mask R-CNN head, 256 wide, on one map of 64×64."""
    return convolutions(variant, [(256, 256)] * 4)


def upernet_fusion(variant):
    """The 3×3 convolution that fuses the four levels of UPerNet, 768 wide each, on one map of 64×64."""
    return convolutions(variant, [(4 * 768, 768)])


def convolutions(variant, channels):
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1) for inputs, outputs in channels]
    model = nn.Sequential(*layers).to(variant.device)
    case = operator(variant, 1, model, [torch.randn(1, channels[0][0], 64, 64)])
    step = case.step

    def with_parameters():
        step()
        model.zero_grad(set_to_none=True)

    return Case(with_parameters, 1, model)


def loader(folder):
    import PIL.Image
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    torch.set_num_threads(1)
    files = sorted(pathlib.Path(folder).iterdir())
    transform = transforms.Compose([
        transforms.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            with open(files[index], "rb") as file:
                return transform(PIL.Image.open(file).convert("RGB"))

    batches = torch.utils.data.DataLoader(Files(), batch_size=len(files), shuffle=True)
    return Case(lambda: next(iter(batches)), len(files))


def make_images(folder, count=64, size=(500, 375)):
    """Photo-like pictures: noise whose power falls with the square of the frequency, in correlated colours."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    for i in range(count):
        rng = np.random.default_rng(i)
        planes = []
        for _ in range(3):
            spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
            spectrum[0, 0] = 0
            plane = np.fft.irfft2(spectrum, (height, width))
            planes.append(plane / plane.std())
        grey, tints = planes[0], planes[1:]
        colours = [grey + 0.3 * tints[0], grey, grey + 0.3 * tints[1]]
        pixels = 118 + 55 * np.stack(colours, -1) + rng.normal(0, 2, (height, width, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03}.jpg", quality=90)


SMALL_HEADS = detector.Sizes(
    classes=20,
    channels=128,
    pyramid_norm="none",
    fpn_norm="none",
    head_norm="none",
    anchor_sizes=(16, 32, 64, 96, 128),
    before_nms=(500, 250),
    proposals=250,
    regions=128,
    box_convs=2,
    box_width=512,
    mask_convs=2,
    score_threshold=0.0,  # whatever its weights, the model finds as many boxes as may be
)


def small_detector(variant):
    """Mask R-CNN on a ViT of 192 channels and 6 blocks, images of 128 pixels, 20 classes."""
    backbone = vit.Vit(192, 6, 3, patch=8, image=128, final_norm=False)
    return detector.Detector(backbone, 192, SMALL_HEADS).to(variant.device)


def detection(variant):
    return train_detector(variant, small_detector(variant), 128, SMALL_HEADS, 0.8)


def detection_1024(variant):
    """The recipe `maskrcnn` (arXiv:2111.11429): ViT-B/16 with windows and relative positions at 1024 pixels, 80 classes."""
    width, depth, heads = SIZES["vit_b16"]
    backbone = vit.Vit(width, depth, heads, image=1024, drop_path=0.1, final_norm=False, positions="shared", window=14)
    sizes = detector.Sizes()
    return train_detector(variant, detector.Detector(backbone, width, sizes).to(variant.device), 1024, sizes, 1.0)


def train_detector(variant, model, side, sizes, layer_decay):
    model, count = model.train(), variant.batch or 2
    batch = images(count, variant.device, side)
    targets = detector.targets(count, side, sizes.classes, variant.device)
    groups = training.layer_groups(model, 5e-4, layer_decay, 0.1)
    return train(variant, model, lambda: model.loss(batch, targets), groups, (0.9, 0.999), count)


def detection_predict(variant):
    model, count = small_detector(variant).eval(), variant.batch or 4
    batch = images(count, variant.device, 128)
    predict = variant.prepare(lambda: model.predict(batch))

    def step():
        with torch.inference_mode(), variant.autocast():
            found = predict()
        if any(len(result["boxes"]) != 100 for result in found):
            raise ValueError("an image has fewer than 100 detections")

    return Case(step, count, model)


def segmentation(variant):
    """UperNet on a ViT of 192 channels and 6 blocks, images of 192 pixels, 11 classes."""
    backbone = vit.Vit(192, 6, 3, image=192, drop_path=0.1, final_norm=False)
    model = upernet.UperNet(backbone, 192, vit.quarters(6), 48, 24, 11)
    return train_segmenter(variant, model, 192, 11, TRAIN, 0.75)


def segmentation_512(variant):
    """The recipe `upernet` (arXiv:2111.06377): ViT-B/16 with relative positions at 512 pixels, 150 classes."""
    width, depth, heads = SIZES["vit_b16"]
    backbone = vit.Vit(width, depth, heads, image=512, drop_path=0.1, final_norm=False, positions="per_block")
    model = upernet.UperNet(backbone, width, [3, 5, 7, 11], width, 256, 150)
    return train_segmenter(variant, model, 512, 150, 4, 0.65)


def train_segmenter(variant, model, side, classes, count, layer_decay):
    model, count = model.to(variant.device), variant.batch or count
    batch, at = images(count, variant.device, side), torch.arange(side * side)
    target = torch.stack([(at // 7 + at // side // 5 + i) % classes for i in range(count)])
    target = target.view(count, side, side).to(variant.device)
    groups = training.layer_groups(model, 1e-3, layer_decay, 0.05)
    return train(variant, model, lambda: model.loss(batch, target, 255), groups, (0.9, 0.999), count)


CASES = {
    "mae_vit_s16": lambda variant: mae("vit_s16", variant),
    "mae_vit_b16": lambda variant: mae("vit_b16", variant),
    "mae_vit_l16": lambda variant: mae("vit_l16", variant),
    "finetune_vit_b16": lambda variant: finetune("vit_b16", variant),
    "linear_probe_forward": lambda variant: linear_probe_forward("vit_b16", variant),
    "eval_vit_b16": lambda variant: evaluate("vit_b16", variant),
    "maskrcnn_vit_mini8": detection,
    "maskrcnn_vit_mini8_predict": detection_predict,
    "maskrcnn_vit_b16_1024": detection_1024,
    "upernet_vit_mini16": segmentation,
    "upernet_vit_b16_512": segmentation_512,
    "attention": attention,
    "conv_head": conv_head,
    "upernet_fusion": upernet_fusion,
    "loader": None,
}


def measure(case, steps, seconds):
    """Milliseconds of each step."""
    for _ in range(WARMUP):
        case.step()
    began, ms = time.perf_counter(), []
    while len(ms) < steps or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        case.step()
        ms.append((time.perf_counter() - start) * 1e3)
    return ms


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--variant", choices=VARIANTS, default="f32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="images of a step (default 8 in training, 16 in forward passes)")
    parser.add_argument("--steps", type=int, default=3, help="measure at least so many steps")
    parser.add_argument("--seconds", type=float, default=3, help="measure at least so many seconds")
    parser.add_argument("--images", type=pathlib.Path, help="folder of JPEG files for the case `loader`")
    parser.add_argument("--list", action="store_true", help="cases with their variants, and versions, as JSON")
    parser.add_argument("--make-images", type=pathlib.Path, metavar="DIR")
    args = parser.parse_args()
    if args.make_images:
        return make_images(args.make_images)
    if args.list:
        import PIL
        import torchvision

        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
        variants = {name: ["f32"] if name == "loader" else VARIANTS for name in CASES}
        return print(json.dumps({"versions": versions, "cases": variants}))
    if not args.case:
        parser.error("--case, --list or --make-images is needed")
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    training.ieee_f32()
    variant = Variant(args.variant, args.device, args.batch)
    case = loader(args.images) if args.case == "loader" else CASES[args.case](variant)
    ms = measure(case, args.steps, args.seconds)
    line = {"case": args.case, "variant": args.variant, "threads": torch.get_num_threads(), "images": case.images}
    device_mb = torch.cuda.max_memory_allocated() / 2**20 if args.device == "cuda" else None
    sizes = {"parameters": case.parameters, "trainable": case.trainable}
    print(json.dumps(line | sizes | {"ms": ms, "device_mb": device_mb}))


if __name__ == "__main__":
    sys.exit(main())
