"""Mask R-CNN on the taps of a plain ViT, of torchvision's parts: what our kind `detection` builds. Classes have no deltas and
no mask for the background, as in detectron2, so that both sides have the same parameters; new layers have the initial values of
detectron2. The losses of boxes are torchvision's smooth L1 (β = 1/9) unless `set_box_loss` takes L1, as ours and detectron2's are."""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.detection import faster_rcnn, mask_rcnn, roi_heads, rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from vit import OnBackbone, quarters

NORMS = {
    "none": None,
    "batch": nn.BatchNorm2d,
    "group": functools.partial(nn.GroupNorm, 32),
    "layer": functools.partial(LayerNorm2d, eps=1e-6),
}
OBJECTS = 6  # of an image of `targets`
BOX_LOSSES = ("l1", "smooth_l1")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The table `[transfer.head]` of our recipes; these values are the defaults of detectron2 and of Li et al."""

    classes: int = 80
    channels: int = 256
    pyramid_norm: str = "group"
    fpn_norm: str = "batch"
    head_norm: str = "batch"
    taps: tuple | None = None  # the last block of each quarter if None
    anchor_sizes: tuple = (32, 64, 128, 256, 512)
    anchor_ratios: tuple = (0.5, 1.0, 2.0)
    rpn_convs: int = 2
    anchors: int = 256
    before_nms: tuple = (2000, 1000)  # in training and in evaluation
    proposals: int = 1000
    regions: int = 512
    regions_positive: float = 0.25
    box_convs: int = 4
    box_width: int = 1024
    mask_convs: int = 4
    score_threshold: float = 0.05
    detections: int = 100

    @classmethod
    def of(cls, head, patch, **others):
        """Those of a table `[transfer.head]` for patches of `patch` pixels. `others` are not in the table."""
        head = dict(head)
        if head.pop("pyramid", "taps") != "taps":
            raise ValueError("only pyramids of taps are supported here")
        before = tuple(head.pop(f"proposals_before_nms{end}", n) for end, n in zip(("", "_test"), cls.before_nms))
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in head.items()}
        values.setdefault("anchor_sizes", tuple(2 * patch * 2**level for level in range(5)))
        unknown = values.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"not supported here: transfer.head.{', '.join(sorted(unknown))}")
        return cls(before_nms=before, **values, **others)


class WithL1:
    """torch.nn.functional with L1 in the place of smooth L1, for those modules of torchvision that name no other loss."""

    def __getattr__(self, name):
        return getattr(F, name)

    @staticmethod
    def smooth_l1_loss(input, target, beta, reduction):
        return F.l1_loss(input, target, reduction=reduction)


def set_box_loss(name):
    """Chooses one of `BOX_LOSSES` for the boxes of the proposals and of the regions, in all detectors of this process."""
    rpn.F = roi_heads.F = {"l1": WithL1(), "smooth_l1": F}[name]


class BoxPredictor(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.cls_score = nn.Linear(width, classes + 1)
        self.bbox_pred = nn.Linear(width, 4 * classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias), nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        return self.cls_score(x), F.pad(self.bbox_pred(x), (4, 0))


class MaskPredictor(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.logits = nn.Conv2d(channels, classes, 1)
        nn.init.kaiming_normal_(self.up.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.logits.weight, std=0.001)
        nn.init.zeros_(self.up.bias), nn.init.zeros_(self.logits.bias)

    def forward(self, x):
        return F.pad(self.logits(F.relu(self.up(x))), (0, 0, 0, 0, 1, 0))


class Detector(OnBackbone):
    """A backbone (`vit.Vit` without final norm) for images of one size, with heads of these `sizes`. A `frozen` backbone does
    not learn and is always in evaluation mode."""

    def __init__(self, backbone, width, sizes, frozen=False):
        super().__init__()
        self.backbone, self.frozen = backbone.requires_grad_(not frozen), frozen
        self.taps = list(sizes.taps or quarters(backbone.depth))
        channels, norm, between = sizes.channels, NORMS[sizes.head_norm], NORMS[sizes.pyramid_norm]
        up = lambda: nn.ConvTranspose2d(width, width, 2, 2)
        self.fpn1 = nn.Sequential(up(), between(width) if between else nn.Identity(), nn.GELU(), up())
        self.fpn2 = up()
        self.fpn = FeaturePyramidNetwork([width] * 4, channels, LastLevelMaxPool(), NORMS[sizes.fpn_norm])
        anchors = AnchorGenerator(tuple((s,) for s in sizes.anchor_sizes), (sizes.anchor_ratios,) * 5)
        before, after = (dict(zip(("training", "testing"), n)) for n in (sizes.before_nms, (sizes.proposals,) * 2))
        self.rpn = rpn.RegionProposalNetwork(
            anchors,
            rpn.RPNHead(channels, len(sizes.anchor_ratios), sizes.rpn_convs),
            0.7, 0.3, sizes.anchors, 0.5, before, after, 0.7,
        )
        pool = lambda side: MultiScaleRoIAlign(["0", "1", "2", "3"], side, sampling_ratio=0)
        self.roi_heads = roi_heads.RoIHeads(
            pool(7),
            faster_rcnn.FastRCNNConvFCHead((channels, 7, 7), [channels] * sizes.box_convs, [sizes.box_width], norm),
            BoxPredictor(sizes.box_width, sizes.classes),
            0.5, 0.5, sizes.regions, sizes.regions_positive, None, sizes.score_threshold, 0.5, sizes.detections,
            pool(14),
            mask_rcnn.MaskRCNNHeads(channels, [channels] * sizes.mask_convs, 1, norm),
            MaskPredictor(channels, sizes.classes),
        )
        wide = self.roi_heads.box_head[sizes.box_convs + 1]
        nn.init.kaiming_uniform_(wide.weight, a=1), nn.init.zeros_(wide.bias)

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def levels(self, images):
        one, two, three, four = self.backbone.maps(images, self.taps)
        scaled = [self.fpn1(one), self.fpn2(two), three, F.max_pool2d(four, 2)]
        levels = self.fpn({str(i): x for i, x in enumerate(scaled)})
        return {name: x.float() for name, x in levels.items()}  # RoIAlign and NMS know no bf16 on the CPU

    def loss(self, images, targets):
        sizes, levels = [tuple(images.shape[2:])] * len(images), self.levels(images)
        proposals, of_proposals = self.rpn(ImageList(images, sizes), levels, targets)
        _, of_regions = self.roi_heads(levels, [p.float() for p in proposals], sizes, targets)
        return sum(of_proposals.values()) + sum(of_regions.values())

    def predict(self, images, sources=None):
        """Boxes and masks, at the resolution of the `sources` if they are given: a scale and (height, width) for each image."""
        sizes, levels = [tuple(images.shape[2:])] * len(images), self.levels(images)
        proposals, _ = self.rpn(ImageList(images, sizes), levels)
        found, _ = self.roi_heads(levels, [p.float() for p in proposals], sizes)
        for result, (scale, size) in zip(found, sources or [(1.0, sizes[0])] * len(images)):
            result["boxes"] = result["boxes"].float() / scale
            masks = roi_heads.paste_masks_in_image(result["masks"].float(), result["boxes"], size)
            result["masks"] = masks >= 0.5
        return found


def targets(count, side, classes, device):
    """Boxes that differ in place and size, of six objects an image; the mask of an object is its box."""
    out = []
    for image in range(count):
        boxes, masks = [], torch.zeros(OBJECTS, side, side, dtype=torch.uint8)
        for i in range(OBJECTS):
            w, h = 20 + 13 * i, 16 + 11 * ((i + image) % OBJECTS)
            x, y = 7 * i + 3 * image % 30, 5 * i + image % 20
            x, y, w, h = (value * side // 128 for value in (x, y, w, h))
            boxes.append([x, y, min(x + w, side), min(y + h, side)])
            masks[i, y : y + h, x : x + w] = 1
        labels = torch.tensor([(i + image) % classes + 1 for i in range(OBJECTS)])
        target = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": labels, "masks": masks}
        out.append({key: value.to(device) for key, value in target.items()})
    return out
