#!/usr/bin/env python3
"""Makes tests/golden/reach.safetensors: a small ViT with windows and relative positions, in PyTorch, f64.

The published formulas, written anew: windows padded behind the norm, the class token left out, and decomposed relative
positions q·R_h + q·R_w of ViTDet (arXiv:2203.16527); the table with an index of BEiT (arXiv:2106.08254), of one block,
with a class token, or shared by all windowed and by all global blocks (arXiv:2111.11429).

    python3 scripts/golden/reach.py
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

WIDTH, HEADS, DEPTH, PATCH, WINDOW = 8, 2, 3, 2, 3
GRID = (4, 5)
GLOBAL = [1]
EPS = 1e-6


def index(h, w, class_token):
    """BEiT's `relative_position_index`."""
    coords = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
    offset = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0)
    offset = offset + torch.tensor([h - 1, w - 1])
    inner = offset[..., 0] * (2 * w - 1) + offset[..., 1]
    if not class_token:
        return inner
    count = (2 * h - 1) * (2 * w - 1)
    whole = torch.zeros(h * w + 1, h * w + 1, dtype=torch.long)
    whole[1:, 1:] = inner
    whole[0, :], whole[:, 0], whole[0, 0] = count, count + 1, count + 2
    return whole


def attention(x, p, area, bias):
    """x [B, N, C]; `bias` of (queries [B, heads, N, d], area)."""
    b, n, c = x.shape
    qkv = F.linear(x, p["attn.qkv.weight"], p["attn.qkv.bias"]).view(b, n, 3, HEADS, c // HEADS)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) * (c // HEADS) ** -0.5 + bias(q, area)
    return F.linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c), p["attn.proj.weight"], p["attn.proj.bias"])


def decomposed(q, area, rows, columns):
    (h, w), (b, heads, n, d) = area, q.shape
    row = rows[torch.arange(h)[:, None] - torch.arange(h)[None] + h - 1]  # [h, h, d]
    column = columns[torch.arange(w)[:, None] - torch.arange(w)[None] + w - 1]
    q = q.view(b, heads, h, w, d)
    of_rows = torch.einsum("bnhwc,hkc->bnhwk", q, row)
    of_columns = torch.einsum("bnhwc,wkc->bnhwk", q, column)
    return (of_rows[..., :, None] + of_columns[..., None, :]).reshape(b, heads, n, n)


def windows(x, size):
    b, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, -w % size, 0, -h % size))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    return x.view(b, rows, size, columns, size, c).transpose(2, 3).reshape(-1, size * size, c), (rows, columns)


def unwindows(x, size, shape, count):
    b, h, w, c = shape
    x = x.view(b, *count, size, size, c).transpose(2, 3).reshape(b, count[0] * size, count[1] * size, c)
    return x[:, :h, :w]


def block(x, p, window, bias):
    b, n, c = x.shape
    y = F.layer_norm(x, (c,), p["norm1.weight"], p["norm1.bias"], EPS)
    if window:
        shape = (b, *GRID, c)
        y, count = windows(y.view(shape), window)
        y = unwindows(attention(y, p, (window, window), bias), window, shape, count).reshape(b, n, c)
    else:
        y = attention(y, p, GRID, bias)
    x = x + y
    y = F.layer_norm(x, (c,), p["norm2.weight"], p["norm2.bias"], EPS)
    y = F.gelu(F.linear(y, p["mlp.fc1.weight"], p["mlp.fc1.bias"]))
    return x + F.linear(y, p["mlp.fc2.weight"], p["mlp.fc2.bias"])


def case(kind):
    """`kind`: decomposed and shared have windows and no class token, per_block has a class token and no windows."""
    class_token, window = kind == "per_block", 0 if kind == "per_block" else WINDOW
    n = GRID[0] * GRID[1]
    shapes = {"pos_embed": (1, 1 + n, WIDTH), "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,)}
    if class_token:
        shapes["cls_token"] = (1, 1, WIDTH)
    table = lambda h, w: ((2 * h - 1) * (2 * w - 1) + 3 * class_token, HEADS)
    if kind == "shared":
        shapes["rel_pos_bias.relative_position_bias_table"] = table(*GRID)
        shapes["window_rel_pos_bias.relative_position_bias_table"] = table(window, window)
    for i in range(DEPTH):
        area = GRID if i in GLOBAL or not window else (window, window)
        parts = {"norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,),
                 "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
                 "mlp.fc1.weight": (4 * WIDTH, WIDTH), "mlp.fc1.bias": (4 * WIDTH,), "mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,)}
        if kind == "decomposed":
            parts |= {"attn.rel_pos_h": (2 * area[0] - 1, WIDTH // HEADS), "attn.rel_pos_w": (2 * area[1] - 1, WIDTH // HEADS)}
        if kind == "per_block":
            parts["attn.relative_position_bias_table"] = table(*area)
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in parts.items()}
    weights = {name: (torch.randn(shape, dtype=torch.float64) * 0.5).float().double().requires_grad_() for name, shape in shapes.items()}

    images = torch.randn(2, 3, GRID[0] * PATCH, GRID[1] * PATCH).double()
    x = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], PATCH)
    x = x.flatten(2).transpose(1, 2) + weights["pos_embed"][:, 1:]
    if class_token:
        cls = (weights["cls_token"] + weights["pos_embed"][:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls, x], 1)
    out = {"images": images}
    for i in range(DEPTH):
        p = {name.removeprefix(f"blocks.{i}."): value for name, value in weights.items() if name.startswith(f"blocks.{i}.")}
        here = 0 if i in GLOBAL else window
        if kind == "decomposed":
            bias = lambda q, area: decomposed(q, area, p["attn.rel_pos_h"], p["attn.rel_pos_w"])
        else:
            name = "attn.relative_position_bias_table"
            shared = ("window_" if here else "") + "rel_pos_bias.relative_position_bias_table"
            values = p[name] if name in p else weights[shared]
            bias = lambda q, area: values[index(*area, class_token)].permute(2, 0, 1)
        x = block(x, p, here, bias)
        out[f"features.{i}"] = x[:, 1:] if class_token else x
    seed = torch.randn(out[f"features.{DEPTH - 1}"].shape).double()
    (out[f"features.{DEPTH - 1}"] * seed).sum().backward()
    out["seed"] = seed
    out |= {f"weights.{name}": value for name, value in weights.items()}
    out |= {f"gradient.{name}": value.grad for name, value in weights.items()}
    return {f"{kind}.{name}": value.detach().float().contiguous().clone() for name, value in out.items()}


def main():
    torch.manual_seed(0)
    tensors = {}
    for kind in ["decomposed", "shared", "per_block"]:
        tensors |= case(kind)
    path = pathlib.Path(__file__).parents[2] / "tests/golden/reach.safetensors"
    save_file(tensors, path)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
