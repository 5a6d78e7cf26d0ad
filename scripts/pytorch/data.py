"""Data sets and transforms of the whole programs, in the layout of our data set `shapes` (datasets/shapes/README.md)."""

import pathlib

import numpy as np
import PIL.Image
import torch
from pycocotools.coco import COCO
from torchvision import datasets, tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PADDING = tuple(round(255 * value) for value in MEAN)
IGNORE = 255


def normalized(mask=None):
    """From a picture of Pillow to a normalised tensor. `mask` is the type of the values of masks."""
    types = {tv_tensors.Image: torch.float32, tv_tensors.Mask: mask, "others": None}
    return [v2.ToImage(), v2.ToDtype(types, scale=True), v2.Normalize(MEAN, STD), v2.ToPureTensor()]


def random_crops(size, scale):
    """Training of classifiers, and pre-training."""
    crop = v2.RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *normalized()])


def resized(size):
    """Evaluation of classifiers."""
    return v2.Compose([v2.Resize((size, size), interpolation=InterpolationMode.BICUBIC), *normalized()])


CROPS = ("detectron2", "torchvision")


def scale_jitter(size, scale, crop="torchvision"):
    """Training of detectors. Images smaller than `size` are padded: at the bottom and on the right if the crop is detectron2's,
    as in our kind `detection`; on random sides if it is torchvision's."""
    fill = {PIL.Image.Image: PADDING, "others": 0}
    crops = {"detectron2": lambda: FixedSizeCrop(size), "torchvision": lambda: v2.RandomCrop(size, pad_if_needed=True, fill=fill)}
    crop = crops[crop]()
    jitter = v2.ScaleJitter((size, size), scale)
    return v2.Compose([jitter, crop, v2.RandomHorizontalFlip(), v2.SanitizeBoundingBoxes(), *normalized()])


def scenes(short, scale, window):
    """Training of segmenters: the shorter side becomes `short` times a factor within `scale`."""
    low, high = (int(short * factor) for factor in scale)
    distort = v2.RandomPhotometricDistort((0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.1, 0.1), 0.5)
    crop = SceneCrop(window, 0.75)
    return v2.Compose([v2.RandomResize(low, high + 1), crop, v2.RandomHorizontalFlip(), distort, *normalized(torch.int64)])


def whole_scenes(short):
    """Evaluation of segmenters: the image at the size of the windows' recipe, the labels at their own."""
    resize = v2.Resize(short)
    rest = v2.Compose(normalized(torch.int64))
    return lambda image, mask: rest(resize(image), mask)


class FixedSizeCrop(v2.Transform):
    """detectron2's `FixedSizeCrop` to a square: one uniform number places the window in both directions."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs):
        canvas = next(value for value in flat_inputs if isinstance(value, PIL.Image.Image))
        place = float(torch.rand(()))
        top, left = (round(max(have - self.size, 0) * place) for have in V.get_size(canvas))
        return {"top": top, "left": left}

    def transform(self, value, params):
        height, width = V.get_size(value)
        below, right = (max(self.size - have, 0) for have in (height, width))
        if below or right:
            value = V.pad(value, [0, 0, right, below], fill=list(PADDING) if isinstance(value, PIL.Image.Image) else 0)
        return V.crop(value, params["top"], params["left"], self.size, self.size)


class SceneCrop(v2.Transform):
    """mmsegmentation's `RandomCrop`: a crop in which the share of no class exceeds `class_share`, if eleven tries find one.
    Smaller images are padded at the bottom and on the right."""

    def __init__(self, size, class_share):
        super().__init__()
        self.size, self.class_share = size, class_share

    def make_params(self, flat_inputs):
        mask = next(value for value in flat_inputs if isinstance(value, tv_tensors.Mask))
        place = lambda have, want: int(torch.randint(max(have - want, 0) + 1, ()))
        for _ in range(11):
            top, left = (place(have, want) for have, want in zip(mask.shape[-2:], self.size))
            classes = torch.bincount(mask[..., top : top + self.size[0], left : left + self.size[1]].flatten())
            if classes.max() < self.class_share * classes.sum():
                break
        return {"top": top, "left": left}

    def transform(self, value, params):
        height, width = V.get_size(value)
        below, right = (max(want - have, 0) for have, want in zip((height, width), self.size))
        if below or right:
            value = V.pad(value, [0, 0, right, below], fill=IGNORE if isinstance(value, tv_tensors.Mask) else PADDING)
        return V.crop(value, params["top"], params["left"], *self.size)


def read(path):
    with PIL.Image.open(path) as image:
        return image.convert("RGB")


class Unlabelled(torch.utils.data.Dataset):
    """The images of a folder."""

    def __init__(self, folder, transform):
        self.files, self.transform = sorted(pathlib.Path(folder).iterdir()), transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.transform(read(self.files[index]))


def classes(folder, transform):
    """A folder of images for each class: (image, label)."""
    return datasets.ImageFolder(folder, transform, loader=read)


class Scenes(torch.utils.data.Dataset):
    """Images with a PNG of class indices for each: (image, labels)."""

    def __init__(self, images, masks, transform):
        self.files, self.masks, self.transform = sorted(pathlib.Path(images).iterdir()), pathlib.Path(masks), transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        path = self.files[index]
        mask = PIL.Image.open((self.masks / path.stem).with_suffix(".png"))
        return self.transform(read(path), tv_tensors.Mask(np.array(mask)))


class Objects(torch.utils.data.Dataset):
    """Images annotated as COCO is: (image, boxes, labels and masks) with labels from 1, in the order of the file. Those without
    an object are left out unless `empty`; `entries` is the range of those that are used of the rest."""

    def __init__(self, images, annotations, transform, empty=False, entries=None):
        self.folder, self.transform, self.coco = pathlib.Path(images), transform, COCO(annotations)
        self.label = {category: i + 1 for i, category in enumerate(sorted(self.coco.getCatIds()))}
        ids = [image for image in self.coco.imgs if empty or self.objects(image)]
        self.ids = ids if entries is None else ids[slice(*entries)]

    def objects(self, image):
        return self.coco.loadAnns(self.coco.getAnnIds(image, iscrowd=False))

    def image(self, image):
        return read(self.folder / self.coco.imgs[image]["file_name"])

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        objects, image = self.objects(self.ids[index]), self.image(self.ids[index])
        boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(image.height, image.width)),
            "labels": torch.tensor([self.label[o["category_id"]] for o in objects]),
            "masks": tv_tensors.Mask(np.stack([self.coco.annToMask(o) for o in objects])),
        }
        return self.transform(image, target)


class Scaled(torch.utils.data.Dataset):
    """The images of `Objects` for evaluation, with the longer side scaled to `size` and padded: (image, id, scale)."""

    def __init__(self, objects, size):
        self.objects, self.size, self.transform = objects, size, v2.Compose(normalized())

    def __len__(self):
        return len(self.objects)

    def __getitem__(self, index):
        image = self.objects.image(self.objects.ids[index])
        scale = self.size / max(image.width, image.height)
        height, width = (max(int(side * scale + 0.5), 1) for side in (image.height, image.width))
        image = V.pad(V.resize(image, [height, width]), [0, 0, self.size - width, self.size - height], fill=PADDING)
        return self.transform(image), self.objects.ids[index], scale
