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


def inaturalist(root, year, folder):
    """Images in `folder` and the two files of that year, as iNaturalist has them."""
    categories = [{"id": i, "name": str(i), "supercategory": "Plantae"} for i in range(3)]
    for split, shift in [("train", 0), ("val", 10)]:
        images, annotations = [], []
        for label in range(3):
            for i in range(EXAMPLES):
                number = len(images)
                name = f"{folder}/Plantae/{label}/{split}{i:02}.jpg"
                write(root / name, label, i + shift)
                images.append({"id": number, "file_name": name, "height": 32, "width": 32})
                annotations.append({"id": number, "image_id": number, "category_id": label})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}{year}.json").write_text(json.dumps(content))


def inat2017(root):
    inaturalist(root, 2017, "train_val_images")


def inat2018(root):
    inaturalist(root, 2018, "train_val2018")


def inat2019(root):
    inaturalist(root, 2019, "train_val2019")


def places205(root):
    folder = root / "trainvalsplit_places205"
    folder.mkdir(parents=True, exist_ok=True)
    for split, shift in [("train", 0), ("val", 10)]:
        lines = []
        for label, name in enumerate(["a/abbey", "a/airport_terminal", "a/alley"]):
            for i in range(EXAMPLES):
                file = f"{name}/{split}_{i + 1:08}.jpg"
                write(root / "data/vision/torralba/deeplearning/images256" / file, label, i + shift)
                lines.append(f"{file} {label}\n")
        (folder / f"{split}_places205.csv").write_text("".join(lines))


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


COCO = """person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - stop_sign parking_meter
bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack umbrella - - handbag tie suitcase frisbee skis
snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle - wine_glass cup fork knife
spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed - dining_table
- - toilet - tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator - book clock vase scissors
teddy_bear hair_drier toothbrush""".split()


def scene(number, categories, height=48, width=64):
    """A picture with rectangles of plain colours, one a category, and what COCO says about them."""
    rng = np.random.default_rng([number, height, width])
    image = picture(0, number, height, width).astype(float) * 0.4 + 90
    objects = []
    for k in range(number % 3 + 1):
        category = categories[(number + k) % len(categories)]
        w, h = (int(v) for v in rng.integers(10, 24, 2))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        image[y:y + h, x:x + w] = np.random.default_rng(category).uniform(0, 255, 3)
        corners = [x, y, x + w, y, x + w, y + h, x, y + h]
        objects.append({"category_id": category, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
                        "segmentation": [corners]})
    return np.clip(image, 0, 255).astype(np.uint8), objects


def detection(root, split, shift, categories, file_name):
    """Images of a split below `root`, the last without objects, and the lists `images` and `annotations`."""
    images, annotations = [], []
    for number in range(1, 7):
        pixels, objects = scene(number + shift, categories)
        if number == 6:
            objects = []
        if number == 3:  # a crowd, in run lengths: two columns of the image
            height, width = pixels.shape[:2]
            counts = [0, 2 * height, (width - 2) * height]
            objects.append({"category_id": categories[0], "bbox": [0, 0, 2, height], "area": 2 * height, "iscrowd": 1,
                            "segmentation": {"size": [height, width], "counts": counts}})
        name = f"{split}/{number + shift:012}.jpg"
        (root / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name, quality=85)
        images.append({"id": number + shift, "width": pixels.shape[1], "height": pixels.shape[0], **file_name(name)})
        for o in objects:
            annotations.append({"id": len(annotations) + 1 + 100 * shift, "image_id": number + shift, **o})
    return images, annotations


def coco(root):
    categories = [{"id": i, "name": name.replace("_", " ")} for i, name in enumerate(COCO, 1) if name != "-"]
    for split, shift in [("train2017", 0), ("val2017", 10)]:
        images, annotations = detection(root, split, shift, [1, 18, 44, 90], lambda name: {"file_name": name[-16:]})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def coco_person(root):
    for split, shift in [("train", 0), ("val", 10)]:
        images, annotations = detection(root, split, shift, [1, 18], lambda name: {"file_name": name[-16:]})
        keys = ["id", "image_id", "bbox", "area", "iscrowd"]
        people = [{key: a[key] for key in keys} | {"category_id": 1} for a in annotations if not a["iscrowd"]]
        content = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
        (root / f"instances_{split}.json").write_text(json.dumps(content))


def lvis(root):
    categories = [{"id": i, "name": f"name{i}", "synset": f"name{i}.n.01", "frequency": f}
                  for i, f in [(1, "f"), (2, "c"), (5, "r"), (9, "f"), (11, "c")]]
    for split, folder, shift in [("train", "train2017", 0), ("val", "val2017", 10)]:
        url = lambda name: {"coco_url": f"http://images.cocodataset.org/{name}"}
        images, annotations = detection(root, folder, shift, [1, 2, 5, 9], url)
        annotations = [a for a in annotations if not a["iscrowd"]]
        for image in images:
            image["neg_category_ids"] = [11]
            image["not_exhaustive_category_ids"] = [9] if image["id"] % 2 else []
        for annotation in annotations:
            del annotation["iscrowd"]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"lvis_v1_{split}.json").write_text(json.dumps(content))


def labelled_scene(example, labels, height, width):
    """Two textures side by side and a third as a rectangle on them: the image, and the place in `labels` of each pixel."""
    rng = np.random.default_rng([77, example])
    first, second, third = (rng.permutation(len(labels))[:3] if len(labels) > 2 else [0, 1, 0])
    places = np.where(np.arange(width)[None] < rng.integers(width // 4, 3 * width // 4), first, second)
    places = np.broadcast_to(places, (height, width)).copy()
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    places[top:top + height // 2, left:left + width // 3] = third
    textures = np.stack([picture(label, 0, height, width) for label in range(len(labels))])
    image = np.take_along_axis(textures, places[None, ..., None], 0)[0]
    return image, places


def save(path, array, mode, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path, **options)


def ade20k(root):
    ids = np.array([0, 1, 2, 3, 5, 13], np.uint8)  # none, wall, building, sky, tree, person
    for split, name, shift in [("training", "train", 0), ("validation", "val", 10)]:
        for i in range(EXAMPLES):
            image, places = labelled_scene(i + shift, ids, 40, 56)
            save(root / "images" / split / f"ADE_{name}_{i + 1:08}.jpg", image, "RGB", quality=80)
            save(root / "annotations" / split / f"ADE_{name}_{i + 1:08}.png", ids[places], "L")
    names = ["", "wall", "building, edifice", "sky", "door", "rivet"]
    numbers = np.array([0, 2978, 312, 2420, 774, 2119])
    for split, name, shift in [("training", "train", 20), ("validation", "val", 30)]:
        folder = root / "ADE20K_2021_17_01" / "images" / "ADE" / split / "urban" / "street"
        for i in range(2):
            image, places = labelled_scene(i + shift, names, 40, 56)
            save(folder / f"ADE_{name}_{i + 1:08}.jpg", image, "RGB", quality=80)
            found = numbers[places]
            colours = np.stack([found // 256 * 10, found % 256, np.where(found > 0, 7, 0)], -1).astype(np.uint8)
            save(folder / f"ADE_{name}_{i + 1:08}_seg.png", colours, "RGB")
            objects = [{"id": k, "name": names[k], "name_ndx": int(numbers[k])} for k in range(1, len(names))]
            content = {"annotation": {"filename": f"ADE_{name}_{i + 1:08}.jpg", "object": objects}}
            (folder / f"ADE_{name}_{i + 1:08}.json").write_text(json.dumps(content))


def cityscapes(root):
    ids = np.array([3, 7, 11, 21, 23, 26], np.uint8)  # out of roi, road, building, vegetation, sky, car
    for split, town, shift in [("train", "ulm", 0), ("val", "bonn", 10)]:
        for i in range(EXAMPLES):
            image, places = labelled_scene(i + shift, ids, 32, 64)
            name = f"{town}_{i:06}_000019"
            image = image // 8 * 8  # PNG compresses no noise
            save(root / "leftImg8bit" / split / town / f"{name}_leftImg8bit.png", image, "RGB", optimize=True)
            save(root / "gtFine" / split / town / f"{name}_gtFine_labelIds.png", ids[places], "L")


def camvid(root):
    ids = np.array([0, 1, 3, 5, 8, 11], np.uint8)  # sky, building, road, tree, car, void
    train = ["0001TP_006690", "0001TP_006720", "0006R0_f00930", "0006R0_f00960", "0016E5_00390", "0016E5_00420"]
    val = ["0016E5_07959", "0016E5_07961", "0016E5_07963", "0016E5_07965"]
    for split, names, shift in [("train", train, 0), ("val", val, 10)]:
        for i, name in enumerate(names):
            image, places = labelled_scene(i + shift, ids, 36, 48)
            save(root / "images" / split / f"{name}.jpg", image, "RGB", quality=80)
            save(root / "annotations" / split / f"{name}.png", ids[places], "L")


def voc2012(root):
    ids = np.array([0, 1, 8, 15, 255], np.uint8)  # background, aeroplane, cat, person, border
    for split, shift in [("train", 0), ("val", 10)]:
        names = [f"2007_{shift * 100 + 32 + i:06}" for i in range(EXAMPLES)]
        for i, name in enumerate(names):
            image, places = labelled_scene(i + shift, ids, 40, 56)
            save(root / "JPEGImages" / f"{name}.jpg", image, "RGB", quality=80)
            save(root / "SegmentationClass" / f"{name}.png", ids[places], "P")
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


MAKERS = [imagenet, tiny_imagenet, tiny_imagenet_20, inat2017, inat2018, inat2019, places205, places365, fashion_mnist,
          coco, coco_person, lvis, ade20k, cityscapes, camvid, voc2012]


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
