"""Tests of the parts of scripts/control_detection. They need torch, torchvision and pycocotools:

  python3 -m unittest discover --start-directory scripts/pytorch
"""

import importlib.machinery
import importlib.util
import json
import pathlib
import tempfile
import unittest

import numpy as np
import PIL.Image
import torch

import data
import detector
import program
import recipe
import training
import vit
import weights

MODEL = recipe.Model(image=32, patch=8, width=16, depth=4, heads=2)
HEAD = {"channels": 8, "pyramid_norm": "layer", "fpn_norm": "batch", "head_norm": "none", "rpn_convs": 1, "box_convs": 1}
HEAD |= {"box_width": 16, "mask_convs": 1, "anchor_sizes": [4, 8, 12, 16, 24], "regions": 16, "anchors": 16}


def control():
    """The program itself, as a module."""
    path = str(recipe.ROOT / "scripts/control_detection")
    loader = importlib.machinery.SourceFileLoader("control_detection", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("control_detection", loader))
    loader.exec_module(module)
    return module


def write(path, tensors):
    """A file of safetensors in f32."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        values = tensor.detach().contiguous().numpy().tobytes()
        place = [len(data), len(data) + len(values)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": place}
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


class WithFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)


class Weights(WithFolder):
    def setUp(self):
        super().setUp()
        self.golden = weights.read(recipe.ROOT / "tests/golden/mae_square.safetensors")
        self.file = self.folder / "model.safetensors"
        self.tensors = {name[8:]: value for name, value in self.golden.items() if name.startswith("weights.")}

    def backbone(self):
        return vit.Vit(16, 2, 2, patch=4, image=24, final_norm=False, positions="shared").eval()

    def test_maps_are_those_that_our_program_computes_from_the_same_weights(self):
        write(self.file, self.tensors)
        backbone = self.backbone()
        weights.load(backbone, self.file)
        with torch.inference_mode():
            maps = backbone.maps(self.golden["images"], [0, 1])
        for i, found in enumerate(maps):
            torch.testing.assert_close(found.flatten(2).transpose(1, 2), self.golden[f"features.{i}"], rtol=1e-4, atol=1e-4)

    def test_files_that_do_not_fit_are_refused(self):
        without = dict(self.tensors)
        without.pop("blocks.1.mlp.fc2.bias")
        write(self.file, without)
        with self.assertRaisesRegex(ValueError, r"missing \['blocks.1.mlp.fc2.bias'\]"):
            weights.load(self.backbone(), self.file)
        write(self.file, self.tensors | {"register_tokens": torch.zeros(1, 4, 16)})
        with self.assertRaisesRegex(ValueError, r"not known \['register_tokens'\]"):
            weights.load(self.backbone(), self.file)


class Recipes(unittest.TestCase):
    def test_the_recipe_of_the_demonstration(self):
        found = recipe.Recipe.read("maskrcnn_demo", assignments=["optim.base_lr=4e-3", "epochs=7", "transfer.tune=head"])
        text = recipe.toml("configs/transfer/maskrcnn_demo.toml")
        model = recipe.toml(f"configs/models/{text['default_model']}.toml")
        self.assertEqual((found.epochs, found.tune, found.lr), (7, "head", 4e-3 * text["batch"] / 256))
        self.assertEqual((found.layer_decay, found.clip), (text["optim"]["layer_decay"], text["clip"]))
        self.assertEqual((found.model.width, found.model.heads), (model["width"], model["heads"]))
        sizes = detector.Sizes.of(found.head, found.model.patch, classes=10)
        head = text["transfer"]["head"]
        self.assertEqual((sizes.channels, sizes.anchor_sizes), (head["channels"], tuple(head["anchor_sizes"])))
        self.assertEqual(sizes.before_nms, (head["proposals_before_nms"], head["proposals_before_nms_test"]))

    def test_what_is_not_supported_is_refused(self):
        for assignment, message in {
            "optim.bse_lr=1": "bse_lr",
            "schedule.name=step": "name = 'step' is not supported",
            "transfer.attention.relative_position=decomposed": "relative_position = 'decomposed'",
            "augment=[{op = \"flip\", p = 0.5}]": "augment",
            "epochs": "not KEY=VALUE",
        }.items():
            with self.subTest(assignment), self.assertRaisesRegex(ValueError, message):
                recipe.Recipe.read("maskrcnn_demo", assignments=[assignment])
        with self.assertRaisesRegex(ValueError, "transfer.head.taps_norm"):
            detector.Sizes.of({"taps_norm": "layer"}, 8)

    def test_parts_for_models_and_tasks_are_laid_over_a_recipe(self):
        tree = {"optim": {"base_lr": 1.0, "name": "adamw"}, "epochs": 3}
        recipe.merge(tree, {"optim": {"base_lr": 2.0}})
        self.assertEqual(tree, {"optim": {"base_lr": 2.0, "name": "adamw"}, "epochs": 3})

    def test_splits_and_task(self):
        task = recipe.Task.read("shapes_detection")
        self.assertEqual((task.dataset, task.score_threshold, task.detections), ("shapes", 0.05, 100))
        self.assertEqual((task.train, task.select, task.eval), ("train_instances", "select_instances", "val_instances"))
        few = recipe.Split.read("shapes", "train_300")
        self.assertEqual((few.images, few.entries, few.drop_empty), ("train/images", (0, 300), True))
        with self.assertRaisesRegex(ValueError, "format = 'image_folder'"):
            recipe.Split.read("shapes", "train")
        with self.assertRaisesRegex(ValueError, "has no split `train_7`"):
            recipe.Split.read("shapes", "train_7")


def objects(folder, count=4):
    """A data set of images of a bright square each, one more without any, and one of a crowd."""
    (folder / "images").mkdir()
    images, annotations = [], []
    for i in range(count + 2):
        pixels = np.full((32, 32, 3), 90, np.uint8)
        x, y = 3 + 2 * i, 12 - i
        if i < count:
            pixels[y : y + 12, x : x + 12] = 220
        if i != count:
            outline = [[x, y, x + 12, y, x + 12, y + 12, x, y + 12]]
            found = {"id": i + 1, "image_id": 9 - i, "category_id": 3 + i % 2, "bbox": [x, y, 12, 12], "area": 144}
            annotations.append(found | {"segmentation": outline, "iscrowd": int(i > count)})
        PIL.Image.fromarray(pixels).save(folder / f"images/{i}.png")
        images.append({"id": 9 - i, "file_name": f"{i}.png", "width": 32, "height": 32})
    categories = [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document))
    return folder / "images", folder / "instances.json"


class Detection(WithFolder):
    def setUp(self):
        super().setUp()
        torch.manual_seed(0)
        self.files = objects(self.folder)

    def objects(self, transform=None, **which):
        with program.quiet():
            return data.Objects(*self.files, transform, **which)

    def program(self, tune):
        described = recipe.Recipe.read("maskrcnn_demo", assignments=[f"transfer.tune={tune}", "batch=2"])
        described = recipe.dataclasses.replace(described, model=MODEL, head=HEAD)
        return program.MaskRcnn(described, self.objects(data.scale_jitter(32, (0.8, 1.25))), self.objects(empty=True))

    def test_images_are_in_the_order_of_the_file(self):
        self.assertEqual(self.objects().ids, [9, 8, 7, 6])
        self.assertEqual(self.objects(entries=(0, 3)).ids, [9, 8, 7])
        self.assertEqual(self.objects(empty=True).ids, [9, 8, 7, 6, 5, 4])

    def test_a_frozen_backbone_stays_as_it_is_and_heads_learn(self):
        for tune in ("head", "all"):
            built = self.program(tune)
            before = {name: value.clone() for name, value in built.model.state_dict().items()}
            built.model.train()
            self.assertEqual(built.model.backbone.training, tune == "all")
            trainer = training.Trainer(training.Variant("f32", "cpu"), built.model, built.groups(), built.betas, built.clip)
            batch = program.MaskRcnn.collate([built.images[i] for i in range(2)])
            trainer.step(lambda: built.loss(batch))
            changed = {name for name, value in built.model.state_dict().items() if not torch.equal(value, before[name])}
            of_backbone = {name for name in changed if name.startswith("backbone.")}
            self.assertEqual(len(of_backbone) > 0, tune == "all")
            self.assertIn("fpn.inner_blocks.0.0.weight", changed)

    def test_the_crop_of_detectron2_pads_small_images_at_the_bottom_and_on_the_right(self):
        colour = torch.tensor(data.PADDING).div(255).sub(torch.tensor(data.MEAN)).div(torch.tensor(data.STD))
        for seed in range(8):
            torch.manual_seed(seed)
            images, targets = zip(*self.objects(data.scale_jitter(32, (0.5, 0.5), "detectron2")))
            for image, target in zip(images, targets):
                masks = target["masks"]
                self.assertEqual((image.shape, masks.shape[1:]), ((3, 32, 32), (32, 32)))
                if masks[:, :, 16:].any():
                    image, masks = image.flip(2), masks.flip(2)  # mirrored after the crop
                for padding in (image[:, 16:], image[:, :, 16:]):
                    torch.testing.assert_close(padding, colour[:, None, None].expand_as(padding), rtol=0, atol=1e-5)
                self.assertGreater(int(masks[:, :16, :16].sum()), 0)
                self.assertEqual(int(masks[:, 16:].sum() + masks[:, :, 16:].sum()), 0)

    def test_the_crop_of_detectron2_places_its_window_by_one_number(self):
        crop = data.FixedSizeCrop(8)
        canvas = PIL.Image.new("RGB", (28, 18))
        found = []
        for seed in range(20):
            torch.manual_seed(seed)
            place = float(torch.rand(()))
            torch.manual_seed(seed)
            found.append(crop.make_params([canvas]))
            self.assertEqual(found[-1], {"top": round(10 * place), "left": round(20 * place)})
        self.assertGreater(len({place["left"] for place in found}), 10)

    def test_the_loss_of_boxes(self):
        self.addCleanup(detector.set_box_loss, "smooth_l1")
        found, wanted = torch.tensor([0.0, 0.05, 2.0]), torch.zeros(3)
        losses = {}
        for name in detector.BOX_LOSSES:
            detector.set_box_loss(name)
            modules = (detector.rpn, detector.roi_heads)
            losses[name] = [float(m.F.smooth_l1_loss(found, wanted, beta=1 / 9, reduction="sum")) for m in modules]
        self.assertEqual(losses["l1"], [float(found.sum())] * 2)
        self.assertEqual(losses["smooth_l1"], [losses["smooth_l1"][0]] * 2)
        self.assertAlmostEqual(losses["smooth_l1"][0], 0.5 * 0.05**2 * 9 + 2 - 0.5 / 9, places=6)
        self.assertIs(detector.roi_heads.F.softmax, torch.nn.functional.softmax)

    def test_the_order_of_images_depends_on_the_seed_alone(self):
        built = self.program("all")
        run = program.Run(built, training_arguments(self.folder))
        numbers = torch.utils.data.TensorDataset(torch.arange(64))
        built.collate = torch.utils.data.default_collate

        def order(seed, other_draws):
            torch.manual_seed(seed)
            loader = run.loader(numbers, 8, train=True)
            torch.rand(other_draws)
            return [[batch[0].tolist() for batch in loader] for _ in range(2)]

        self.assertEqual(order(3, 0), order(3, 5))
        self.assertNotEqual(order(3, 0), order(4, 0))
        self.assertNotEqual(*order(3, 0))

    def test_every_image_is_scored_and_what_is_found_is_right(self):
        """Predictions that are the truth reach 100, and those of no object 0."""
        built = self.program("all")
        run = program.Run(built, training_arguments(self.folder))
        none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
        none["masks"] = torch.zeros(0, 1, 32, 32, dtype=torch.bool)

        def perfect(images, sources):
            found = []
            for image in ids[len(seen) : len(seen) + len(images)]:
                seen.append(image)
                of = built.truth.objects(image)
                if not of:
                    found.append(none)
                    continue
                boxes = torch.tensor([o["bbox"] for o in of], dtype=torch.float32)
                boxes[:, 2:] += boxes[:, :2]
                masks = torch.from_numpy(np.stack([built.truth.coco.annToMask(o) for o in of]))[:, None].bool()
                labels = torch.tensor([built.truth.label[o["category_id"]] for o in of])
                found.append({"boxes": boxes, "labels": labels, "scores": torch.ones(len(of)), "masks": masks})
            return found

        ids, seen = built.truth.ids, []
        built.model.predict = perfect
        count, scores = built.evaluate(run)
        self.assertEqual((count, len(seen), scores["detections"]), (6, 6, 4))
        self.assertAlmostEqual(scores["box_ap50"], 100), self.assertAlmostEqual(scores["mask_ap50"], 100)
        built.model.predict = lambda images, sources: [none] * len(images)
        self.assertEqual(built.evaluate(run)[1], {"box_ap50": 0.0, "mask_ap50": 0.0, "detections": 0})


def training_arguments(folder):
    return program.argparse.Namespace(variant="f32", device="cpu", workers=0, steps=1, out=folder)


class Differences(unittest.TestCase):
    def test_pairs_have_the_same_seed(self):
        run = lambda init, seed, score: {"init": init, "seed": seed, "box_ap50": score, "mask_ap50": score / 2}
        runs = [run("weights", 0, 12.0), run("random", 0, 10.0), run("weights", 1, 10.0), run("random", 1, 11.0)]
        found = control().difference([*runs, run("weights", 2, 99.0)], 1)  # whose other run is not done
        self.assertEqual((found["pairs"], found["pretrainings"]), (2, 1))
        self.assertAlmostEqual(found["box_ap50"]["mean"], 0.5)
        self.assertAlmostEqual(found["box_ap50"]["stderr"], 1.5)  # sqrt(4.5) / sqrt(2)
        self.assertEqual(found["mask_ap50"]["of_pairs"], [1.0, -0.5])
        self.assertIsNone(control().difference(runs[:2], 1)["box_ap50"]["stderr"])
        self.assertIsNone(control().difference(runs[:1], 1))


if __name__ == "__main__":
    unittest.main()
