#!/usr/bin/env python3
"""Makes tests/golden/segmentation.safetensors: UperNet of transformers, losses, sliding windows and mean IoU.

Needs torch, transformers, NumPy and safetensors. Weights are random and renamed to those of mmsegmentation, which the
program uses; inputs are random too.

upernet   UperNetForSemanticSegmentation on a BEiT backbone: logits in evaluation; losses, gradients and running
          statistics in training
beit      BeitForSemanticSegmentation: logits in evaluation
slide     mmsegmentation's slide_inference, rescaled to the source image, written out with torch
views     its aug_test, with views scaled from the image and probabilities averaged at its size
iou       mean IoU, mean accuracy and accuracy of pixels by NumPy, with and without reduce_zero_label
photo     PhotoMetricDistortion's colour conversions by OpenCV, when it is installed
"""
import argparse
import pathlib
import re

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import BeitConfig, BeitForSemanticSegmentation, UperNetConfig, UperNetForSemanticSegmentation

CLASSES = 5
IGNORE = 65535


def config(**options):
    return BeitConfig(
        hidden_size=8, num_hidden_layers=5, num_attention_heads=2, intermediate_size=32, image_size=48, patch_size=8,
        layer_scale_init_value=0.0, use_relative_position_bias=True, use_absolute_position_embeddings=True,
        layer_norm_eps=1e-6, drop_path_rate=0.0, num_labels=CLASSES, auxiliary_channels=6, **options)


def randomise(model):
    """Weights, norms and running statistics away from their initial values."""
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(value.shape)
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif value.dim() == 1 and name.endswith("weight"):
            value.copy_(1 + 0.2 * noise)
        elif value.dim() > 1:
            value.copy_(noise * 0.3 if value.dim() == 2 else noise * (value[0].numel() ** -0.5) * 1.5)
        else:
            value.copy_(0.2 * noise)


BLOCK = [
    ("attention.o_proj", "attn.proj"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
    ("relative_position_bias.relative_position_bias_table", "attn.relative_position_bias_table"),
]


def renamed(state):
    """Names of transformers to those of mmsegmentation and BEiT's code; queries, keys and values in one."""
    out = {}
    for name, value in state.items():
        name = re.sub(r"^(backbone\.)?(beit\.)?", "", name)
        if name.endswith("num_batches_tracked"):
            continue
        name = name.replace("embeddings.cls_token", "cls_token").replace("embeddings.position_embeddings", "pos_embed")
        name = name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        name = re.sub(r"^layers\.", "blocks.", name)
        for old, new in BLOCK:
            name = name.replace(old, new)
        for old, new in [("conv_transpose1", "0"), ("normalization", "1"), ("conv_transpose2", "3")]:
            name = re.sub(rf"^fpn\.fpn1\.{old}", f"fpn1.{new}", name)
        name = re.sub(r"^fpn\.fpn2\.", "fpn2.0.", name)
        name = re.sub(r"psp_modules\.blocks\.(\d)\.conv\.", r"psp_modules.\1.1.", name)
        name = name.replace("psp_bottleneck", "bottleneck").replace(".convolution.", ".conv.")
        name = name.replace(".batch_norm.", ".bn.").replace(".normalization.", ".bn.")
        name = name.replace("_head.classifier", "_head.conv_seg")
        out[name] = value.detach().clone()
    for i in range(5):
        block = f"blocks.{i}.attention."
        q, k, v = (out.pop(f"{block}{part}_proj.weight") for part in "qkv")
        out[f"blocks.{i}.attn.qkv.weight"] = torch.cat([q, k, v])
        q, v = out.pop(f"{block}q_proj.bias"), out.pop(f"{block}v_proj.bias")
        out[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    return out


def upernet(store):
    backbone = config(out_features=["stage1", "stage2", "stage3", "stage4"], add_fpn=True, reshape_hidden_states=True)
    model = UperNetForSemanticSegmentation(UperNetConfig(
        backbone_config=backbone, hidden_size=12, pool_scales=[1, 2, 3, 6], auxiliary_in_channels=8,
        auxiliary_channels=6, num_labels=CLASSES))
    randomise(model)
    for name, value in renamed(model.state_dict()).items():
        store[f"upernet.weights.{name}"] = value
    images = torch.randn(2, 3, 48, 48)
    store["upernet.images"] = images
    model.eval()
    with torch.no_grad():
        store["upernet.logits"] = model(images).logits  # at the size of the image
    labels = torch.randint(0, CLASSES, (2, 48, 48))
    labels[0, :20] = 255
    labels[1, :, 40:] = 255
    store["upernet.labels"] = torch.where(labels == 255, IGNORE, labels).to(torch.uint32)
    model.train()
    features = model.backbone(images).feature_maps
    logits, beside = model.decode_head(features), model.auxiliary_head(features)
    total = 0
    for name, x, weight in [("decode", logits, 1.0), ("auxiliary", beside, 0.4)]:
        x = F.interpolate(x, size=(48, 48), mode="bilinear", align_corners=False)
        each = F.cross_entropy(x, labels, ignore_index=255, reduction="none")
        store[f"upernet.{name}.all"] = weight * each.mean().detach()
        store[f"upernet.{name}.valid"] = weight * F.cross_entropy(x, labels, ignore_index=255).detach()
        total = total + weight * each.mean()
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None for name, g in gradients.items() if "layers.4" not in name), "a parameter without gradient"
    # Not what a norm takes away again, nor what is behind the norm of two values: their gradients are rounding alone.
    keep = ["blocks.0.attn.relative_position_bias_table", "pos_embed", "fpn1.1.weight", "fpn2.0.weight",
            "decode_head.psp_modules.1.1.conv.weight", "decode_head.psp_modules.3.1.bn.weight",
            "decode_head.lateral_convs.1.conv.weight", "decode_head.fpn_convs.2.conv.weight",
            "decode_head.fpn_bottleneck.bn.bias", "decode_head.conv_seg.weight", "auxiliary_head.convs.0.conv.weight",
            "auxiliary_head.conv_seg.bias"]
    found = renamed({**gradients, **{n: p for n, p in model.named_parameters() if gradients[n] is None}})
    for name in keep:
        store[f"upernet.gradient.{name}"] = found[name]
    after = renamed(model.state_dict())
    for name in ["fpn1.1.running_mean", "decode_head.psp_modules.1.1.bn.running_var"]:
        store[f"upernet.after.{name}"] = after[name]


def beit(store):
    model = BeitForSemanticSegmentation(config(out_indices=[2, 3, 4, 5]))  # 1 is the embedding
    randomise(model)
    for name, value in renamed(model.state_dict()).items():
        store[f"beit.weights.{name}"] = value
    images = torch.randn(1, 3, 48, 48)
    store["beit.images"] = images
    model.eval()
    with torch.no_grad():
        store["beit.logits"] = model(images).logits  # at a quarter of the size of a patch


def network(weight):
    """A convolution to logits at a quarter of the size: a stand-in for a whole model."""
    return lambda x: F.conv2d(x, weight, stride=4, padding=2)


def slide(net, image, window, stride):
    """mmsegmentation 0.x EncoderDecoder.slide_inference, before it is rescaled."""
    _, _, h, w = image.shape
    rows = max(h - window + stride - 1, 0) // stride + 1
    columns = max(w - window + stride - 1, 0) // stride + 1
    total, count = torch.zeros(1, CLASSES, h, w), torch.zeros(1, 1, h, w)
    for i in range(rows):
        for j in range(columns):
            y, x = min(i * stride + window, h), min(j * stride + window, w)
            top, left = max(y - window, 0), max(x - window, 0)
            part = image[:, :, top:y, left:x]
            logits = F.interpolate(net(part), size=part.shape[2:], mode="bilinear", align_corners=False)
            total[:, :, top:y, left:x] += logits
            count[:, :, top:y, left:x] += 1
    return total / count


def labels_of(values, size):
    values = F.interpolate(values, size=size, mode="bilinear", align_corners=False)
    best = values.topk(2, dim=1)
    margin = best.values[:, 0] - best.values[:, 1]
    return best.indices[0, 0].to(torch.uint8), margin[0]


def inference(store):
    weight = torch.randn(CLASSES, 3, 5, 5) * 0.3
    net = network(weight)
    image = F.interpolate(torch.randn(1, 3, 9, 12), size=(53, 70), mode="bicubic", align_corners=False)
    source = (131, 177)
    store["slide.weight"], store["slide.image"] = weight, image
    store["slide.labels"], store["slide.margin"] = labels_of(slide(net, image, 24, 16), source)
    total = 0
    for scale in [0.5, 1.0, 1.75]:
        size = tuple(int(side * scale + 0.5) for side in image.shape[2:])
        view = F.interpolate(image, size=size, mode="bilinear", align_corners=False) if scale != 1 else image
        for mirrored in [False, True]:
            logits = slide(net, view.flip(3) if mirrored else view, 24, 16)
            shares = (logits.flip(3) if mirrored else logits).softmax(1)
            total = total + F.interpolate(shares, size=image.shape[2:], mode="bilinear", align_corners=False)
    store["views.labels"], store["views.margin"] = labels_of(total, source)


def iou(store):
    rng = np.random.default_rng(5)
    for case, reduce_zero_label in [("plain", False), ("reduced", True)]:
        truth = rng.integers(0, CLASSES + reduce_zero_label, (6, 11, 13))
        truth[truth == 3] = 2  # a class that is never annotated
        predicted = np.where(rng.random(truth.shape) < 0.6, truth - reduce_zero_label, rng.integers(0, CLASSES, truth.shape))
        predicted = np.clip(predicted, 0, CLASSES - 1)
        truth[rng.random(truth.shape) < 0.05] = 255
        store[f"iou.{case}.truth"] = torch.tensor(truth.astype(np.uint8))
        store[f"iou.{case}.predicted"] = torch.tensor(predicted.astype(np.uint8))
        if reduce_zero_label:  # mmsegmentation's LoadAnnotations
            truth = truth.astype(np.uint8)
            truth[truth == 0] = 255
            truth = truth - 1
            truth[truth == 254] = 255
        valid = truth != 255
        truth, predicted = truth[valid], predicted[valid]
        count = lambda values: np.array([(values == k).sum() for k in range(CLASSES)], float)
        right = count(predicted[predicted == truth])
        with np.errstate(invalid="ignore", divide="ignore"):
            union = count(predicted) + count(truth) - right
            scores = [np.nanmean(right / union), np.nanmean(right / count(truth)), right.sum() / count(truth).sum()]
        store[f"iou.{case}.scores"] = torch.tensor(100 * np.array(scores), dtype=torch.float64)


def photo(store):
    import cv2
    rgb = np.random.default_rng(6).integers(0, 256, (40, 50, 3), np.uint8)
    rgb[0, :, 1] = rgb[0, :, 0]
    rgb[1] = rgb[1, :, :1]
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    store["photo.rgb"], store["photo.hsv"] = torch.tensor(rgb), torch.tensor(hsv)
    store["photo.back"] = torch.tensor(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    turned = hsv.copy()
    turned[..., 0] = (turned[..., 0].astype(int) + 13) % 180
    store["photo.hue"] = torch.tensor(cv2.cvtColor(turned, cv2.COLOR_HSV2RGB))
    faded = hsv.copy()
    faded[..., 1] = np.clip(faded[..., 1].astype(np.float32) * 1.3, 0, 255).astype(np.uint8)
    store["photo.saturation"] = torch.tensor(cv2.cvtColor(faded, cv2.COLOR_HSV2RGB))
    levels = np.clip(rgb.astype(np.float32) * 1.2 - 9.5, 0, 255).astype(np.uint8)
    store["photo.levels"] = torch.tensor(levels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = pathlib.Path(__file__).parent.parent.parent / "tests" / "golden" / "segmentation.safetensors"
    parser.add_argument("--out", type=pathlib.Path, default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    store = {}
    for make in [upernet, beit, inference, iou, photo]:
        make(store)
    save_file({name: value.contiguous() for name, value in store.items()}, args.out)
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
