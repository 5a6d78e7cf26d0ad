#!/usr/bin/env python3
"""How much of the detail within patches the maps of a backbone hold: of pre-trained weights, and of random ones.

  patch_detail.py --weights RUN/model.safetensors --model vit_micro8 --images DATA/select/images

For the map after each block, a linear regression predicts from the token of a patch the pixels of that patch, less their mean in each
channel. Printed is the share of their variance that it explains on other images (R²), with all directions of the map and with the
16 along which it varies most, which a head of a few hundred steps sees first; and which part of the map's variance depends on the
position alone. Needs Python 3.11, torch, torchvision and numpy.
"""

import argparse
import pathlib

import torch

import data
import recipe
import vit
import weights

FEW = 16


def r2(features, targets, keep):
    """Share of the variance of `targets` that a regression explains in the last quarter of the rows, fitted to the others."""
    directions = torch.linalg.eigh(features.T @ features).eigenvectors[:, -keep:]
    x = features @ directions
    n = len(x) * 3 // 4
    left = targets[n:] - x[n:] @ torch.linalg.lstsq(x[:n], targets[:n]).solution
    return 1 - (left.pow(2).sum() / targets[n:].pow(2).sum()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=pathlib.Path, required=True, nargs="+", metavar="FILE")
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=300, help="images (default 300)")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = recipe.Model.read(args.model)
    build = lambda: vit.Vit(model.width, model.depth, model.heads, model.patch, model.image, final_norm=False).eval()
    folder = data.Unlabelled(args.images, data.resized(model.image))
    images = torch.stack([folder[i] for i in range(min(args.count, len(folder)))])
    patches = vit.patchify(images, model.patch).unflatten(2, (model.patch**2, 3))
    detail = (patches - patches.mean(2, keepdim=True)).flatten(2).flatten(0, 1)
    print(f"{'weights':<24}{'block':>6}{'R²':>8}{f'R² of {FEW}':>12}{'position':>10}")
    for path in [None, *args.weights]:
        backbone = build()
        if path is not None:
            weights.load(backbone, path)
        with torch.no_grad():
            maps = backbone.maps(images, list(range(model.depth)))
        for block, tokens in enumerate(maps):
            tokens = torch.nn.functional.layer_norm(tokens.flatten(2).transpose(1, 2), tokens.shape[1:2])
            centred = tokens - tokens.mean((0, 1))
            position = (centred.mean(0).pow(2).mean() / centred.pow(2).mean()).item()
            rows = centred.flatten(0, 1)
            shares = [r2(rows, detail, keep) for keep in (rows.shape[1], FEW)]
            name = "random" if path is None else path.parent.name[-22:]
            print(f"{name:<24}{block:>6}{shares[0]:>8.2f}{shares[1]:>12.2f}{position:>10.2f}")


if __name__ == "__main__":
    main()
