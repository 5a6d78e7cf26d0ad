#!/usr/bin/env python3
"""Golden values of the ViT and the masked autoencoder, from a small PyTorch implementation.

The implementation follows arXiv:2111.06377 and the conventions of facebookresearch/mae (parameter
names, token order, normalised-pixel target); it is written for this purpose and computes in float64,
so that what is stored (float32) carries no rounding of its own. Written files:

  mae_square.safetensors    3 channels, 6x6 patches: weights, images, noise, features, losses, gradients
  mae_gray.safetensors      1 channel, 2x4 patches: the same
  mae_nested.pth            the weights of mae_gray as a training checkpoint {model, epoch, args}
  mae_parts.safetensors     mask noise of two generators, position resizes, batch normalisation
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file


def parameters(case, generator):
    """Random weights under the names of facebookresearch/mae."""
    d, dd, p, c = case["width"], case["decoder_width"], case["patch"], case["channels"]
    h, w = case["grid"]
    shapes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 1 + h * w, d),
        "mask_token": (1, 1, dd),
        "decoder_pos_embed": (1, 1 + h * w, dd),
        "patch_embed.proj.weight": (d, c, p, p),
        "patch_embed.proj.bias": (d,),
        "decoder_embed.weight": (dd, d),
        "decoder_embed.bias": (dd,),
        "decoder_pred.weight": (p * p * c, dd),
        "decoder_pred.bias": (p * p * c,),
    }
    stacks = [("blocks", case["depth"], d), ("decoder_blocks", case["decoder_depth"], dd)]
    for stack, depth, width in stacks:
        for i in range(depth):
            for layer, rows, columns in [
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.fc1", 4 * width, width),
                ("mlp.fc2", width, 4 * width),
            ]:
                shapes[f"{stack}.{i}.{layer}.weight"] = (rows, columns)
                shapes[f"{stack}.{i}.{layer}.bias"] = (rows,)
            for norm in ["norm1", "norm2"]:
                shapes[f"{stack}.{i}.{norm}.weight"] = (width,)
                shapes[f"{stack}.{i}.{norm}.bias"] = (width,)
    for norm, width in [("norm", d), ("decoder_norm", dd)]:
        shapes[f"{norm}.weight"] = (width,)
        shapes[f"{norm}.bias"] = (width,)
    weights = {}
    for name, shape in shapes.items():
        values = 0.3 * torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            values = 1 + values
        weights[name] = values
    return weights


def patchify(images, p):
    b, c, height, width = images.shape
    x = images.reshape(b, c, height // p, p, width // p, p)
    return torch.einsum("bchpwq->bhwpqc", x).reshape(b, -1, p * p * c)


def block(x, weights, prefix, heads):
    def linear(x, name):
        return F.linear(x, weights[f"{prefix}.{name}.weight"], weights[f"{prefix}.{name}.bias"])

    def norm(x, name):
        weight, bias = weights[f"{prefix}.{name}.weight"], weights[f"{prefix}.{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)

    b, n, d = x.shape
    qkv = linear(norm(x, "norm1"), "attn.qkv").reshape(b, n, 3, heads, d // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    p = (q @ k.transpose(-2, -1) * (d // heads) ** -0.5).softmax(-1)
    x = x + linear((p @ v).transpose(1, 2).reshape(b, n, d), "attn.proj")
    return x + linear(F.gelu(linear(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")


def embed(images, weights, p):
    x = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=p)
    return x.flatten(2).transpose(1, 2) + weights["pos_embed"][:, 1:]


def with_class_token(x, weights):
    token = weights["cls_token"] + weights["pos_embed"][:, :1]
    return torch.cat([token.expand(x.shape[0], -1, -1), x], 1)


def features(images, weights, case):
    x = with_class_token(embed(images, weights, case["patch"]), weights)
    after = []
    for i in range(case["depth"]):
        x = block(x, weights, f"blocks.{i}", case["heads"])
        after.append(x)
    last = F.layer_norm(x, x.shape[-1:], weights["norm.weight"], weights["norm.bias"], 1e-6)
    return after, last[:, 0]


def predict(images, noise, weights, case):
    """Predictions [B, L, p*p*C] and the mask [B, L] (1 = removed)."""
    x = embed(images, weights, case["patch"])
    b, length, d = x.shape
    kept = int(length * (1 - case["mask_ratio"]))
    shuffle = noise.argsort(1)
    restore = shuffle.argsort(1)
    keep = shuffle[:, :kept]
    x = with_class_token(x.gather(1, keep[:, :, None].expand(-1, -1, d)), weights)
    for i in range(case["depth"]):
        x = block(x, weights, f"blocks.{i}", case["heads"])
    x = F.layer_norm(x, x.shape[-1:], weights["norm.weight"], weights["norm.bias"], 1e-6)
    x = F.linear(x, weights["decoder_embed.weight"], weights["decoder_embed.bias"])
    tokens = torch.cat([x[:, 1:], weights["mask_token"].expand(b, length - kept, -1)], 1)
    tokens = tokens.gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
    x = torch.cat([x[:, :1], tokens], 1) + weights["decoder_pos_embed"]
    for i in range(case["decoder_depth"]):
        x = block(x, weights, f"decoder_blocks.{i}", case["decoder_heads"])
    x = F.layer_norm(x, x.shape[-1:], weights["decoder_norm.weight"], weights["decoder_norm.bias"], 1e-6)
    x = F.linear(x, weights["decoder_pred.weight"], weights["decoder_pred.bias"])[:, 1:]
    mask = torch.ones(b, length, dtype=x.dtype).scatter(1, keep, 0)
    return x, mask


def loss(images, prediction, mask, case, normalised):
    target = patchify(images, case["patch"])
    if normalised:
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    return (((prediction - target) ** 2).mean(-1) * mask).sum() / mask.sum()


def model_case(case, out):
    generator = torch.Generator().manual_seed(case["seed"])
    weights = parameters(case, generator)
    (h, w), p = case["grid"], case["patch"]
    images = torch.randn(3, case["channels"], h * p, w * p, generator=generator)
    noise = torch.rand(3, h * w, generator=generator)
    golden = {f"weights.{name}": tensor for name, tensor in weights.items()}
    golden |= {"images": images, "noise": noise}
    exact = {name: tensor.double().requires_grad_() for name, tensor in weights.items()}
    after, cls = features(images.double(), exact, case)
    golden |= {f"features.{i}": x[:, 1:] for i, x in enumerate(after)} | {"cls": cls}
    for target in ["pixel", "norm_pixel"]:
        prediction, mask = predict(images.double(), noise, exact, case)
        value = loss(images.double(), prediction, mask, case, target == "norm_pixel")
        names = [name for name in exact if "pos_embed" not in name]  # fixed in pre-training
        gradients = torch.autograd.grad(value, [exact[name] for name in names])
        golden[f"loss.{target}"] = value
        golden |= {f"gradient.{target}.{name}": g for name, g in zip(names, gradients)}
    golden |= {"prediction": prediction, "mask": mask}
    golden = {name: tensor.detach().float().contiguous() for name, tensor in golden.items()}
    save_file(golden, out / f"mae_{case['name']}.safetensors")
    return weights


def parts(out):
    golden = {}
    np.random.seed(2)
    golden["noise.numpy"] = torch.from_numpy(np.random.uniform(size=(1, 196))).float()
    torch.manual_seed(2)
    golden["noise.torch"] = torch.rand(1, 196)
    generator = torch.Generator().manual_seed(0)
    for (h, w), (to_h, to_w) in [((7, 7), (12, 12)), ((7, 7), (5, 9)), ((4, 6), (6, 3))]:
        table = torch.randn(1, 1 + h * w, 4, generator=generator)
        grid = table[:, 1:].reshape(1, h, w, 4).permute(0, 3, 1, 2).double()
        grid = F.interpolate(grid, size=(to_h, to_w), mode="bicubic", align_corners=False)
        resized = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2).float()], 1)
        golden[f"resize.{h}x{w}.{to_h}x{to_w}.from"] = table
        golden[f"resize.{h}x{w}.{to_h}x{to_w}.to"] = resized
    for name, norm, shape in [
        ("plain", torch.nn.BatchNorm1d(5, affine=False, eps=1e-6), (7, 5)),
        ("affine", torch.nn.BatchNorm2d(3, eps=1e-5), (2, 3, 4, 5)),
    ]:
        if norm.affine:
            with torch.no_grad():
                norm.weight.copy_(torch.randn(3, generator=generator))
                norm.bias.copy_(torch.randn(3, generator=generator))
            golden |= {f"norm.{name}.weight": norm.weight, f"norm.{name}.bias": norm.bias}
        for step in range(2):
            x = (2 * torch.randn(shape, generator=generator) + 1).requires_grad_()
            seed = torch.randn(shape, generator=generator)
            y = norm(x)
            (gradient,) = torch.autograd.grad((y * seed).sum(), x)
            golden |= {f"norm.{name}.{step}.x": x, f"norm.{name}.{step}.y": y}
            golden |= {f"norm.{name}.{step}.seed": seed, f"norm.{name}.{step}.gradient": gradient}
        golden[f"norm.{name}.running_mean"] = norm.running_mean
        golden[f"norm.{name}.running_var"] = norm.running_var
        golden[f"norm.{name}.eval"] = norm.eval()(x)
    save_file({name: t.detach().contiguous() for name, t in golden.items()}, out / "mae_parts.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=Path, default=root / "tests" / "golden", help="folder to write to")
    out = parser.parse_args().out
    square = dict(name="square", seed=1, channels=3, grid=(6, 6), patch=4, width=16, depth=2, heads=2)
    square |= dict(decoder_width=8, decoder_depth=1, decoder_heads=2, mask_ratio=0.75)
    model_case(square, out)
    gray = dict(name="gray", seed=2, channels=1, grid=(2, 4), patch=2, width=8, depth=1, heads=2)
    gray |= dict(decoder_width=4, decoder_depth=1, decoder_heads=1, mask_ratio=0.5)
    weights = model_case(gray, out)
    checkpoint = {"model": weights, "epoch": 3, "args": argparse.Namespace(model="mae_gray", lr=1e-3)}
    torch.save(checkpoint, out / "mae_nested.pth")
    parts(out)


if __name__ == "__main__":
    main()
