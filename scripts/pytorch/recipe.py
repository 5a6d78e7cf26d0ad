"""What the programs in PyTorch read of our files: recipes and models (`configs`), tasks and splits (`tasks`, `datasets`). A key
that means something which these programs do not do is refused, so that both sides run the same recipe."""

import dataclasses
import pathlib
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
REQUIRED = object()


class Table:
    """A table of TOML, whose keys are taken one after another."""

    def __init__(self, values, where):
        self.values, self.where = dict(values), where

    def take(self, key, default=REQUIRED):
        if key not in self.values and default is REQUIRED:
            raise ValueError(f"{self.where}: `{key}` is missing")
        return self.values.pop(key, default)

    def choose(self, key, known, default=REQUIRED):
        """The value of a key that has only these `known` values here."""
        value = self.take(key, default)
        if value not in known:
            raise ValueError(f"{self.where}: {key} = {value!r} is not supported here, only {', '.join(map(repr, known))}")
        return value

    def table(self, key):
        return Table(self.take(key, {}), f"{self.where}: [{key}]")

    def end(self):
        if self.values:
            raise ValueError(f"{self.where}: not supported here: {', '.join(self.values)}")


def toml(path):
    with open(ROOT / path, "rb") as file:
        return tomllib.load(file)


def override(tree, assignments):
    """Applies assignments such as `optim.base_lr=1e-3`, as `--set` of our program does."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"`{assignment}` is not KEY=VALUE")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *tables, last = key.split(".")
        table = tree
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value


def merge(tree, part):
    """Lays the keys of `part` over those of `tree`."""
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = value


@dataclasses.dataclass(frozen=True)
class Model:
    """A plain ViT for square images of `image` pixels: configs/models."""

    image: int
    patch: int
    width: int
    depth: int
    heads: int

    @classmethod
    def read(cls, name):
        path = f"configs/models/{name}.toml"
        table = Table(toml(path), path)
        height, width = table.take("image")
        if height != width:
            raise ValueError(f"{path}: images of {height}x{width} pixels are not square")
        table.take("decoder", None)
        for key, value in {"channels": 3, "mlp_ratio": 4.0, "norm_eps": 1e-6}.items():
            table.choose(key, [value], value)
        model = cls(height, *(table.take(key) for key in ("patch", "width", "depth", "heads")))
        table.end()
        return model


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The part of a recipe for Mask R-CNN that does not concern its head, and the table of the head: configs/transfer."""

    model_name: str
    model: Model
    epochs: float
    batch: int
    drop_path: float
    clip: float | None
    base_lr: float  # for a batch of 256
    betas: tuple
    weight_decay: float
    layer_decay: float
    no_decay: tuple
    warmup_epochs: float
    min_lr: float
    scale: tuple  # of images in training
    tune: str
    window: int | None
    positions: str | None
    head: dict

    @classmethod
    def read(cls, name, task=None, model=None, assignments=()):
        """The recipe `name` for a task and a model (that of the recipe if None), with assignments laid over it."""
        path = f"configs/transfer/{name}.toml"
        tree = toml(path)
        model_name = model or tree["default_model"]
        parts = [tree.pop("task", {}).get(task, {}), tree.pop("model", {}).get(model_name, {})]
        for part in parts:
            merge(tree, part)
        override(tree, assignments)
        table = Table(tree, path)
        table.take("default_model", None)
        optim, schedule, transfer = (table.table(key) for key in ("optim", "schedule", "transfer"))
        attention = transfer.table("attention")
        optim.choose("name", ["adamw"])
        schedule.choose("name", ["cosine"])
        attention.choose("global_blocks", ["quarters"], "quarters")
        position = attention.choose("relative_position", ["none", "shared", "per_block"], "none")
        recipe = cls(
            model_name=model_name,
            model=Model.read(model_name),
            epochs=table.take("epochs"),
            batch=table.take("batch"),
            drop_path=table.take("drop_path", 0.0),
            clip=table.take("clip", None),
            base_lr=float(optim.take("base_lr")),
            betas=tuple(optim.take("betas")),
            weight_decay=optim.take("weight_decay"),
            layer_decay=optim.take("layer_decay", 1.0),
            no_decay=tuple(optim.take("no_decay", [])),
            warmup_epochs=schedule.take("warmup_epochs", 0),
            min_lr=schedule.take("min_lr", 0.0),
            scale=jitter(table.take("augment"), path),
            tune=transfer.choose("tune", ["all", "head"]),
            window=attention.take("window", None),
            positions=None if position == "none" else position,
            head=transfer.take("head", {}),
        )
        for rest in (table, optim, schedule, transfer, attention):
            rest.end()
        return recipe

    @property
    def lr(self):
        """The peak of the schedule."""
        return self.base_lr * self.batch / 256


def jitter(augment, where):
    """The range of factors of large-scale jitter, which with a crop and a mirror is the only augmentation known here."""
    ops = [op["op"] for op in augment]
    known = [{"op": "resize_scale", "scale": augment[0].get("scale")}, {"op": "fixed_size_crop"}, {"op": "flip", "p": 0.5}]
    if augment != known:
        raise ValueError(f"{where}: augment {ops} is not supported here, only resize_scale, fixed_size_crop, flip")
    return tuple(augment[0]["scale"])


@dataclasses.dataclass(frozen=True)
class Split:
    """Images annotated as COCO is: a folder and a file relative to the root of the data, and which images of the file."""

    images: str
    annotations: str
    drop_empty: bool
    entries: tuple | None

    @classmethod
    def read(cls, dataset, name):
        path = f"datasets/{dataset}/dataset.toml"
        splits = toml(path)["split"]
        if name is None:
            raise ValueError(f"the task names no such split of {path}")
        if name not in splits:
            raise ValueError(f"{path} has no split `{name}`, only {', '.join(splits)}")
        table = Table(splits[name], f"{path}: split {name}")
        annotations = table.table("annotations")
        annotations.choose("format", ["coco_json"], None)
        table.take("count", None)
        split = cls(
            images=table.take("images"),
            annotations=annotations.take("file"),
            drop_empty=annotations.take("drop_empty", False),
            entries=tuple(table.take("entries", ())) or None,
        )
        table.end(), annotations.end()
        return split


@dataclasses.dataclass(frozen=True)
class Task:
    """A detection task with masks: tasks."""

    dataset: str
    recipe: str
    train: str
    select: str | None
    eval: str
    score_threshold: float
    detections: int

    @classmethod
    def read(cls, name):
        path = f"tasks/{name}/task.toml"
        table = Table(toml(path), path)
        table.choose("kind", ["detection"])
        if table.take("eval") != [{"op": "resize_longest"}, {"op": "pad"}]:
            raise ValueError(f"{path}: [[eval]] is not resize_longest and pad")
        options, splits = table.table("options"), table.take("splits")
        options.choose("protocol", ["coco"], "coco"), options.choose("masks", [True], True)
        task = cls(
            dataset=table.take("dataset"),
            recipe=table.take("recipe"),
            train=splits["train"],
            select=splits.get("select"),
            eval=splits["eval"],
            score_threshold=options.take("score_threshold", 0.05),  # as COCO's protocol has it in our program
            detections=options.take("detections", 100),
        )
        options.end()
        return task
