#!/usr/bin/env python3
"""Makes tests/golden/coco: annotations and results that pycocotools has scored, and masks on the grids of boxes.

instances.json and results.json are made here from random numbers: images without objects and without results, crowds in
both kinds of run lengths, polygons of several rings, equal scores. Numbers of the results are exact in f32.
expected.json holds pycocotools' 12 + 12 numbers and AP by class, and for some objects and boxes the mask on a grid:
- polygons by detectron2's `rasterize_polygons_within_box`, written out with pycocotools;
- run lengths by RoIAlign (aligned, sampling ratio 0) of the bitmap and rounding, written out with NumPy, which is what
  detectron2's `BitMasks.crop_and_resize` computes.
lvis.json is the same without crowds, annotated class by class as LVIS is; expected.json has lvis-api's 13 + 13 numbers.
Made with pycocotools 2.0 and lvis 0.5.3, whose pictures (OpenCV, matplotlib) are not needed.

    python3 scripts/golden/coco.py
"""

import contextlib
import io
import json
import math
import pathlib
import sys
import tempfile
from unittest import mock

import numpy as np
for name in ["cv2", "matplotlib", "matplotlib.pyplot", "matplotlib.patches"]:
    sys.modules[name] = mock.MagicMock()
np.float = float  # lvis is older than NumPy 1.24

from lvis import LVIS, LVISEval, LVISResults
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

OUT = pathlib.Path(__file__).parent.parent.parent / "tests/golden/coco"
CATEGORIES = [(3, "cat"), (7, "dog"), (44, "bottle"), (90, "toothbrush")]
IMAGES, SEED = 30, 5


def eighths(values):
    return [round(float(v) * 8) / 8 for v in values]


def star(rng, box, points):
    """A ring of `points` corners around the middle of a box."""
    x, y, w, h = box
    angles = np.sort(rng.uniform(0, 2 * math.pi, points))
    radii = rng.uniform(0.5, 1.0, points)
    xs = x + w / 2 + radii * np.cos(angles) * w / 2
    ys = y + h / 2 + radii * np.sin(angles) * h / 2
    return [round(float(v), 2) for pair in zip(xs, ys) for v in pair]


def bounds(rings):
    xs = [v for ring in rings for v in ring[0::2]]
    ys = [v for ring in rings for v in ring[1::2]]
    return [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)]


def annotate(rng, image, number):
    height, width = image["height"], image["width"]
    longest = rng.choice([10, 40, 170])
    w, h = rng.uniform(4, min(longest, width - 2)), rng.uniform(4, min(longest, height - 2))
    if number % 6 == 0:
        w, h = 0.95 * width, 0.95 * height
    box = [rng.uniform(0, width - w), rng.uniform(0, height - h), w, h]
    rings = [star(rng, box, int(rng.integers(3, 9))) for _ in range(int(rng.integers(1, 3)))]
    area = float(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(rings, height, width))))
    annotation = {"id": number, "image_id": image["id"], "category_id": int(rng.choice([c for c, _ in CATEGORIES])),
                  "iscrowd": 0, "area": area, "bbox": bounds(rings), "segmentation": rings}
    kind = number % 7
    if kind >= 5:  # 5: compressed run lengths; 6: a crowd in plain ones
        rle = coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
        if kind == 6:
            bitmap = coco_mask.decode(rle).T.reshape(-1)
            changes = np.flatnonzero(np.diff(np.concatenate([[0], bitmap, [1 - bitmap[-1]]]).astype(int)))
            counts = np.diff(np.concatenate([[0], changes])).tolist()
            annotation |= {"iscrowd": 1, "segmentation": {"size": [height, width], "counts": counts}}
        else:
            annotation["segmentation"] = {"size": [height, width], "counts": rle["counts"].decode()}
    return annotation


def decode(outline, height, width):
    if isinstance(outline, list):
        outline = coco_mask.merge(coco_mask.frPyObjects(outline, height, width))
    elif isinstance(outline["counts"], list):
        outline = coco_mask.frPyObjects(outline, height, width)
    return coco_mask.decode(outline)


def results(rng, image, annotations):
    height, width = image["height"], image["width"]
    rows = []
    for annotation in annotations:
        for _ in range(int(rng.integers(0, 3))):
            x, y, w, h = annotation["bbox"]
            shift = rng.normal(0, 0.07, 4)
            box = eighths([x + shift[0] * w, y + shift[1] * h, w * math.exp(shift[2]), h * math.exp(shift[3])])
            category = annotation["category_id"] if rng.random() < 0.85 else CATEGORIES[0][0]
            bitmap = decode(annotation["segmentation"], height, width)
            moved = np.roll(bitmap, (round(shift[1] * h / 2), round(shift[0] * w / 2)), (0, 1))
            rows.append((category, [max(box[0], 0.0), max(box[1], 0.0), max(box[2], 1.0), max(box[3], 1.0)], moved))
    for _ in range(int(rng.integers(0, 4))):
        box = eighths([rng.uniform(0, width / 2), rng.uniform(0, height / 2), rng.uniform(4, 30), rng.uniform(4, 30)])
        mask = decode([star(rng, box, 9)], height, width)
        rows.append((int(rng.choice([c for c, _ in CATEGORIES])), box, mask))
    found = []
    for category, box, mask in rows:
        rle = coco_mask.encode(np.asfortranarray(mask))
        found.append({"image_id": image["id"], "category_id": int(category), "bbox": box,
                      "score": int(rng.integers(1, 64)) / 64,
                      "segmentation": {"size": [height, width], "counts": rle["counts"].decode()}})
    return found


def score(instances, rows, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(instances))
        truth.createIndex()
        rows = json.loads(json.dumps(rows))
        if kind == "segm":
            for row in rows:
                del row["bbox"]
        evaluation = COCOeval(truth, truth.loadRes(rows), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    by_class = {}
    for k, (_, name) in enumerate(CATEGORIES):
        own = precision[:, :, k]
        by_class[name] = float(own[own > -1].mean())
    return {"stats": [float(v) for v in evaluation.stats], "by_class": by_class}


def federated(rng, instances):
    """The annotations as LVIS would have them: an image is annotated for some classes only."""
    ids = [i for i, _ in CATEGORIES]
    annotations = [dict(a) for a in instances["annotations"] if not a["iscrowd"]]
    for annotation in annotations:
        del annotation["iscrowd"]
    images = []
    for image in instances["images"]:
        present = {a["category_id"] for a in annotations if a["image_id"] == image["id"]}
        absent = [i for i in ids if i not in present and rng.random() < 0.5]
        images.append(image | {"neg_category_ids": absent,
                               "not_exhaustive_category_ids": [i for i in sorted(present) if rng.random() < 0.4]})
    categories = [{"id": i, "name": name, "frequency": f} for (i, name), f in zip(CATEGORIES, "rcfc")]
    return {"images": images, "annotations": annotations, "categories": categories}


def score_lvis(instances, rows, kind):
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = pathlib.Path(folder) / "lvis.json"
        path.write_text(json.dumps(instances))
        truth = LVIS(str(path))
        rows = [{key: v for key, v in row.items() if kind == "bbox" or key != "bbox"} for row in rows]
        evaluation = LVISEval(truth, LVISResults(truth, json.loads(json.dumps(rows))), kind)
        evaluation.run()
        return [float(v) for v in evaluation.get_results().values()]


def polygons_in_box(rings, box, side):
    x1, y1, x2, y2 = (float(v) for v in box)
    sx, sy = side / max(x2 - x1, 0.1), side / max(y2 - y1, 0.1)
    moved = []
    for ring in rings:
        ring = np.array(ring, dtype=np.float64)
        ring[0::2] = (ring[0::2] - x1) * sx
        ring[1::2] = (ring[1::2] - y1) * sy
        moved.append(ring.tolist())
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(moved, side, side)))


def bitmap_in_box(bitmap, box, side):
    height, width = bitmap.shape
    x1, y1, x2, y2 = (float(v) - 0.5 for v in box)
    cell_x, cell_y = (x2 - x1) / side, (y2 - y1) / side
    across, down = max(math.ceil(cell_x), 1), max(math.ceil(cell_y), 1)

    def at(x, y):
        if x < -1 or x > width or y < -1 or y > height:
            return 0.0
        x, y = max(x, 0.0), max(y, 0.0)
        left, top = int(x), int(y)
        if left >= width - 1:
            left = right = width - 1
            x = float(left)
        else:
            right = left + 1
        if top >= height - 1:
            top = bottom = height - 1
            y = float(top)
        else:
            bottom = top + 1
        fx, fy = x - left, y - top
        return ((1 - fy) * ((1 - fx) * bitmap[top, left] + fx * bitmap[top, right])
                + fy * ((1 - fx) * bitmap[bottom, left] + fx * bitmap[bottom, right]))

    grid = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            samples = [at(x1 + j * cell_x + (b + 0.5) * cell_x / across, y1 + i * cell_y + (a + 0.5) * cell_y / down)
                       for a in range(down) for b in range(across)]
            grid[i, j] = np.mean(samples)
    return (grid >= 0.5).astype(np.uint8)


def crops(rng, instances):
    """(place of the annotation, box, side, grid) for some of them."""
    found = []
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    for place, annotation in enumerate(instances["annotations"]):
        if place % 3 or annotation["iscrowd"]:
            continue
        x, y, w, h = annotation["bbox"]
        shift = rng.normal(0, 0.15, 4)
        box = eighths([x + shift[0] * w, y + shift[1] * h, x + w + shift[2] * w, y + h + shift[3] * h])
        # Inside of the image: what lies outside is a matter of clipping.
        height, width = sizes[annotation["image_id"]]
        box = [max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))]
        side = 14 if place % 2 else 28
        outline = annotation["segmentation"]
        if isinstance(outline, list):
            grid = polygons_in_box(outline, box, side)
        else:
            grid = bitmap_in_box(coco_mask.decode(outline), box, side)
        rows = ["".join(map(str, row)) for row in grid.tolist()]
        found.append({"annotation": place, "box": box, "side": side, "grid": rows})
    return found


def main():
    rng = np.random.default_rng(SEED)
    images = [{"id": int(i), "file_name": f"{i:012}.jpg", "height": int(rng.integers(60, 190)),
               "width": int(rng.integers(60, 190))} for i in rng.permutation(1000)[:IMAGES]]
    annotations, rows = [], []
    for k, image in enumerate(images):
        own = [annotate(rng, image, len(annotations) + j + 1) for j in range(0 if k % 9 == 4 else int(rng.integers(1, 8)))]
        annotations += own
        if k % 8 != 3:
            rows += results(rng, image, own)
    annotations = [a for a in annotations if a["area"] > 0]  # an empty mask is never found
    categories = [{"id": i, "name": name} for i, name in reversed(CATEGORIES)]
    instances = {"images": images, "annotations": annotations, "categories": categories}
    expected = {"box": score(instances, rows, "bbox"), "mask": score(instances, rows, "segm"),
                "crops": crops(rng, instances)}
    lvis = federated(rng, instances)
    expected["lvis"] = {"box": score_lvis(lvis, rows, "bbox"), "mask": score_lvis(lvis, rows, "segm")}
    OUT.mkdir(parents=True, exist_ok=True)
    for name, content in [("instances", instances), ("lvis", lvis), ("results", rows), ("expected", expected)]:
        text = json.dumps(content, separators=(",", ":"))
        (OUT / f"{name}.json").write_text(text + "\n")
        print(f"{name}.json: {len(text)} bytes")
    print("box", expected["box"]["stats"][:6], "mask", expected["mask"]["stats"][:6], len(expected["crops"]), "grids")


if __name__ == "__main__":
    main()
