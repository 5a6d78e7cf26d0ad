#!/usr/bin/env python3
"""Makes tests/golden/detection.safetensors: a small Mask R-CNN of torchvision's parts, on the CPU in f32.

Where torchvision is not what Li et al. (arXiv:2111.11429) and detectron2 do, it is changed here:
- anchors are not rounded to pixels;
- RoIAlign is aligned, with adaptive sampling, and regions of 14 patches belong to the third level;
- losses of boxes are L1 (torchvision: smooth L1 with beta 1/9);
- the losses of proposals are divided by the samples asked for times images (torchvision: by those that were drawn);
- masks are pasted by `grid_sample`, detectron2's rule;
- the background is the last class in the weights that are written, as in detectron2; here it is the first.
Everything is sampled, so that no random number decides.

    python3 scripts/golden/detection.py
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection import faster_rcnn, mask_rcnn, roi_heads, rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

WIDTH, CHANNELS, CLASSES, BOX_WIDTH = 8, 8, 3, 16
GRID, PATCH, IMAGE = 8, 8, 64
SIZES, RATIOS = (6.0, 12.0, 24.0, 40.0, 60.0), (0.5, 1.0, 2.0)
VALID = [(64, 64), (48, 56)]  # height and width of the image in each input
EVERYTHING = 1_000_000
SEED = 2
OBJECTS = [
    (torch.tensor([[4.0, 6.0, 30.0, 28.0], [20.0, 25.0, 60.0, 62.0], [40.0, 3.0, 46.0, 12.0]]), torch.tensor([1, 3, 2])),
    (torch.tensor([[2.5, 3.5, 50.0, 40.25]]), torch.tensor([2])),
]


def l1(input, target, beta=0.0, reduction="mean"):
    return F.l1_loss(input, target, reduction=reduction)


rpn.F.smooth_l1_loss = l1  # the module that both use


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        up = lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)
        self.fpn1 = nn.Sequential(up(), nn.GroupNorm(8, WIDTH), nn.GELU(), up())
        self.fpn2 = nn.Sequential(up())

    def forward(self, maps):
        return {str(i): x for i, x in enumerate([self.fpn1(maps[0]), self.fpn2(maps[1]), maps[2], F.max_pool2d(maps[3], 2)])}


class Pooler(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, features, boxes, image_shapes):
        levels = list(features.values())[:4]
        rois = torch.cat([torch.cat([torch.full((len(b), 1), float(i)), b], 1) for i, b in enumerate(boxes)])
        area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
        level = (2 + torch.log2(area.sqrt() / (14 * PATCH) + 1e-8)).floor().clamp(0, 3)
        out = torch.zeros(len(rois), CHANNELS, self.side, self.side)
        for i, x in enumerate(levels):
            of = torch.where(level == i)[0]
            if len(of):
                pooled = roi_align(x, rois[of], self.side, 4 / PATCH / 2**i, sampling_ratio=0, aligned=True)
                out = out.index_copy(0, of, pooled)
        return out


class Anchors(AnchorGenerator):
    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device="cpu"):
        boxes = []
        for ratio in aspect_ratios:
            w = (scales[0] ** 2 / ratio) ** 0.5
            h = ratio * w
            boxes.append([-w / 2, -h / 2, w / 2, h / 2])
        return torch.tensor(boxes, dtype=dtype, device=device)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.pyramid = Pyramid()
        self.fpn = FeaturePyramidNetwork([WIDTH] * 4, CHANNELS, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d)
        anchors = Anchors(tuple((s,) for s in SIZES), (RATIOS,) * 5)
        counts = lambda train, test: {"training": train, "testing": test}
        self.rpn = rpn.RegionProposalNetwork(
            anchors, rpn.RPNHead(CHANNELS, len(RATIOS), conv_depth=2), 0.7, 0.3, EVERYTHING, 0.5, counts(300, 30), counts(250, 50), 0.7
        )
        norm = nn.BatchNorm2d
        box_head = faster_rcnn.FastRCNNConvFCHead((CHANNELS, 7, 7), [CHANNELS] * 2, [BOX_WIDTH], norm_layer=norm)
        self.roi_heads = roi_heads.RoIHeads(
            Pooler(7), box_head, faster_rcnn.FastRCNNPredictor(BOX_WIDTH, CLASSES + 1), 0.5, 0.5, EVERYTHING, 1.0, None, 0.05, 0.5, 20,
            Pooler(14), mask_rcnn.MaskRCNNHeads(CHANNELS, [CHANNELS] * 2, 1, norm_layer=norm), mask_rcnn.MaskRCNNPredictor(CHANNELS, CHANNELS, CLASSES + 1),
        )

    def levels(self, maps):
        return self.fpn(self.pyramid(maps))


def written(name, value):
    """Weights as ours: background last, no deltas and no mask for it."""
    if "cls_score" in name:
        return torch.cat([value[1:], value[:1]])
    if "bbox_pred" in name and name.startswith("roi_heads"):
        return value[4:]
    return value[1:] if "mask_fcn_logits" in name else value


def pattern():
    """A mask that does not depend on its region."""
    i = torch.arange(28)
    return ((i[:, None] * 7 + i * 3) % 5 < 2).float()


def paste(mask, box, height, width):
    """detectron2's `_do_paste_mask` over the whole image."""
    x0, y0, x1, y1 = box
    y = (torch.arange(height) + 0.5 - y0) / (y1 - y0) * 2 - 1
    x = (torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)], -1)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]


def stored(value):
    value = value.detach()
    return (value if value.dtype == torch.uint8 else value.float()).contiguous().clone()


def main():
    torch.manual_seed(SEED)
    model, golden = Detector(), {}
    for name, p in model.named_parameters():
        spread = 0.2 if "rpn.head.bbox" in name or "rpn.head.cls" in name or "box_predictor.bbox" in name else 1.0
        fan = max(1, p[0].numel()) if p.dim() > 1 else 4
        nn.init.normal_(p, std=spread * (2 / fan) ** 0.5)
        if p.dim() == 1 and name.endswith("weight"):
            nn.init.uniform_(p, 0.5, 1.5)
    nn.init.constant_(model.roi_heads.mask_predictor.mask_fcn_logits.bias, 2.0)  # masks of many pixels
    for name, b in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(b, std=0.1)
        if name.endswith("running_var"):
            nn.init.uniform_(b, 0.5, 1.5)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if "num_batches" not in name:
            golden[f"weights.{name}"] = written(name, value.detach().clone())  # running statistics move later

    taps = [torch.randn(2, GRID * GRID, WIDTH) for _ in range(4)]
    golden |= {f"taps.{i}": tap for i, tap in enumerate(taps)}
    maps = [tap.transpose(1, 2).reshape(2, WIDTH, GRID, GRID) for tap in taps]
    images = ImageList(torch.zeros(2, 3, IMAGE, IMAGE), VALID)
    targets = [{"boxes": boxes, "labels": labels, "masks": None} for boxes, labels in OBJECTS]
    for i, (boxes, labels) in enumerate(OBJECTS):
        golden |= {f"objects.{i}": boxes, f"labels.{i}": (labels - 1).float()}

    model.eval()
    with torch.no_grad():
        levels = model.levels(maps)
        golden |= {f"levels.{i}": x for i, x in enumerate(levels.values())}
        logits, deltas = model.rpn.head(list(levels.values()))
        logits, deltas = rpn.concat_box_prediction_layers(logits, deltas)
        golden["rpn"] = torch.cat([logits, deltas], 1)[::7]
        golden["anchors"] = model.rpn.anchor_generator(images, list(levels.values()))[0]
        proposals, _ = model.rpn(images, levels)
        for i, boxes in enumerate(proposals):
            golden[f"proposals.{i}"] = boxes
        found, _ = model.roi_heads(levels, proposals, VALID)
        for i, result in enumerate(found):
            golden[f"found.{i}"] = torch.cat([result["boxes"], result["scores"][:, None], result["labels"][:, None] - 1.0], 1)
            golden[f"masks.{i}"] = result["masks"].flatten(1)
        result = found[1]
        pasted = [paste(m[0], b, 48, 56) for m, b in zip(result["masks"], result["boxes"])]
        golden["pasted.1"] = (torch.stack(pasted) >= 0.5).byte()

    model.train()
    levels = model.levels(maps)
    values = list(levels.values())
    anchors = model.rpn.anchor_generator(images, values)
    logits, deltas = rpn.concat_box_prediction_layers(*model.rpn.head(values))
    labels, matched = model.rpn.assign_targets_to_anchors(anchors, targets)
    wanted = model.rpn.box_coder.encode(matched, anchors)
    rpn_cls, rpn_box = model.rpn.compute_loss(logits, deltas, labels, wanted)
    drawn, asked = sum(int((x >= 0).sum()) for x in labels), 2 * len(anchors[0])
    rpn_cls, rpn_box = rpn_cls * drawn / asked, rpn_box * drawn / asked
    golden |= {f"matches.{i}": (x + 1).byte() for i, x in enumerate(labels)}
    golden["encoded"] = torch.cat(wanted)[torch.cat(labels) > 0]
    boxes = model.rpn.box_coder.decode(deltas.detach(), anchors).view(2, -1, 4)
    boxes, _ = model.rpn.filter_proposals(boxes, logits.detach(), VALID, [3 * x.shape[2] * x.shape[3] for x in values])
    regions, matched, labels, wanted = model.roi_heads.select_training_samples([b for b in boxes], targets)
    golden |= {f"regions.{i}": torch.cat([b, l[:, None] - 1.0], 1) for i, (b, l) in enumerate(zip(regions, labels))}
    x = model.roi_heads.box_head(model.roi_heads.box_roi_pool(levels, regions, VALID))
    cls, box = roi_heads.fastrcnn_loss(*model.roi_heads.box_predictor(x), labels, wanted)
    positive = [b[l > 0] for b, l in zip(regions, labels)]
    x = model.roi_heads.mask_roi_pool(levels, positive, VALID)
    logits = model.roi_heads.mask_predictor(model.roi_heads.mask_head(x))
    of = torch.cat([l[l > 0] for l in labels])
    logits = logits[torch.arange(len(of)), of]
    mask = F.binary_cross_entropy_with_logits(logits, pattern().expand_as(logits))
    losses = torch.stack([rpn_cls, rpn_box, cls, box, mask])
    golden["losses"] = losses
    losses.sum().backward()
    for name, p in model.named_parameters():
        golden[f"gradient.{name}"] = written(name, p.grad)

    path = pathlib.Path(__file__).parents[2] / "tests/golden/detection.safetensors"
    save_file({name: stored(value) for name, value in golden.items()}, path)
    path.chmod(0o644)
    print(f"{path}: {len(golden)} tensors, {path.stat().st_size} bytes; losses {losses.tolist()}")
    print("found", [len(f["boxes"]) for f in found], "regions", [len(b) for b in regions], "positive", [len(b) for b in positive])


if __name__ == "__main__":
    main()
