#!/usr/bin/env python3
"""Whole programs in PyTorch, as our recipes of the same names: the other side of the cases `run_*` of scripts/compare_pytorch.

  program.py --list                                                 the cases with their variants, as JSON
  program.py --case run_mae_small --data DIR --steps 40 --out DIR   one run, and a line of JSON

A run reads its images with worker processes, augments them with torchvision's transforms, trains for some steps of the recipe's
schedule, writes its log and a checkpoint, evaluates the whole split, and writes the weights. Its clock starts after the imports
and stands still while functions are compiled. The number of images of each step is that of the recipe.
"""

import argparse
import contextlib
import io
import json
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

import data
import detector
import recipe
import training
import upernet
import vit

WIDTH, DEPTH, HEADS = 192, 6, 3  # of vit_mini8 and vit_mini16


def quiet():
    """Without what pycocotools prints."""
    return contextlib.redirect_stdout(io.StringIO())


class Program:
    """What all recipes have. `weight_decay` is that of AdamW, `lr` the peak of the schedule for this `batch`."""

    betas, weight_decay, clip, min_lr, schedule = (0.9, 0.999), 0.05, None, 1e-6, "cosine"
    collate = staticmethod(torch.utils.data.default_collate)
    compiles = True

    def groups(self):
        return training.layer_groups(self.model, self.lr, self.layer_decay, self.weight_decay, self.exempt)

    def evaluate(self, run):
        """The number of images that were evaluated, and the scores."""
        return 0, {}

    def factor(self, step, steps_per_epoch):
        """Learning rate of a step as a multiple of the peak."""
        epoch = step / steps_per_epoch
        if epoch < self.warmup:
            return epoch / self.warmup
        passed = (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9)
        left = 1 - passed if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * passed))
        least = self.min_lr / self.lr
        return least + (1 - least) * left


class MaeSmall(Program):
    batch, epochs, warmup, lr, betas, min_lr = 128, 100, 5, 1.5e-3, (0.9, 0.95), 0.0

    def __init__(self, folder):
        encoder = vit.Vit(WIDTH, DEPTH, HEADS, patch=8, image=64)
        self.model = vit.MaskedAutoencoder(encoder, WIDTH, decoder_width=96, decoder_depth=2, decoder_heads=3)
        self.images = data.Unlabelled(folder / "pretrain/images", data.random_crops(64, (0.2, 1.0)))

    def groups(self):
        return training.decay_groups(self.model, self.lr, self.weight_decay)

    def loss(self, images):
        return self.model(images)


class FinetuneSmall(Program):
    batch, epochs, warmup, lr, layer_decay, exempt = 64, 60, 5, 1e-3, 0.75, ("pos_embed", "cls_token")

    def __init__(self, folder):
        self.images = data.classes(folder / "classification/train", data.random_crops(64, (0.3, 1.0)))
        self.evaluated = data.classes(folder / "classification/val", data.resized(64))
        backbone = vit.Vit(WIDTH, DEPTH, HEADS, patch=8, image=64, drop_path=0.1, final_norm=False)
        self.model = vit.Classifier(backbone, WIDTH, len(self.images.classes))

    def loss(self, batch):
        images, labels = batch
        return F.cross_entropy(self.model(images), labels, label_smoothing=0.1)

    def evaluate(self, run):
        count = correct = 0
        for images, labels in run.loader(self.evaluated, self.batch):
            with run.variant.autocast():
                predicted = self.model(images).argmax(1)
            correct += (predicted == labels).sum().item()
            count += len(labels)
        return count, {"top1": 100 * correct / count}


class MaskRcnn(Program):
    """Of a recipe (`recipe.Recipe`)."""

    compiles = False  # the number of regions differs from step to step

    def __init__(self, recipe, images, truth, **evaluation):
        """`images` are those of training, `truth` those of evaluation; `evaluation` has the limits of detections."""
        self.images, self.truth = images, truth
        self.batch, self.epochs, self.warmup, self.min_lr = recipe.batch, recipe.epochs, recipe.warmup_epochs, recipe.min_lr
        self.lr, self.layer_decay, self.exempt = recipe.lr, recipe.layer_decay, recipe.no_decay
        self.betas, self.weight_decay, self.clip = recipe.betas, recipe.weight_decay, recipe.clip
        model = recipe.model
        self.size = model.image
        backbone = vit.Vit(
            model.width,
            model.depth,
            model.heads,
            patch=model.patch,
            image=model.image,
            drop_path=recipe.drop_path,
            final_norm=False,
            positions=recipe.positions,
            window=recipe.window,
        )
        sizes = detector.Sizes.of(recipe.head, model.patch, classes=len(truth.label), **evaluation)
        self.model = detector.Detector(backbone, model.width, sizes, frozen=recipe.tune == "head")

    @staticmethod
    def collate(samples):
        images, targets = zip(*samples)
        return torch.stack(images), list(targets)

    def loss(self, batch):
        return self.model.loss(*batch)

    def evaluate(self, run):
        categories = {label: category for category, label in self.truth.label.items()}
        found = []
        for images, ids, scales in run.loader(data.Scaled(self.truth, self.size), self.batch):
            facts = [self.truth.coco.imgs[image] for image in ids.tolist()]
            sources = [(scale, (fact["height"], fact["width"])) for scale, fact in zip(scales.tolist(), facts)]
            with run.variant.autocast():
                results = self.model.predict(images, sources)
            for image, result in zip(ids.tolist(), results):
                boxes = result["boxes"].cpu()
                boxes[:, 2:] -= boxes[:, :2]
                masks = result["masks"][:, 0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
                rles = coco_mask.encode(np.asfortranarray(masks))
                labels, scores = (result[key].tolist() for key in ("labels", "scores"))
                for box, rle, label, score in zip(boxes.tolist(), rles, labels, scores):
                    box = {"image_id": image, "category_id": categories[label], "bbox": box, "score": score}
                    found.append(box | {"segmentation": rle})
        if not found:  # which pycocotools cannot read
            return len(self.truth), {"box_ap50": 0.0, "mask_ap50": 0.0, "detections": 0}
        scores = {}
        with quiet():
            results = self.truth.coco.loadRes(found)
            for kind, name in [("bbox", "box_ap50"), ("segm", "mask_ap50")]:
                scored = COCOeval(self.truth.coco, results, kind)
                scored.params.imgIds = self.truth.ids
                scored.evaluate(), scored.accumulate(), scored.summarize()
                scores[name] = 100 * scored.stats[1]
        return len(self.truth), scores | {"detections": len(found)}


class MaskRcnnSmall(MaskRcnn):
    def __init__(self, folder):
        described = recipe.Recipe.read("maskrcnn_small")
        split = lambda name: (folder / name / "images", folder / f"annotations/instances_{name}.json")
        with quiet():
            images = data.Objects(*split("train"), data.scale_jitter(described.model.image, described.scale))
            truth = data.Objects(*split("val"), None)
        # As many detections as may be, however little the model has learnt.
        super().__init__(described, images, truth, score_threshold=0.0)


class UperNetSmall(Program):
    batch, epochs, warmup, lr, layer_decay, exempt = 16, 100, 3, 1e-3, 0.75, ()
    schedule, min_lr, classes, window, stride, short = "linear", 0.0, 11, (96, 128), 0.6667, 180

    def __init__(self, folder):
        split = lambda name: (folder / name / "images", folder / "semantic" / name)
        self.images = data.Scenes(*split("train"), data.scenes(self.short, (0.5, 2.0), self.window))
        self.evaluated = data.Scenes(*split("val"), data.whole_scenes(self.short))
        backbone = vit.Vit(
            WIDTH, DEPTH, HEADS, patch=16, image=self.window, drop_path=0.1, final_norm=False, positions="per_block"
        )
        self.model = upernet.UperNet(backbone, WIDTH, vit.quarters(DEPTH), 48, 24, self.classes)

    def loss(self, batch):
        return self.model.loss(*batch, data.IGNORE)

    def evaluate(self, run):
        confusion, count = torch.zeros(self.classes, self.classes, dtype=torch.int64, device=run.variant.device), 0
        for images, labels in run.loader(self.evaluated, 1):
            with run.variant.autocast():
                logits = self.slide(images)
            predicted = upernet.resize(logits.float(), labels.shape[1:]).argmax(1)
            known = labels != data.IGNORE
            pairs = labels[known] * self.classes + predicted[known]
            confusion += torch.bincount(pairs, minlength=self.classes**2).view_as(confusion)
            count += len(images)
        hits = confusion.diag()
        iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
        return count, {"miou": 100 * iou.nanmean().item()}

    def slide(self, image):
        """Mean logits of windows that overlap by a third; all windows of an image are one batch."""
        places = [
            (top, left)
            for top in starts(image.shape[2], self.window[0], self.stride)
            for left in starts(image.shape[3], self.window[1], self.stride)
        ]
        height, width = self.window
        crops = torch.cat([image[:, :, top : top + height, left : left + width] for top, left in places])
        total, times = (image.new_zeros(1, channels, *image.shape[2:]) for channels in (self.classes, 1))
        for logits, (top, left) in zip(self.model(crops), places):
            total[:, :, top : top + height, left : left + width] += logits
            times[:, :, top : top + height, left : left + width] += 1
        return total / times


def starts(length, window, stride):
    """Where windows begin, the last one at the end of the image."""
    step = int(window * stride)
    return [min(i * step, length - window) for i in range(max(length - window + step - 1, 0) // step + 1)]


class Run:
    """The training and evaluation of a program."""

    def __init__(self, program, args):
        self.program, self.args = program, args
        self.variant = training.Variant(args.variant, args.device)
        self.compiling = 0.0  # seconds
        program.model.to(args.device)

    def loader(self, images, batch, train=False):
        """Batches on the device. The order of images in training depends on the seed alone, not on what else draws numbers."""
        workers, cuda = self.args.workers, self.args.device == "cuda"
        loader = torch.utils.data.DataLoader(
            images,
            batch_size=batch,
            shuffle=train,
            drop_last=train,
            generator=torch.Generator().manual_seed(torch.initial_seed()) if train else None,
            num_workers=workers,
            collate_fn=self.program.collate if train else None,
            pin_memory=cuda,
            persistent_workers=train and workers > 0,
        )
        return Batches(loader, self.args.device)

    def train(self):
        """Trains, and leaves the log and a checkpoint from which the run could go on. Returns the last loss."""
        program, args = self.program, self.args
        loader = self.loader(program.images, program.batch, train=True)
        trainer = training.Trainer(self.variant, program.model, program.groups(), program.betas, program.clip)
        factor = lambda step: program.factor(step, len(loader))
        schedule = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, factor)
        loss, step = self.compiled(program.loss, program.images), 0
        program.model.train()
        with open(args.out / "log.jsonl", "w") as log:
            while step < args.steps:
                for batch in loader:
                    value = trainer.step(lambda: loss(batch))
                    schedule.step()
                    step += 1
                    log.write(json.dumps({"step": step, "lr": schedule.get_last_lr()[-1], "loss": value}) + "\n")
                    if step == args.steps:
                        break
        state = {"model": program.model.state_dict(), "optimizer": trainer.optimizer.state_dict(), "step": step}
        torch.save(state, args.out / "state.pt")
        return value

    def evaluate(self):
        """Evaluates, and leaves the weights."""
        self.program.model.eval()
        with torch.inference_mode():
            count, scores = self.program.evaluate(self)
        torch.save(self.program.model.state_dict(), self.args.out / "model.pt")
        return count, scores

    def compiled(self, loss, images):
        """`loss`, compiled if that is asked for; compiling is not on the clock."""
        if not self.variant.compiled:
            return loss
        began, loss = time.perf_counter(), self.variant.prepare(loss)
        samples = self.program.collate([images[i] for i in range(self.program.batch)])
        with self.variant.autocast():
            value = loss(to(samples, self.args.device))
        value.backward()
        self.program.model.zero_grad(set_to_none=True)
        self.compiling = time.perf_counter() - began
        return loss


class Batches:
    """The batches of a loader, on a device."""

    def __init__(self, loader, device):
        self.loader, self.device = loader, device

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return (to(batch, self.device) for batch in self.loader)


def to(value, device):
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to(item, device) for key, item in value.items()}
    return [to(item, device) for item in value]


CASES = {
    "run_mae_small": MaeSmall,
    "run_finetune_small": FinetuneSmall,
    "run_maskrcnn_small": MaskRcnnSmall,
    "run_upernet_small": UperNetSmall,
}


def main():
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--variant", choices=training.VARIANTS, default="f32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the training process (default 2)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images (default 2)")
    parser.add_argument("--steps", type=int, default=3, help="training steps (default 3)")
    parser.add_argument("--data", type=pathlib.Path, help="folder in the layout of the data set `shapes`")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the log, the checkpoint and the weights")
    parser.add_argument("--list", action="store_true", help="cases with their variants, as JSON")
    args = parser.parse_args()
    if args.list:
        variants = {case: training.VARIANTS if CASES[case].compiles else ["f32", "bf16"] for case in CASES}
        return print(json.dumps({"cases": variants}))
    if not (args.case and args.data and args.out):
        parser.error("--case, --data and --out are needed, or --list")
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    training.ieee_f32()
    args.out.mkdir(parents=True, exist_ok=True)
    program = CASES[args.case](args.data)
    run = Run(program, args)
    loss = run.train()
    evaluated, scores = run.evaluate()
    seconds = time.perf_counter() - began - run.compiling
    parameters, trainable = training.count_parameters(program.model)
    line = {
        "case": args.case,
        "variant": args.variant,
        "images": args.steps * program.batch + evaluated,
        "parameters": parameters,
        "trainable": trainable,
        "ms": [1e3 * seconds],
        "program": {"steps": args.steps, "batch": program.batch, "evaluated": evaluated},
        "loss": loss,
        "scores": scores,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
