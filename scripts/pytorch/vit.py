"""ViT (arXiv:2010.11929) and masked autoencoder (arXiv:2111.06377) in plain PyTorch, with the parameter names of
facebookresearch/mae. Attention is `F.scaled_dot_product_attention`; only visible patches are embedded. For dense tasks blocks
have relative positions as in BEiT and windows as in ViTDet."""

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-6


class RelativePositions(nn.Module):
    """A learnt bias for each head and each offset between two patches, and three for the class token: BEiT."""

    def __init__(self, grid, heads, class_token):
        super().__init__()
        h, w = grid
        count = (2 * h - 1) * (2 * w - 1)
        place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
        offset = place[:, :, None] - place[:, None, :]  # [2, N, N]
        index = (offset[0] + h - 1) * (2 * w - 1) + offset[1] + w - 1
        if class_token:
            index = F.pad(index, (1, 0, 1, 0))
            index[0, :], index[:, 0], index[0, 0] = count, count + 1, count + 2
            count += 3
        self.relative_position_bias_table = nn.Parameter(torch.zeros(count, heads))
        self.register_buffer("index", index, persistent=False)

    def forward(self):  # [1, heads, N, N]
        return self.relative_position_bias_table[self.index].permute(2, 0, 1)[None]


class Attention(nn.Module):
    def __init__(self, width, heads, positions=None):
        super().__init__()
        self.heads, self.positions = heads, positions
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, bias=None):  # [B, N, C]
        if self.positions is not None:
            bias = self.positions()
        return self.proj(attention(self.qkv(x), self.heads, bias))


def attention(qkv, heads, bias=None):
    """[B, N, 3·C] -> [B, N, C]. `bias` [1, heads, N, N] is added to the scores."""
    b, n, c3 = qkv.shape
    q, k, v = qkv.view(b, n, 3, heads, c3 // 3 // heads).permute(2, 0, 3, 1, 4)
    bias = None if bias is None else bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).reshape(b, n, c3 // 3)


def windowed(attend, x, grid, side):
    """Applies `attend` within square windows of patches [B, h·w, C], which are padded at the bottom and on the right."""
    (h, w), (b, _, c) = grid, x.shape
    rows, columns = -(-h // side), -(-w // side)
    x = F.pad(x.view(b, h, w, c), (0, 0, 0, columns * side - w, 0, rows * side - h))
    x = x.view(b, rows, side, columns, side, c).transpose(2, 3).reshape(-1, side * side, c)
    x = attend(x).view(b, rows, columns, side, side, c).transpose(2, 3)
    return x.reshape(b, rows * side, columns * side, c)[:, :h, :w].reshape(b, h * w, c)


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
    """`positions` are those of this block alone; `window` is the side of its windows on the grid of patches `grid`."""

    def __init__(self, width, heads, drop_path=0.0, positions=None, grid=None, window=None):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads, positions)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, 4 * width)
        self.drop_path, self.grid, self.window = drop_path, grid, window

    def attend(self, x, bias):
        if self.window is None:
            return self.attn(x, bias)
        return windowed(lambda x: self.attn(x, bias), x, self.grid, self.window)

    def forward(self, x, bias=None):
        x = x + drop_path(self.attend(self.norm1(x), bias), self.drop_path, self.training)
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


def sin_cos(width, grid):
    """The fixed position table of MAE, with a row of zeros for the class token. [1, 1 + h·w, width]"""
    omega = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [position.flatten()[:, None] * omega for position in (column, row)]
    table = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1)
    return torch.cat([torch.zeros(1, width), table.float()])[None]


def initialize(module):
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, PatchEmbed):
        nn.init.xavier_uniform_(module.proj.weight.flatten(1))


def quarters(depth):
    """The last block of each quarter."""
    return [max(quarter * depth // 4, 1) - 1 for quarter in range(1, 5)]


class Vit(nn.Module):
    """`image` is a side or (height, width). `positions` are None, "shared" by all blocks or "per_block". With a `window` all
    blocks but the last of each quarter attend within windows, and there is no class token."""

    def __init__(
        self, width, depth, heads, patch=16, image=224, drop_path=0.0, final_norm=True, positions=None, window=None
    ):
        super().__init__()
        height, across = (image, image) if isinstance(image, int) else image
        self.patch, self.depth, self.grid = patch, depth, (height // patch, across // patch)
        self.cls_token = None if window else nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(sin_cos(width, self.grid))
        self.patch_embed = PatchEmbed(patch, width)
        windows = [None if window is None or i in quarters(depth) else window for i in range(depth)]
        table = lambda window: RelativePositions((window, window) if window else self.grid, heads, self.cls_token is not None)
        own = lambda i: table(windows[i]) if positions == "per_block" else None
        rates = [drop_path * i / (depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, rates[i], own(i), self.grid, windows[i]) for i in range(depth))
        shared = positions == "shared"
        self.rel_pos_bias = table(None) if shared else None
        self.window_rel_pos_bias = table(window) if shared and window else None
        self.norm = nn.LayerNorm(width, eps=EPS) if final_norm else None
        self.apply(initialize)

    def embed(self, patches, positions):
        """Tokens of patches [B, n, p·p·3], of which `positions` [.., n, C] are the positions -> [B, 1 + n, C]."""
        tokens = self.patch_embed(patches) + positions
        if self.cls_token is None:
            return tokens
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        return torch.cat([cls, tokens], 1)

    def states(self, x):
        """The tokens after each block."""
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias()
        window_bias = None if self.window_rel_pos_bias is None else self.window_rel_pos_bias()
        for block in self.blocks:
            x = block(x, bias if block.window is None else window_bias)
            yield x

    def encode(self, x):  # [B, n, C] -> [B, n, C]
        *_, x = self.states(x)
        return x if self.norm is None else self.norm(x)

    def forward(self, images):
        return self.encode(self.embed(patchify(images, self.patch), self.pos_embed[:, 1:]))

    def maps(self, images, taps):
        """Patch tokens after the blocks `taps`, a block as often as it is listed. [B, C, h, w] each"""
        tokens, maps = self.embed(patchify(images, self.patch), self.pos_embed[:, 1:]), []
        for i, x in enumerate(self.states(tokens)):
            x = x if self.cls_token is None else x[:, 1:]
            maps += [x.transpose(1, 2).unflatten(2, self.grid)] * taps.count(i)
        return maps


def layer_of(name, depth):
    """As MAE's `util/lr_decay.py`, of a parameter of a backbone: 0 for embeddings, i + 1 for block i, depth + 1 for the rest."""
    parts = name.split(".")
    if parts[0] in ("cls_token", "pos_embed", "patch_embed"):
        return 0
    return int(parts[1]) + 1 if parts[0] == "blocks" else depth + 1


class OnBackbone(nn.Module):
    """A model with a `backbone`."""

    def layer_of(self, name):
        inside, depth = name.startswith("backbone."), self.backbone.depth
        return layer_of(name.removeprefix("backbone."), depth) if inside else depth + 1


class Classifier(OnBackbone):
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
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, decoder_width))
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.decoder_pos_embed = nn.Parameter(sin_cos(decoder_width, encoder.grid), requires_grad=False)
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
        x = self.decoder_embed(encoder.encode(encoder.embed(visible, encoder.pos_embed[0, 1:][keep])))

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
