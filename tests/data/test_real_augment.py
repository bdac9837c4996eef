"""Real images: the fused pass against OpenCV's five, the device's batches against the workers'."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from tests import opencv_input
from tests.augment_cases import render
from tests.data_cases import equal
from tests.support import shared
from tests.tolerances import HSV_LEVELS, OPENCV_BOXES, OPENCV_LEVELS, OPENCV_MEAN
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data import augment
from yolov9k.data.augment import View
from yolov9k.data.cache.image_cache import Reader
from yolov9k.data.config import load_split
from yolov9k.data.dataset import DetectionDataset, Sample
from yolov9k.data.labels import Labels
from yolov9k.data.loader import make_loader
from yolov9k.data.records import Split

SIZE = 320
SOURCES = ["data/coco-demo", "data/bccd"]
RECIPES = {
    "default": TrainRecipe().override(mixup=0.5),
    "restless": TrainRecipe().override(degrees=20, shear=8, perspective=0.0005, flipud=0.5, mixup=0.5, copy_paste=0.8),
}


def real_split(name: str) -> Split:
    split = load_split(shared(name), "train")
    split.records = split.records[:12]
    return split


@pytest.mark.parametrize("hyp", RECIPES)
@pytest.mark.parametrize("name", SOURCES)
def test_images_and_boxes_are_opencvs(name: str, hyp: str) -> None:
    """Colors aside, which follow. OpenCV blends the same neighbors; positions and weights are rounded on their own grids."""
    split = real_split(name)
    dataset = DetectionDataset(split.records, RECIPES[hyp], SIZE, augment=True)
    reader = Reader(split.records, SIZE, fast=True)
    images = [reader(i) for i in range(len(split.records))]
    tiles = [(i, Labels.of_records([r], [(*i.shape[1::-1], 0, 0)])) for i, r in zip(images, split.records, strict=True)]
    objects = 0
    for seed in range(12):
        params = augment.draw(np.random.default_rng(seed), RECIPES[hyp], seed % len(tiles), len(tiles), mosaic=True)
        views = dataset.apply(params, seed, (SIZE, SIZE), [])
        share, plain = (params.mix if len(views) > 1 else 1.0), (1.0, 1.0, 1.0)
        found, classes, boxes = render(Sample(views, share, plain, 0, (SIZE, SIZE), (SIZE, SIZE)))
        still = augment.AugmentParams(params.mosaics, params.mix, params.warp, plain, params.flip_lr, params.flip_ud)
        wanted, labels = opencv_input.apply(still, tiles, SIZE)
        off = np.abs(found.astype(int) - wanted)
        assert off.mean() <= OPENCV_MEAN
        assert np.quantile(off, 0.999) <= OPENCV_LEVELS
        assert classes.tolist() == labels.classes.tolist()
        assert np.abs(boxes - labels.boxes).max(initial=0) <= OPENCV_BOXES
        objects += len(classes)
    assert objects > 30


@pytest.mark.parametrize("name", SOURCES)
def test_colors_of_images_are_opencvs(name: str) -> None:
    """Of the very same pixels: an image as it is, by drawn gains."""
    rng = np.random.default_rng(1)
    split = real_split(name)
    reader = Reader(split.records, SIZE, fast=True)
    for index in range(4):
        image = reader(index)
        shape = (image.shape[0], image.shape[1])
        gains = augment.draw(rng, TrainRecipe(), 0, 1, mosaic=False).gains
        canvas = augment.Canvas(shape, (augment.Layer(image, 0, 0),), Labels.empty())
        found = render(Sample((View(canvas, np.eye(3)),), 1.0, gains, 0, shape, shape))[0]
        off = np.abs(found.astype(int) - opencv_input.recolor(image, gains))
        assert off.max() <= HSV_LEVELS


@pytest.mark.parametrize("kind", ["square", "rectangular", "scaled", "evaluation"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_device_makes_the_very_same_batches(name: str, kind: str) -> None:
    options = {
        "img_size": 96, "batch": 4, "augment": kind != "evaluation", "rect": kind == "rectangular",
        "multi_scale": kind == "scaled", "epochs": 99, "seed": 3,
    }  # fmt: skip
    worker = make_loader(real_split(name), RECIPES["default"], workers=0, **options)  # type: ignore[arg-type]
    device = make_loader(real_split(name), RECIPES["default"], workers=2, augment_on="cpu", **options)  # type: ignore[arg-type]
    made, raw = list(worker), list(device.raw())
    assert len(made) == 3
    assert all(equal(a, b) for a, b in zip(made, device, strict=True))
    for batch, one in zip(made, raw, strict=True):
        assert equal(batch, one.to("cpu").augment())
        assert equal(batch, one.augment(backend="reference"))
        floats = one.augment(torch.bfloat16, channels_last=True).images
        assert floats.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(floats, (batch.images.float() / 255).bfloat16())
    device.close()
    with pytest.raises(RuntimeError, match="workers augment"):
        worker.raw()


def test_only_what_is_seen_is_packed() -> None:
    """Cropping to the view changes no byte of the image and leaves most of a mosaic's pixels behind."""
    split = real_split("data/coco-demo")
    dataset = DetectionDataset(split.records, TrainRecipe(), SIZE, augment=True)
    for seed in range(8):
        params = augment.draw(np.random.default_rng(seed), RECIPES["restless"], 0, len(dataset), mosaic=True)
        view = dataset.apply(params, 0, (SIZE, SIZE), [])[0]
        inverse = view.inverse((SIZE, SIZE), (SIZE, SIZE))
        seen = view.seen(inverse, (SIZE, SIZE))
        assert sum(layer.image.size for layer in seen) <= sum(layer.image.size for layer in view.canvas.layers)
        sample = Sample((view,), 1.0, params.gains, 0, (SIZE, SIZE), (SIZE, SIZE))
        cropped = render(sample)[0]
        whole = render(Sample((_Uncropped(view.canvas, view.matrix),), 1.0, params.gains, 0, (SIZE, SIZE), (SIZE, SIZE)))[0]
        assert np.array_equal(cropped, whole)


class _Uncropped(View):
    def seen(self, inverse: np.ndarray, output: tuple[int, int]) -> list[augment.Layer]:
        return list(self.canvas.layers)


def test_a_view_without_rotation_stays_upright_to_the_bit() -> None:
    """The host's fast path, same columns in all rows, asks for exact zeros."""
    for seed in range(50):
        params = augment.draw(np.random.default_rng(seed), TrainRecipe(), 0, 4, mosaic=True)
        shape = (SIZE, SIZE)
        flips = augment.mirror(shape, flip_lr=params.flip_lr, flip_ud=params.flip_ud)
        canvas = augment.Canvas((2 * SIZE, 2 * SIZE), (), Labels.empty())
        view = View(canvas, flips @ params.mosaics[0].warp.matrix(canvas.shape, shape))
        inverse = view.inverse(shape, (SIZE + 32, SIZE - 32))
        assert inverse[0, 1] == inverse[1, 0] == inverse[2, 0] == inverse[2, 1] == 0
        assert inverse[2, 2] == 1


def test_a_new_size_is_seen_at_once_and_boxes_stay_shares() -> None:
    """Multi-scale: the view leads to the new size, in place of a second resize of what was resampled already."""
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8), (0, 0), 3)
    labels = Labels.make(np.zeros(1, np.int64), np.array([[8, 16, 40, 48]], np.float32), [None])
    view = View(augment.Canvas((64, 64), (augment.Layer(image, 0, 0),), labels), np.eye(3), whole=True)
    found, _, boxes = render(Sample((view,), 1.0, (1.0, 1.0, 1.0), 0, (64, 64), (96, 96)))
    wanted = cv2.resize(image, (96, 96), interpolation=cv2.INTER_LINEAR)
    assert np.abs(found[2:-2, 2:-2].astype(int) - wanted[2:-2, 2:-2]).max() <= 1
    assert np.allclose(boxes, [[8, 16, 40, 48]])
