"""ViT (arXiv:2010.11929) and masked autoencoder (arXiv:2111.06377) in plain PyTorch, with the parameter names of
facebookresearch/mae. Attention is `F.scaled_dot_product_attention`; only visible patches are embedded."""

import math

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-6


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):  # [B, N, C]
        return self.proj(attention(self.qkv(x), self.heads))


def attention(qkv, heads):
    """[B, N, 3·C] -> [B, N, C]."""
    b, n, c3 = qkv.shape
    q, k, v = qkv.view(b, n, 3, heads, c3 // 3 // heads).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c3 // 3)


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


def drop_path(x, rate, training):
    """Stochastic depth, per sample."""
    if rate == 0 or not training:
        return x
    keep = 1 - rate
    return x * (torch.empty(x.shape[0], 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep) / keep)


class Block(nn.Module):
    def __init__(self, width, heads, drop_path=0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, 4 * width)
        self.drop_path = drop_path

    def forward(self, x):
        x = x + drop_path(self.attn(self.norm1(x)), self.drop_path, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, self.training)


class PatchEmbed(nn.Module):
    """A linear map of patches, with the weight of the reference's convolution."""

    def __init__(self, patch, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, patches):  # [B, N, p·p·3], channel fastest
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches, weight, self.proj.bias)


def patchify(images, patch):
    """[B, 3, H, W] -> [B, h·w, p·p·3]."""
    b, c, height, width = images.shape
    h, w = height // patch, width // patch
    return images.view(b, c, h, patch, w, patch).permute(0, 2, 4, 3, 5, 1).reshape(b, h * w, patch * patch * c)


def sin_cos(width, side):
    """The fixed position table of MAE. [1, 1 + side², width]"""
    omega = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [position.flatten()[:, None] * omega for position in (column, row)]
    table = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1)
    return torch.cat([torch.zeros(1, width), table.float()])[None]


def initialize(module):
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class Vit(nn.Module):
    def __init__(self, width, depth, heads, patch=16, image=224, drop_path=0.0, final_norm=True):
        super().__init__()
        side = image // patch
        self.patch, self.depth = patch, depth
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(sin_cos(width, side))
        self.patch_embed = PatchEmbed(patch, width)
        rates = [drop_path * i / (depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=EPS) if final_norm else None
        self.apply(initialize)

    def encode(self, tokens):  # [B, n, C] with positions -> [B, 1 + n, C]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        x = torch.cat([cls, tokens], 1)
        for block in self.blocks:
            x = block(x)
        return x if self.norm is None else self.norm(x)

    def forward(self, images):
        return self.encode(self.patch_embed(patchify(images, self.patch)) + self.pos_embed[:, 1:])


class Classifier(nn.Module):
    """A backbone, the mean of its patch tokens, layer norm, linear: fine-tuning of MAE."""

    def __init__(self, backbone, width, classes):
        super().__init__()
        self.backbone = backbone
        self.fc_norm = nn.LayerNorm(width, eps=EPS)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def forward(self, images):
        return self.head(self.fc_norm(self.backbone(images)[:, 1:].mean(1)))

    def layer_of(self, name):
        """As MAE's `util/lr_decay.py`: 0 for embeddings, i + 1 for block i, depth + 1 for the rest."""
        parts = name.removeprefix("backbone.").split(".")
        if parts[0] in ("cls_token", "pos_embed", "patch_embed"):
            return 0
        return int(parts[1]) + 1 if parts[0] == "blocks" else self.backbone.depth + 1


class Probe(nn.Module):
    """The class token of a frozen backbone, batch norm without affine, linear: linear probe of MAE."""

    def __init__(self, backbone, width, classes):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=EPS)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images):
        with torch.no_grad():
            features = self.backbone(images)[:, 0]
        return self.head(self.norm(features))


class MaskedAutoencoder(nn.Module):
    def __init__(self, encoder, width, decoder_width=512, decoder_depth=8, decoder_heads=16, mask_ratio=0.75):
        super().__init__()
        self.encoder, self.mask_ratio = encoder, mask_ratio
        side = math.isqrt(encoder.pos_embed.shape[1] - 1)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, decoder_width))
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.decoder_pos_embed = nn.Parameter(sin_cos(decoder_width, side), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(decoder_width, decoder_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=EPS)
        self.decoder_pred = nn.Linear(decoder_width, encoder.patch**2 * 3)
        encoder.pos_embed.requires_grad_(False)
        self.apply(initialize)

    def forward(self, images):
        """Mean squared error of normalised pixels over the removed patches."""
        encoder = self.encoder
        patches = patchify(images, encoder.patch)  # [B, L, P]
        b, count, values = patches.shape
        kept = int(count * (1 - self.mask_ratio))
        order = torch.rand(b, count, device=images.device).argsort(1)
        restore, keep = order.argsort(1), order[:, :kept]

        visible = patches.gather(1, keep[..., None].expand(-1, -1, values))
        tokens = encoder.patch_embed(visible) + encoder.pos_embed[0, 1:][keep]
        x = self.decoder_embed(encoder.encode(tokens))

        masks = self.mask_token.to(x.dtype).expand(b, count - kept, -1)
        tokens = torch.cat([x[:, 1:], masks], 1).gather(1, restore[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], tokens], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        predictions = self.decoder_pred(self.decoder_norm(x))[:, 1:]

        var, mean = torch.var_mean(patches, -1, keepdim=True)
        target = (patches - mean) * torch.rsqrt(var + 1e-6)
        removed = (restore >= kept).float()
        return ((predictions.float() - target).square().mean(-1) * removed).sum() / removed.sum()
