"""Mask R-CNN on the taps of a plain ViT, of torchvision's parts: what `benches/step/detection.rs` builds. Classes have no
deltas and no mask for the background, as in detectron2, so that both sides have the same parameters."""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import faster_rcnn, mask_rcnn, roi_heads, rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from vit import patchify

SIDE, CLASSES, OBJECTS, CHANNELS, BOX_WIDTH = 128, 20, 6, 128, 512
TAPS = [0, 2, 3, 5]


class BoxPredictor(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_score = nn.Linear(BOX_WIDTH, CLASSES + 1)
        self.bbox_pred = nn.Linear(BOX_WIDTH, 4 * CLASSES)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)

    def forward(self, x):
        return self.cls_score(x), F.pad(self.bbox_pred(x), (4, 0))


class MaskPredictor(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2)
        self.logits = nn.Conv2d(CHANNELS, CLASSES, 1)

    def forward(self, x):
        return F.pad(self.logits(F.relu(self.up(x))), (0, 0, 0, 0, 1, 0))


class Detector(nn.Module):
    def __init__(self, backbone, width):
        super().__init__()
        self.backbone = backbone
        up = lambda: nn.ConvTranspose2d(width, width, 2, 2)
        self.fpn1 = nn.Sequential(up(), nn.GELU(), up())
        self.fpn2 = up()
        self.fpn = FeaturePyramidNetwork([width] * 4, CHANNELS, LastLevelMaxPool())
        anchors = AnchorGenerator(tuple((s,) for s in (16, 32, 64, 96, 128)), ((0.5, 1.0, 2.0),) * 5)
        before, after = {"training": 500, "testing": 250}, {"training": 250, "testing": 250}
        self.rpn = rpn.RegionProposalNetwork(anchors, rpn.RPNHead(CHANNELS, 3, conv_depth=2), 0.7, 0.3, 256, 0.5, before, after, 0.7)
        pool = lambda side: MultiScaleRoIAlign(["0", "1", "2", "3"], side, sampling_ratio=0, canonical_scale=14 * backbone.patch * 2)
        box_head = faster_rcnn.FastRCNNConvFCHead((CHANNELS, 7, 7), [CHANNELS] * 2, [BOX_WIDTH])
        self.roi_heads = roi_heads.RoIHeads(
            pool(7), box_head, BoxPredictor(), 0.5, 0.5, 128, 0.25, None, 0.0, 0.5, 100,
            pool(14), mask_rcnn.MaskRCNNHeads(CHANNELS, [CHANNELS] * 2, 1), MaskPredictor(),
        )

    def levels(self, images):
        vit = self.backbone
        tokens = vit.patch_embed(patchify(images, vit.patch)) + vit.pos_embed[:, 1:]
        x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], 1)
        maps, side = [], SIDE // vit.patch
        for i, block in enumerate(vit.blocks):
            x = block(x)
            if i in TAPS:
                maps.append(x[:, 1:].transpose(1, 2).reshape(len(x), -1, side, side))
        scaled = [self.fpn1(maps[0]), self.fpn2(maps[1]), maps[2], F.max_pool2d(maps[3], 2)]
        levels = self.fpn({str(i): x for i, x in enumerate(scaled)})
        return {name: x.float() for name, x in levels.items()}  # RoIAlign and NMS know no bf16 on the CPU

    def loss(self, images, targets):
        sizes, levels = [(SIDE, SIDE)] * len(images), self.levels(images)
        proposals, of_proposals = self.rpn(ImageList(images, sizes), levels, targets)
        _, of_regions = self.roi_heads(levels, [p.float() for p in proposals], sizes, targets)
        return sum(of_proposals.values()) + sum(of_regions.values())

    def predict(self, images):
        sizes, levels = [(SIDE, SIDE)] * len(images), self.levels(images)
        proposals, _ = self.rpn(ImageList(images, sizes), levels)
        found, _ = self.roi_heads(levels, [p.float() for p in proposals], sizes)
        for result in found:
            masks = roi_heads.paste_masks_in_image(result["masks"].float(), result["boxes"].float(), (SIDE, SIDE))
            result["masks"] = masks >= 0.5
        return found

    def layer_of(self, name):
        parts = name.removeprefix("backbone.").split(".")
        if name.startswith("backbone.") and parts[0] in ("cls_token", "pos_embed", "patch_embed"):
            return 0
        return int(parts[1]) + 1 if parts[0] == "blocks" else self.backbone.depth + 1


def images(count, device):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)


def targets(count, device):
    """Boxes that differ in place and size; the mask of an object is its box."""
    out = []
    for image in range(count):
        boxes, masks = [], torch.zeros(OBJECTS, SIDE, SIDE, dtype=torch.uint8)
        for i in range(OBJECTS):
            w, h = 20 + 13 * i, 16 + 11 * ((i + image) % OBJECTS)
            x, y = 7 * i + 3 * image % 30, 5 * i + image % 20
            boxes.append([x, y, min(x + w, SIDE), min(y + h, SIDE)])
            masks[i, y : y + h, x : x + w] = 1
        labels = torch.tensor([(i + image) % CLASSES + 1 for i in range(OBJECTS)])
        target = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": labels, "masks": masks}
        out.append({key: value.to(device) for key, value in target.items()})
    return out
