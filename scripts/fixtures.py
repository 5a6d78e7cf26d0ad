#!/usr/bin/env python3
"""Makes datasets/<name>/fixture: a few synthetic pictures in the real layout of each data set.

Nothing is taken from the data sets. `shapes` is not made here but by `bench data make shapes`.
Needs Pillow and NumPy. The pictures of a class share a colour and a stripe direction, so that something can be learnt.
"""
import argparse
import gzip
import json
import pathlib
import struct

import numpy as np
from PIL import Image

EXAMPLES = 4  # of each class and split


def picture(label, example, height=32, width=32, channels=3):
    rng = np.random.default_rng([label, example, height, channels])
    y, x = np.mgrid[0:height, 0:width]
    angle = label * 0.9 + rng.normal(0, 0.05)
    stripes = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (0.5 + 0.25 * label))
    colour = np.random.default_rng(label).uniform(60, 200, channels)
    image = colour + 40 * stripes[..., None] + rng.normal(0, 10, (height, width, channels))
    return np.clip(image, 0, 255).astype(np.uint8)


def write(path, label, example, **sizes):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture(label, example, **sizes)
    mode = "L" if image.shape[2] == 1 else "RGB"
    Image.fromarray(image[..., 0] if mode == "L" else image, mode).save(path, quality=80)


def class_folders(root, classes, splits, name, **sizes):
    for split in splits:
        for label, wnid in enumerate(classes):
            for i in range(EXAMPLES):
                write(root / split / wnid / name(split, wnid, i), label, i + 10 * splits.index(split), **sizes)


def imagenet(root):
    class_folders(root, ["n01440764", "n01443537", "n01484850"], ["train", "val"],
                  lambda split, wnid, i: f"{wnid}_{i}.JPEG" if split == "train" else f"ILSVRC2012_val_{i:08}.JPEG",
                  height=40, width=56)


def tiny_imagenet_20(root):
    class_folders(root, ["n01443537", "n01784675", "n02085620"], ["train", "val"],
                  lambda split, wnid, i: f"{wnid}_{i}.JPEG" if split == "train" else f"val_{i}.JPEG")


def tiny_imagenet(root):
    classes = ["n01443537", "n01629819", "n01641577"]
    lines = []
    for label, wnid in enumerate(classes):
        for i in range(EXAMPLES):
            write(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", label, i)
            name = f"val_{len(lines)}.JPEG"
            write(root / "val" / "images" / name, label, i + 10)
            lines.append(f"{name}\t{wnid}\t0\t0\t31\t31\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))


def places365(root):
    names = ["a/airfield", "a/airplane_cabin", "a/airport_terminal"]
    train, val = [], []
    for label, name in enumerate(names):
        for i in range(EXAMPLES):
            write(root / "data_256" / name / f"{i + 1:08}.jpg", label, i)
            train.append(f"/{name}/{i + 1:08}.jpg {label}\n")
            file = f"Places365_val_{len(val) + 1:08}.jpg"
            write(root / "val_256" / file, label, i + 10)
            val.append(f"{file} {label}\n")
    (root / "places365_train_standard.txt").write_text("".join(train))
    (root / "places365_val.txt").write_text("".join(val))
    categories = [f"/{name} {label}\n" for label, name in enumerate(names)]
    (root / "categories_places365.txt").write_text("".join(categories))


def inat2018(root):
    categories = [{"id": i, "name": str(i), "supercategory": "Plantae"} for i in range(3)]
    for split, shift in [("train", 0), ("val", 10)]:
        images, annotations = [], []
        for label in range(3):
            for i in range(EXAMPLES):
                number = len(images)
                name = f"train_val2018/Plantae/{label}/{split}{i:02}.jpg"
                write(root / name, label, i + shift)
                images.append({"id": number, "file_name": name, "height": 32, "width": 32})
                annotations.append({"id": number, "image_id": number, "category_id": label})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}2018.json").write_text(json.dumps(content))


def fashion_mnist(root):
    root.mkdir(parents=True, exist_ok=True)
    for name, shift in [("train", 0), ("t10k", 10)]:
        labels = [label for label in range(10) for _ in range(2)]
        images = np.stack([picture(label, i % 2 + shift, 28, 28, 1)[..., 0] for i, label in enumerate(labels)])
        for kind, header, data in [
            ("images-idx3", struct.pack(">4B3I", 0, 0, 8, 3, *images.shape), images.tobytes()),
            ("labels-idx1", struct.pack(">4BI", 0, 0, 8, 1, len(labels)), bytes(labels)),
        ]:
            with open(root / f"{name}-{kind}-ubyte.gz", "wb") as file:
                file.write(gzip.compress(header + data, mtime=0))


MAKERS = [imagenet, tiny_imagenet, tiny_imagenet_20, inat2018, places365, fashion_mnist]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "datasets")
    args = parser.parse_args()
    for make in MAKERS:
        root = args.out / make.__name__ / "fixture"
        make(root)
        size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
        print(f"{make.__name__}: {size} bytes")


if __name__ == "__main__":
    main()
