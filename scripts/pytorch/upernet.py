"""UperNet (arXiv:1807.10221) on a ViT as BEiT and MAE use it, in plain PyTorch: scale pyramid, pyramid pooling, feature
pyramid, fusion, and FCN's auxiliary head, with the parameter names of mmsegmentation."""

import torch
import torch.nn.functional as F
from torch import nn

from vit import OnBackbone


def resize(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Decoder(nn.Module):
    def __init__(self, width, channels, classes, scales=(1, 2, 3, 6)):
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(s), ConvModule(width, channels, 1)) for s in scales)
        self.bottleneck = ConvModule(width + len(scales) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1) for _ in range(3))
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in range(3))
        self.fpn_bottleneck = ConvModule(4 * channels, channels, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, levels):
        top = levels[-1]
        pooled = [resize(module(top), top.shape[2:]) for module in self.psp_modules]
        sums = [lateral(level) for lateral, level in zip(self.lateral_convs, levels)]
        sums.append(self.bottleneck(torch.cat([top, *pooled], 1)))
        for i in range(3, 0, -1):
            sums[i - 1] = sums[i - 1] + resize(sums[i], sums[i - 1].shape[2:])
        outs = [conv(x) for conv, x in zip(self.fpn_convs, sums)] + sums[3:]
        fused = torch.cat([outs[0], *(resize(x, outs[0].shape[2:]) for x in outs[1:])], 1)
        return self.conv_seg(self.dropout(self.fpn_bottleneck(fused)))


class Auxiliary(nn.Module):
    def __init__(self, width, channels, classes):
        super().__init__()
        self.convs = nn.Sequential(ConvModule(width, channels, 3))
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, x):
        return self.conv_seg(self.dropout(self.convs(x)))


class UperNet(OnBackbone):
    """A backbone (`vit.Vit` without final norm), of which four blocks are read."""

    def __init__(self, backbone, width, taps, channels, auxiliary, classes):
        super().__init__()
        self.backbone, self.taps = backbone, taps
        up = lambda: nn.ConvTranspose2d(width, width, 2, 2)
        self.fpn1 = nn.Sequential(up(), nn.BatchNorm2d(width), nn.GELU(), up())
        self.fpn2 = nn.Sequential(up())
        self.decode_head = Decoder(width, channels, classes)
        self.auxiliary_head = Auxiliary(width, auxiliary, classes)

    def levels(self, images):
        one, two, three, four = self.backbone.maps(images, self.taps)
        return [self.fpn1(one), self.fpn2(two), three, F.max_pool2d(four, 2)]

    def forward(self, images):
        """Logits at the resolution of the images. [B, K, H, W]"""
        return resize(self.decode_head(self.levels(images)), images.shape[2:])

    def loss(self, images, labels, ignore):
        """Cross-entropy over all pixels, ignored ones too, and 0.4 times that of the auxiliary head."""
        levels = self.levels(images)
        total = 0
        for logits, weight in [(self.decode_head(levels), 1.0), (self.auxiliary_head(levels[2]), 0.4)]:
            logits = resize(logits, labels.shape[1:])
            each = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")
            total = total + weight * each.mean()
        return total
