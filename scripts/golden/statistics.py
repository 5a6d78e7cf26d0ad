#!/usr/bin/env python3
"""Makes tests/golden/statistics.json: values for the statistics of docs/statistics.md, from their definitions.

coco: resampled images of tests/golden/coco, scored by pycocotools. An image that is drawn twice is there twice, with an id of
its own. `weights` says how often each image of instances.json is drawn; `box` and `mask` are pycocotools' 12 numbers each. The
scores of detections are made distinct first (`score + place * 2**-20`), because the order of equal scores is not defined.
differences: made-up runs as [pre-training, seed, value], the mean of their paired differences and its standard error over
pre-trainings and seeds (Cameron, Gelbach & Miller 2011, two-way clustering), with NumPy; null where it is not known.
Made with NumPy and pycocotools 2.0.

    python3 scripts/golden/statistics.py
"""

import contextlib
import io
import json
import pathlib

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

GOLDEN = pathlib.Path(__file__).parent.parent.parent / "tests/golden"
DRAWS, SEED = 8, 11


def repeated(rows, image, times, first):
    """The rows of an image, once for each time that it is drawn."""
    own = [row for row in rows if row["image_id"] == image]
    return [row | {"image_id": first + k} for k in range(times) for row in own]


def score(images, annotations, rows, categories, kind):
    numbered = [annotation | {"id": k + 1} for k, annotation in enumerate(annotations)]
    rows = [{key: v for key, v in row.items() if kind == "bbox" or key != "bbox"} for row in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps({"images": images, "annotations": numbered, "categories": categories}))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(rows))), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]


def coco(rng):
    instances = json.loads((GOLDEN / "coco/instances.json").read_text())
    results = json.loads((GOLDEN / "coco/results.json").read_text())
    results = [row | {"score": row["score"] + place * 2.0**-20} for place, row in enumerate(results)]
    draws = []
    for _ in range(DRAWS):
        count = len(instances["images"])
        weights = np.bincount(rng.integers(0, count, count), minlength=count).tolist()
        images, annotations, rows, first = [], [], [], 1
        for image, times in zip(instances["images"], weights):
            images += [image | {"id": first + k} for k in range(times)]
            annotations += repeated(instances["annotations"], image["id"], times, first)
            rows += repeated(results, image["id"], times, first)
            first += times
        box, mask = (score(images, annotations, rows, instances["categories"], kind) for kind in ["bbox", "segm"])
        draws.append({"weights": weights, "box": box, "mask": mask})
    return draws


def clustered(weights, deviations, groups):
    """Variance of a weighted mean by clusters; None for a single one."""
    names = sorted(set(groups), key=str)
    if len(names) < 2:
        return None
    sums = [sum(w * d for w, d, g in zip(weights, deviations, groups) if g == name) for name in names]
    return len(names) / (len(names) - 1) * float(np.square(sums).sum())


def difference(of, minus):
    trained = any(p is not None for p, _, _ in minus)
    other = {(p if trained else None, s): v for p, s, v in minus}
    pairs = [(p, s, v - other[(p if trained else None, s)]) for p, s, v in of]
    count = {p: sum(q == p for q, _, _ in pairs) for p, _, _ in pairs}
    weights = [1 / (len(count) * count[p]) for p, _, _ in pairs]
    mean = float(np.dot(weights, [d for _, _, d in pairs]))
    deviations = [d - mean for _, _, d in pairs]
    by = [clustered(weights, deviations, [key(pair) for pair in pairs])
          for key in (lambda r: r[0], lambda r: r[1], lambda r: r[:2])]
    pretrainings, seeds, both = by
    error = None
    if all(p is None for p, _, _ in of):
        error = seeds
    elif pretrainings is not None and seeds is None:
        error = pretrainings
    elif pretrainings is not None:
        error = max(pretrainings + seeds - both, pretrainings, seeds)
    return {"of": of, "minus": minus, "mean": mean, "error": None if error is None else float(np.sqrt(error))}


def differences(rng):
    def runs(pairs, mean):
        seeds = {s: rng.normal(0, 0.8) for s in range(9)}
        trained = {p: rng.normal(0, 1.0) for p in list(range(9)) + [None]}
        return [[p, s, round(mean + trained[p] + seeds[s] + rng.normal(0, 0.5), 3)] for p, s in pairs]

    scratch = runs([(None, s) for s in range(4)], 40)
    grid = [(p, s) for p in range(3) for s in range(3)]
    cases = [
        (runs(grid, 45), scratch),                                        # 3 x 3
        (runs([(p, p) for p in range(4)], 45), scratch),                  # a seed names both
        (runs([(0, s) for s in range(3)], 45), scratch),                  # one pre-training
        (runs([(p, 1) for p in range(3)], 45), scratch),                  # one transfer seed
        (runs(grid, 45), runs(grid, 44)),                                 # both pre-trained
        (runs([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 3)], 45), scratch),
        (runs([(None, s) for s in range(4)], 42), scratch),               # neither pre-trained
    ]
    return [difference(of, minus) for of, minus in cases]


def main():
    rng = np.random.default_rng(SEED)
    found = {"coco": coco(rng), "differences": differences(rng)}
    lines = ",\n".join(f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for key, rows in found.items())
    (GOLDEN / "statistics.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
