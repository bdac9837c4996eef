"""A user's own augmentation: what it is given, what may come back, the same batches whatever makes them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tests.data_cases import equal, make_split
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.loader import Loader, make_loader
from yolov9k.data.records import Split

PLAIN = TrainRecipe(mosaic=0, hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return make_split(tmp_path / "data", [(48, 64), (64, 40), (30, 30), (64, 64)])


def loader(split: Split, transform, recipe: TrainRecipe = TrainRecipe(), **options) -> Loader:  # noqa: B008 (frozen)
    settings = {"img_size": 64, "batch": 4, "augment": True, "workers": 0, "epochs": 20, "close_mosaic": 0}
    return make_loader(split, recipe, transform=transform, **{**settings, **options})


def test_it_is_given_images_boxes_and_classes_of_the_training_size(split: Split) -> None:
    seen = []

    def look(image, boxes, classes):
        seen.append(
            (image.shape, image.dtype, image.flags.writeable, boxes.dtype, boxes.shape, classes.dtype, boxes.max(initial=0))
        )
        return image, boxes, classes

    plain, looked = (next(iter(loader(split, transform, PLAIN))) for transform in (None, look))
    assert equal(plain, looked)  # what changes nothing changes nothing, outlines included
    assert len(seen) == 4
    for shape, dtype, writable, kind, boxes, numbers, largest in seen:
        assert (max(shape[:2]), shape[2], dtype, writable) == (64, 3, np.uint8, True)
        assert (kind, boxes[1], numbers) == (np.float32, 4, np.int64)
        assert largest <= 64


def test_what_it_returns_is_trained_on(split: Split) -> None:
    def half(image, boxes, classes):
        """The left half, gray, with one object of class 1 in its upper part."""
        height, width = image.shape[0], image.shape[1] // 2
        return np.full((height, width, 3), 200, np.uint8), [[-5, 0, width + 9, height / 2]], [1]

    batch = next(iter(loader(split, half, PLAIN)))
    assert batch.counts.tolist() == [1] * 4
    assert batch.boxes[:, 0, 0].tolist() == [1] * 4
    for image, box, index in zip(batch.images, batch.boxes[:, 0, 1:], batch.indices, strict=True):
        record = split.records[index]
        gain = 64 / max(record.height, record.width)
        height, width = round(record.height * gain), round(record.width * gain) // 2
        assert (box * 64).tolist() == pytest.approx([32, (64 - height) // 2 + height / 4, width, height / 2], abs=0.01)
        assert int((image[0] == 200).sum()) == height * width


def test_none_left_and_images_that_grew(split: Split) -> None:
    def grow(image, boxes, classes):
        return np.full((150, 300, 3), 9, np.uint8), np.zeros((0, 4)), np.zeros(0, int)

    for recipe in (PLAIN, TrainRecipe(mosaic=1, mixup=1, hsv_h=0, hsv_s=0, hsv_v=0)):
        batch = next(iter(loader(split, grow, recipe)))
        assert batch.counts.tolist() == [0] * 4
        assert bool((batch.images <= 114).all())


@pytest.mark.parametrize("named", [True, False], ids=["rng", "global generators"])
def test_batches_do_not_depend_on_the_workers(split: Split, named: bool) -> None:
    def with_rng(image, boxes, classes, rng):
        return np.clip(image + rng.integers(0, 99), 0, 255).astype(np.uint8), boxes, classes

    def with_globals(image, boxes, classes):
        return np.clip(image + random.randrange(50) + np.random.randint(50), 0, 255).astype(np.uint8), boxes, classes  # noqa: NPY002

    function = with_rng if named else with_globals
    alone, helped = loader(split, function, batch=2), loader(split, function, batch=2, workers=2)
    state = random.getstate()
    first = [list(alone), list(helped)]
    assert all(equal(a, b) for a, b in zip(*first, strict=True))
    assert random.getstate() == state  # the program's own generator goes on as it was
    alone.set_epoch(1)
    helped.set_epoch(1)
    second = [list(alone), list(helped)]
    assert all(equal(a, b) for a, b in zip(*second, strict=True))
    assert not equal(first[0][0], second[0][0])
    assert not equal(first[0][0], next(iter(loader(split, function, batch=2, seed=1))))
    helped.close()


def test_a_cached_image_is_not_changed(split: Split) -> None:
    def blacken(image, boxes, classes):
        image[:] = 0
        boxes[:] = 0
        return image, boxes, classes

    cached = loader(split, blacken, PLAIN, cache="ram")
    before = [cached.dataset.images(index).copy() for index in range(4)]
    batch = next(iter(cached))
    assert batch.counts.tolist() == [0] * 4
    assert all((cached.dataset.images(index) == image).all() for index, image in enumerate(before))
    assert split.records[0].boxes.any()


def test_validation_is_left_alone(split: Split) -> None:
    def never(image, boxes, classes):
        raise AssertionError

    next(iter(loader(split, never, augment=False)))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda i, b, c: (i.astype(float), b, c), r"the image is float64 \["),
        (lambda i, b, c: (i[..., 0], b, c), r"the image is uint8 \["),
        (lambda i, b, c: (None, b, c), "the image is NoneType"),
        (lambda i, b, c: (i, [[0, 0, 9, 9]] * 3, [1]), r"3 boxes and classes of shape \[1\]"),
        (lambda i, b, c: (i, [[0, 0, 9, float("nan")]], [1]), "no such numbers"),
        (lambda i, b, c: (i, [[0, 0, 9, 9]], [-1]), r"no such numbers, among them \[-1\]"),
        (lambda i, b, c: (i, b), "got 2 values"),
        (lambda i, b, c: None, "got NoneType"),
    ],
)
def test_what_is_none_of_the_three_is_one_line(split: Split, made, message: str) -> None:
    with pytest.raises(UserError, match=rf"augment: .*\.png: expected \(image, boxes, classes\) .*{message}"):
        next(iter(loader(split, made, PLAIN)))


def test_it_must_be_a_function(split: Split) -> None:
    with pytest.raises(UserError, match="augment: expected a function of image, boxes and classes, got bool"):
        loader(split, True)
