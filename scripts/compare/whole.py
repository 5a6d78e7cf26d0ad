"""Whole programs, from their start to their last checkpoint: `bench pretrain` and `bench transfer` by recipes for a CPU, beside
scripts/pytorch/program.py. Runs are shortened to some steps of the recipe's schedule."""

import dataclasses
import json
import math
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

from compare.process import run


@dataclasses.dataclass(frozen=True)
class Workload:
    """A recipe, the size of the images of its data, and the number of training steps. `evaluated` is the folder or the
    annotations of the split that is evaluated."""

    arguments: tuple
    side: int
    steps: int
    evaluated: str | None = None


# Tasks for which no built-in one will do. Every image has as many detections as it may have, so that both programs have the
# same work however little their models have learnt; scenes are evaluated in windows, as those of CamVid are.
TASKS = {
    "compare_detection": """
kind = "detection"
primary = "box_ap50"
recipe = "maskrcnn_small"
[splits]
train = "train_instances"
eval = "val_instances"
[options]
score_threshold = 0.0
[[eval]]
op = "resize_longest"
[[eval]]
op = "pad"
""",
    "compare_segmentation": """
kind = "segmentation"
primary = "miou"
recipe = "upernet_small"
[splits]
train = "semantic_train"
eval = "semantic_val"
[options]
stride = 0.6667
[[eval]]
op = "resize_within"
short = 180
long = 240
""",
}
PRETRAIN = ("pretrain", "--dataset", "shapes", "--recipe")
TRANSFER = ("transfer", "--init", "scratch", "--recipe")
WORKLOADS = {
    "run_mae_small": Workload((*PRETRAIN, "mae_small"), 64, 24),
    "run_finetune_small": Workload(
        (*TRANSFER, "finetune_small", "--task", "shapes_classification"), 64, 16, "classification/val"
    ),
    "run_maskrcnn_small": Workload(
        (*TRANSFER, "maskrcnn_small", "--task", "compare_detection"), 64, 12, "annotations/instances_val.json"
    ),
    "run_upernet_small": Workload((*TRANSFER, "upernet_small", "--task", "compare_segmentation"), 240, 10, "val/images"),
}
# Images of the generated data sets, by the size of the images.
IMAGES = {64: {"pretrain": 2560, "train": 1000, "val": 60}, 240: {"pretrain": 10, "train": 160, "val": 30}}


def data_folder(bench, cache, side):
    """The folder of the generated data set of this size, which is made when it is not there."""
    folder = cache / "_".join(["shapes", str(side), *map(str, IMAGES[side].values())])
    if not (folder / "shapes.json").exists():  # written last
        counts = [part for name, count in IMAGES[side].items() for part in (f"--{name}", str(count))]
        subprocess.run([bench, "data", "make", "shapes", "--out", folder, "--size", str(side), *counts], check=True)
    return folder


class Bench:
    """Our side. It writes its runs to temporary folders."""

    name, versions = "bench", {}

    def __init__(self, bench, device, folder_of):
        self.bench, self.device, self.folder_of = bench, device, folder_of
        self.cases = {case: ["f32", "bf16"] for case in WORKLOADS}

    def measure(self, case, variant, threads, compiles=False):
        work, folder = WORKLOADS[case], self.folder_of(case)
        with tempfile.TemporaryDirectory(prefix="bench_compare_") as temporary:
            temporary = pathlib.Path(temporary)
            write_tasks(temporary / "tasks")
            command = [self.bench, *work.arguments, "--include", temporary, "--data", folder, "--out", temporary / "run"]
            command += ["--max-steps", work.steps, "--dtype", variant, "--device", self.device, "--workers", threads]
            outcome = run(command, threads, compiles)
            return (None if outcome.error else facts(temporary / "run", work, folder, outcome)), outcome


def write_tasks(folder):
    for name, body in TASKS.items():
        (folder / name).mkdir(parents=True)
        head = f'name = "{name}"\nversion = 1\ndataset = "shapes"'
        (folder / name / "task.toml").write_text(head + body)


def facts(folder, work, data, outcome):
    """What a run of ours did, as scripts/pytorch/program.py says it. The time is that of the whole process."""
    record = json.loads((folder / "run.json").read_text())
    if record["steps_done"] != work.steps:
        sys.exit(f"bench did {record['steps_done']} steps, not {work.steps}")
    batch = int(re.search(r"(?m)^batch = (\d+)$", (folder / "config.toml").read_text())[1])
    evaluated = count(data / work.evaluated) if work.evaluated else 0
    return {
        "ms": [1e3 * outcome.seconds],
        "images": work.steps * batch + evaluated,
        "parameters": elements(folder / "model.safetensors"),
        # The state of a run that was stopped has two averages of every gradient.
        "trainable": elements(folder / "state.safetensors", ".exp_avg"),
        "program": {"steps": work.steps, "batch": batch, "evaluated": evaluated},
        "scores": {name: round(score["value"], 3) for name, score in record["scores"].items() if name in SHOWN},
    }


SHOWN = ("top1", "box_ap50", "mask_ap50", "miou")


def count(split):
    """The number of images of a split: files in a folder, or images with an object that is no crowd."""
    if split.is_dir():
        return sum(path.is_file() for path in split.rglob("*"))
    annotations = json.loads(split.read_text())["annotations"]
    return len({annotation["image_id"] for annotation in annotations if not annotation["iscrowd"]})


def elements(path, ending=""):
    """The number of values of the tensors in a safetensors file whose names have this ending."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name.endswith(ending))
