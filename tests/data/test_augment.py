"""Augmentation: labels must follow the pixels that they describe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.augment_cases import render
from tests.tolerances import LABEL_EDGE, PASTED_EDGE, PIXEL_ROUNDING
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data import augment
from yolov9k.data.augment import Canvas, Layer, View, Warp
from yolov9k.data.batch import collate, pack
from yolov9k.data.dataset import Sample
from yolov9k.data.labels import Labels, concatenate
from yolov9k.data.letterbox import FILL
from yolov9k.data.records import Record
from yolov9k.ops.augment_boxes import clip_outlines
from yolov9k.ops.reference.augment_boxes import MIN_SIDE

SIZE = 64
STILL = TrainRecipe().override(hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0, mosaic=0, mixup=0, copy_paste=0)
RESTLESS = TrainRecipe().override(degrees=30, shear=15, perspective=0.002, flipud=0.5, mixup=0.5)
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0.05, 0.95)


def random_image(box: tuple[int, int, int, int], height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """A white rectangle on the gray of the padding."""
    image = np.full((height, width, 3), FILL, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def label(*boxes: tuple[float, float, float, float], polygons: list[np.ndarray | None] | None = None) -> Labels:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Labels.make(np.arange(len(boxes)), array, polygons or [None] * len(boxes))


def tile(image: np.ndarray, labels: Labels) -> tuple[np.ndarray, Record]:
    """An image as it was read, with its record."""
    height, width = image.shape[:2]
    polygons = [labels.outline(i) / (width, height) if real else None for i, real in enumerate(labels.outlined)]
    boxes = (labels.boxes / (width, height, width, height)).astype(np.float32)
    none, ones = np.zeros(len(labels), bool), np.ones(len(labels), np.float32)
    return image, Record(Path("x.jpg"), 0, height, width, labels.classes, boxes, polygons, none, ones)


def alone(image: np.ndarray, labels: Labels) -> Canvas:
    """An image that is all of its canvas."""
    return Canvas(image.shape[:2], (Layer(image, 0, 0),), labels)


def shown(
    canvas: Canvas,
    matrix: np.ndarray,
    shape: tuple[int, int],
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0),
    whole: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The image, of `shape`, and the boxes that a view of a canvas makes."""
    image, _, boxes = render(Sample((View(canvas, matrix, whole),), 1.0, gains, 0, shape, shape))
    return image, boxes


def square(box: tuple[float, float, float, float]) -> np.ndarray:
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)


def bright(image: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Hull of the pixels that are white by more than `share`."""
    rows, columns = np.nonzero(image[..., 0] > FILL + (255 - FILL) * share)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


def follows(image: np.ndarray, box: np.ndarray) -> bool:
    """Whether a box holds the pixels that are mostly white, and nothing beyond those that are white at all.

    Between the two lie the tips of sharp corners, which cover little of their pixels.
    """
    outward = np.array([-1, -1, 1, 1])
    beyond = (bright(image) - box) * outward
    missing = (box - bright(image, 0.02)) * outward
    return bool(max(beyond.max(), missing.max()) <= LABEL_EDGE)


@st.composite
def objects(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x1, y1 = draw(st.integers(0, SIZE - 24)), draw(st.integers(0, SIZE - 24))
    return x1, y1, draw(st.integers(x1 + 20, SIZE)), draw(st.integers(y1 + 20, SIZE))


@settings(max_examples=60, deadline=None)
@given(
    objects(),
    st.floats(-180, 180),
    st.floats(0.6, 1.8),
    st.floats(-15, 15),
    shares,
    shares,
    st.booleans(),
    st.booleans(),
)
def test_labels_follow_the_pixels_through_an_affine_warp(
    box: tuple[int, int, int, int],
    degrees: float,
    scale: float,
    shear: float,
    x: float,
    y: float,
    poly: bool,
    odd: bool,
) -> None:
    shape = (SIZE + 9, SIZE - 7) if odd else (SIZE, SIZE)
    view = Warp(degrees=degrees, scale=scale, shear=(shear, -shear / 2), shift=((x - 0.5) / 2, (y - 0.5) / 2))
    labels = label(box, polygons=[square(box) if poly else None])
    image, boxes = shown(alone(random_image(box), labels), view.matrix((SIZE, SIZE), shape), shape)
    assert image.shape[:2] == shape
    if not len(boxes):
        return
    assert follows(image, boxes[0])


@settings(max_examples=40, deadline=None)
@given(objects(), st.floats(-0.004, 0.004), st.floats(-0.004, 0.004))
def test_labels_follow_the_pixels_through_perspective(box: tuple[int, int, int, int], x: float, y: float) -> None:
    matrix = Warp(tilt=(x, y)).matrix((SIZE, SIZE), (SIZE, SIZE))
    image, boxes = shown(alone(random_image(box), label(box)), matrix, (SIZE, SIZE))
    if len(boxes):
        assert follows(image, boxes[0])


def test_extreme_perspective_keeps_the_horizon_out_of_the_image() -> None:
    matrix = Warp(tilt=(0.01, -0.01)).matrix((1280, 1280), (640, 640))
    corners = np.array([[0, 0, 1], [1280, 0, 1], [0, 1280, 1], [1280, 1280, 1]]) @ matrix.T
    assert (corners[:, 2] > 0.09).all()


@settings(max_examples=40, deadline=None)
@given(objects(), st.integers(0, 3), st.floats(0.5, 1.5), st.floats(0.5, 1.5), st.floats(0.4, 1.6))
def test_labels_follow_the_pixels_through_a_mosaic(
    box: tuple[int, int, int, int], corner: int, x: float, y: float, scale: float
) -> None:
    blank = tile(random_image((0, 0, 0, 0), SIZE - 10), Labels.empty())
    tiles = [tile(random_image(box), label(box)) if i == corner else blank for i in range(4)]
    canvas = augment.mosaic(tiles, (x, y), SIZE)
    assert canvas.shape == (2 * SIZE, 2 * SIZE)
    whole, labels = canvas.cut(0, 0, 2 * SIZE, 2 * SIZE), canvas.labels
    if len(labels):
        assert np.allclose(bright(whole), labels.boxes[0], atol=PIXEL_ROUNDING)
    else:
        assert (whole < 200).all()
    image, boxes = shown(canvas, Warp(scale=scale, shift=(0.07, -0.04)).matrix(canvas.shape, (SIZE, SIZE)), (SIZE, SIZE))
    if len(boxes):
        assert follows(image, boxes[0])


def test_mosaic_places_each_image_in_its_corner() -> None:
    tiles = [tile(np.full((SIZE, SIZE, 3), 10 * i + 10, np.uint8), label((0, 0, 9, 9))) for i in range(4)]
    laid = augment.mosaic(tiles, (1.0, 1.0), SIZE)
    canvas, labels = laid.cut(0, 0, 2 * SIZE, 2 * SIZE), laid.labels
    means = [canvas[y : y + SIZE, x : x + SIZE].mean() for y in (0, SIZE) for x in (0, SIZE)]
    assert means == [10, 20, 30, 40]
    assert labels.boxes[:, :2].tolist() == [[0, 0], [SIZE, 0], [0, SIZE], [SIZE, SIZE]]
    canvas = augment.mosaic([(t[0][:30], t[1]) for t in tiles], (0.5, 0.75), SIZE).cut(0, 0, 2 * SIZE, 2 * SIZE)
    assert np.array_equal(
        shown(augment.mosaic(tiles, (1, 1), SIZE), np.eye(3), (2 * SIZE, 2 * SIZE))[0][::SIZE, ::SIZE, 0],
        np.array([[10, 20], [30, 40]]),
    )
    assert (canvas[:18] == 114).all()  # above the flat images there is padding
    assert (canvas[18:48, :32] == 10).all()


@settings(max_examples=40, deadline=None)
@given(seeds, st.booleans(), st.lists(objects(), max_size=5))
def test_boxes_stay_inside_and_polygons_agree(seed: int, mosaic: bool, boxes: list[tuple[int, int, int, int]]) -> None:
    rng = np.random.default_rng(seed)
    params = augment.draw(rng, RESTLESS, 0, 3, mosaic=mosaic)
    shape = (SIZE, SIZE)
    image = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    labels = label(*boxes, polygons=[square(b) if i % 2 else None for i, b in enumerate(boxes)])
    flips = augment.mirror(shape, flip_lr=params.flip_lr, flip_ud=params.flip_ud)
    views = [View(alone(image, labels), flips @ params.warp.matrix(shape, shape))]
    for part in params.mosaics:
        canvas = augment.copy_paste(augment.mosaic([tile(image, labels)] * 4, part.center, SIZE), part.paste, part.paste_seed)
        assert canvas.labels.lengths.sum() == len(canvas.labels.points)
        hull = clip_outlines(canvas.labels.points, canvas.labels.lengths, *canvas.shape[::-1])[2]
        assert np.allclose(hull, canvas.labels.boxes, atol=PIXEL_ROUNDING)
        views.append(View(canvas, flips @ part.warp.matrix(canvas.shape, shape)))
    image, _, seen = render(Sample(tuple(views[-2:]), params.mix, params.gains, 0, shape, shape))
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    assert ((seen >= -PIXEL_ROUNDING) & (seen <= SIZE + PIXEL_ROUNDING)).all()
    assert (seen[:, 2:] - seen[:, :2] > MIN_SIDE - PIXEL_ROUNDING).all()


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_still_parameters_do_nothing(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    labels = label((1, 2, 3, 4), (0, 0, 64, 1))  # too small and too flat to survive a warp
    params = augment.draw(np.random.default_rng(seed), STILL, 0, 1, mosaic=True)
    assert params.mosaics == ()
    matrix = params.warp.matrix((SIZE, SIZE), (SIZE, SIZE))
    assert np.array_equal(matrix, np.eye(3))
    after, boxes = shown(alone(image, labels), matrix, (SIZE, SIZE), params.gains, whole=True)
    assert np.array_equal(after, image)
    assert np.allclose(boxes, labels.boxes, atol=PIXEL_ROUNDING)


@given(objects(), st.booleans(), st.booleans())
def test_flips_follow_the_pixels_and_undo_themselves(box: tuple[int, int, int, int], flip_lr: bool, flip_ud: bool) -> None:
    canvas = alone(random_image(box, 70, 90), label(box, polygons=[square(box)]))
    flips = augment.mirror((70, 90), flip_lr=flip_lr, flip_ud=flip_ud)
    once, boxes = shown(canvas, flips, (70, 90))
    assert np.allclose(bright(once), boxes[0], atol=PIXEL_ROUNDING)
    expected = canvas.layers[0].image[:: -1 if flip_ud else 1, :: -1 if flip_lr else 1]
    assert np.array_equal(once, expected)
    assert np.array_equal(flips @ flips, np.eye(3))
    labels = canvas.labels.flipped(90, 70, flip_lr=flip_lr, flip_ud=flip_ud)
    assert np.allclose(boxes, labels.boxes, atol=PIXEL_ROUNDING)


def recolor(image: np.ndarray, gains: tuple[float, float, float]) -> np.ndarray:
    return shown(alone(image, Labels.empty()), np.eye(3), image.shape[:2], gains)[0]


def test_recolor_multiplies_hue_saturation_and_value() -> None:
    image = cv2.cvtColor(np.array([[[40, 100, 100], [170, 250, 200]]], np.uint8), cv2.COLOR_HSV2BGR)
    brighter = cv2.cvtColor(recolor(image, (1.0, 1.0, 1.2)), cv2.COLOR_BGR2HSV)
    assert np.abs(brighter[0, :, 2].astype(int) - (120, 240)).max() <= 1
    assert np.abs(brighter[0, :, 0].astype(int) - (40, 170)).max() <= 1
    paler = cv2.cvtColor(recolor(image, (1.0, 0.5, 1.0)), cv2.COLOR_BGR2HSV)
    assert np.abs(paler[0, :, 1].astype(int) - (50, 125)).max() <= 2
    assert recolor(image, (1.0, 1.0, 2.0)).max(-1).tolist() == [[200, 255]]  # clipped, not wrapped
    turned = cv2.cvtColor(recolor(image, (1.1, 1.0, 1.0)), cv2.COLOR_BGR2HSV)
    assert np.abs(turned[0, :, 0].astype(int) - (44, 187 - 180)).max() <= 1  # hue goes round


def test_mix_blends_and_keeps_the_objects_of_both() -> None:
    dark, light = (np.full((4, 4, 3), v, np.uint8) for v in (0, 200))
    views = [
        View(alone(image, label(box)), np.eye(3), whole=True) for image, box in ((dark, (0, 0, 1, 1)), (light, (1, 1, 3, 3)))
    ]
    image, classes, boxes = render(Sample(tuple(views), 0.25, (1.0, 1.0, 1.0), 0, (4, 4), (4, 4)))
    assert (image == 150).all()
    assert boxes.tolist() == [[0, 0, 1, 1], [1, 1, 3, 3]]
    assert classes.tolist() == [0, 0]


def test_copy_paste_mirrors_an_object_with_its_pixels() -> None:
    triangle = np.array([[8, 10], [24, 10], [8, 30]], np.float32)
    image = random_image((0, 0, 0, 0))
    cv2.fillPoly(image, [triangle.astype(np.int32)], (255, 255, 255))
    before = image.copy()
    canvas = augment.copy_paste(alone(image, label((8, 10, 24, 30), polygons=[triangle])), 1.0, 0)
    labels, (pasted, _) = canvas.labels, shown(canvas, np.eye(3), (SIZE, SIZE))
    assert np.array_equal(image, before)
    assert len(labels) == 2
    assert labels.boxes[1].tolist() == [SIZE - 24, 10, SIZE - 8, 30]
    assert labels.classes.tolist() == [0, 0]
    new = np.where(before > FILL, FILL, pasted)
    assert np.abs(bright(new) - labels.boxes[1]).max() <= PASTED_EDGE
    assert (new > FILL).sum() == pytest.approx((before > FILL).sum(), rel=0.15)  # a triangle, not its box
    assert new[11, SIZE - 10, 0] == 255
    assert new[28, SIZE - 22, 0] == FILL


def test_copy_paste_leaves_out_what_would_hide_others_or_has_no_outline() -> None:
    center = (24.0, 10.0, 44.0, 30.0)  # its mirror image covers the center itself
    aside = (2.0, 10.0, 12.0, 30.0)
    image = random_image((24, 10, 44, 30))

    def pasted(labels: Labels, probability: float) -> int:
        return len(augment.copy_paste(alone(image, labels), probability, 0).labels)

    assert pasted(label(center, polygons=[square(center)]), 1.0) == 1
    assert pasted(label(aside), 1.0) == 1
    assert pasted(label(aside, polygons=[square(aside)]), 0.0) == 1
    assert pasted(label(aside, polygons=[square(aside)]), 1.0) == 2
    # two that land on each other's place: each is covered by the other's copy
    pair = [(2.0, 10.0, 12.0, 30.0), (52.0, 10.0, 62.0, 30.0)]
    assert pasted(label(*pair, polygons=[square(b) for b in pair]), 1.0) == 2


def test_clipping_cuts_outlines_exactly() -> None:
    diamond = np.array([[0, 6], [6, 0], [12, 6], [6, 12]], np.float32) - (6, 6)
    far = np.array([[-5, -5], [-1, -5], [-1, -1]], np.float32)
    points, lengths, hulls = clip_outlines(np.concatenate([far, diamond, far]).astype(np.float32), np.array([3, 4, 3]), 10, 10)
    assert lengths[0] == lengths[2] == 0
    assert np.allclose(hulls, [[0, 0, 0, 0], [0, 0, 6, 6], [0, 0, 0, 0]])
    area = cv2.contourArea(points)
    assert area == pytest.approx(18)


@pytest.mark.parametrize("form", ["whole", "cut", "upside down", "read-only", "gray map"])
def test_images_that_are_lent_are_those_that_are_copied(form: str, recwarn: pytest.WarningsRecorder) -> None:
    """collate reads images where they lie, pack copies them: of any strides, and though nobody may write to them."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    mask = (rng.random((30, 40)) < 0.7).astype(np.uint8)
    cut = {"cut": np.s_[3:20, 5:31], "upside down": np.s_[::-1, ::2], "gray map": np.s_[:, :, :]}.get(form, np.s_[:])
    image, mask = image[cut], mask[cut[:2] if isinstance(cut, tuple) else cut]
    if form == "gray map":
        image = np.broadcast_to(image[..., :1], image.shape)
    if form == "read-only":
        image.flags.writeable = mask.flags.writeable = False
    layers = (Layer(image, 2, 3), Layer(image[:5], 20, 9, mask[:5]), Layer(image[:0], 1, 1))
    view = View(Canvas((64, 64), layers, Labels.empty()), Warp(degrees=20, scale=0.9).matrix((64, 64), (64, 64)))
    sample = Sample((view, view), 0.6, (1.1, 0.7, 1.2), 0, (64, 64), (48, 48))
    lent, copied = collate([sample, sample]), pack([sample, sample]).augment()
    assert torch.equal(lent.images, copied.images)
    assert lent.images.float().std() > 0
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_draw_depends_on_the_generator_alone_and_obeys_the_switches() -> None:
    def many(recipe: TrainRecipe, mosaic: bool = True) -> list[augment.AugmentParams]:
        return [augment.draw(np.random.default_rng(i), recipe, 5, 100, mosaic=mosaic) for i in range(300)]

    assert many(RESTLESS) == many(RESTLESS)
    plain = many(TrainRecipe())
    assert all(5 in params.mosaics[0].indices for params in plain)
    assert np.mean([len(params.mosaics) == 2 for params in plain]) == pytest.approx(0.15, abs=0.06)
    assert np.mean([params.flip_lr for params in plain]) == pytest.approx(0.5, abs=0.1)
    assert not any(params.flip_ud for params in plain)
    views = [params.mosaics[0].warp for params in plain]
    assert 0.1 <= min(v.scale for v in views) < 0.2 < 1.8 < max(v.scale for v in views) <= 1.9
    assert 0.08 < max(abs(v.shift[0]) for v in views) <= 0.1
    assert {v.degrees for v in views} == {0.0}
    centers = np.array([params.mosaics[0].center for params in plain])
    assert centers.min() >= 0.5
    assert centers.max() <= 1.5
    assert all(params.mosaics == () for params in many(TrainRecipe(), mosaic=False))
    assert all(len(params.mosaics) == 1 for params in many(replace(TrainRecipe(), mixup=0.0)))
    assert len({params.mosaics[0].indices for params in plain}) > 250


def test_labels_without_objects_pass_through_everything() -> None:
    none = concatenate([Labels.empty(), Labels.make(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), [])])
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    canvas = augment.copy_paste(augment.mosaic([tile(image, none)] * 4, (1.2, 0.8), SIZE), 1.0, 0)
    _, boxes = shown(canvas, Warp(degrees=10).matrix(canvas.shape, (SIZE, SIZE)), (SIZE, SIZE))
    assert boxes.shape == (0, 4)


def test_a_record_gives_pixel_labels_without_crowds() -> None:
    triangle = np.array([[0, 0], [1, 0], [0.5, 1]], np.float32)
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 1, 1], [0.25, 0.5, 0.75, 1]], np.float32)
    crowd, ones = np.array([True, False, False]), np.ones(3, np.float32)
    record = Record("x.jpg", 0, 10, 20, np.array([7, 8, 9]), boxes, [None, triangle, None], crowd, ones)  # type: ignore[arg-type]
    labels = Labels.of_records([record], [(200, 100, 0, 0)])
    assert labels.classes.tolist() == [8, 9]
    assert labels.boxes.tolist() == [[0, 0, 200, 100], [50, 50, 150, 100]]
    assert labels.outlined.tolist() == [True, False]
    assert labels.outline(0).tolist() == [[0, 0], [200, 0], [100, 100]]
    assert labels.outline(1).tolist() == [[50, 50], [150, 50], [150, 100], [50, 100]]
