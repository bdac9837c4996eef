"""Augmentation: random parameters are drawn first, pure functions then apply them to images and labels.

`draw` makes AugmentParams from a generator and the recipe alone; nothing below it is random. What they ask for is
laid out as layers on canvases and as matrices: no pixel is touched but those of objects that are pasted. The operators
`augment` and `augment_boxes` do the rest, on whatever device. Images are uint8 BGR [h, w, 3].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from yolov9k.common.arrays import FILL, Float32Array, Float64Array, Image
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.labels import Labels, concatenate
from yolov9k.data.records import Record

Matrix = Float64Array  # [3, 3]
Tile = tuple[Image, Record]
Shape = tuple[int, int]  # height, width
Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2

MIX_BETA = 32.0  # mix-up's share is Beta(32, 32)
MAX_COVER = 0.3  # a pasted object may hide less than this share of any other
MIN_SCALE = 0.05  # recipe.scale 1 would otherwise allow an empty image
ROUNDING = 2  # pixels that the operator's float32 coordinates can hardly be off
FARTHEST = 2**20  # pixels; beyond all canvases
EVERYWHERE: Rectangle = (-FARTHEST, -FARTHEST, FARTHEST, FARTHEST)
MAX_TILT = 0.9  # keeps the horizon outside the image: 1 would put it on a corner


@dataclass(frozen=True)
class Warp:
    """A view: about the center tilted, rotated and scaled, sheared, then shifted by shares of the result's sides."""

    tilt: tuple[float, float] = (0.0, 0.0)  # perspective, 1 / pixel, along x and y
    degrees: float = 0.0
    scale: float = 1.0
    shear: tuple[float, float] = (0.0, 0.0)  # degrees along x and y
    shift: tuple[float, float] = (0.0, 0.0)

    def matrix(self, source: tuple[int, int], target: tuple[int, int]) -> Matrix:
        """The 3x3 matrix from an image of `source` (height, width) to one of `target`, in continuous pixels."""
        (height, width), (new_height, new_width) = source, target
        steepness = (abs(self.tilt[0]) * width + abs(self.tilt[1]) * height) / 2
        ease = min(1.0, MAX_TILT / steepness) if steepness else 1.0
        angle = math.radians(self.degrees)
        cosine, sine = self.scale * math.cos(angle), self.scale * math.sin(angle)
        center = _translation(-width / 2, -height / 2)
        tilt = np.array([[1, 0, 0], [0, 1, 0], [self.tilt[0] * ease, self.tilt[1] * ease, 1]])
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        x, y = (math.tan(math.radians(s)) for s in self.shear)
        shear = np.array([[1, x, 0], [y, 1, 0], [0, 0, 1]])
        place = _translation((0.5 + self.shift[0]) * new_width, (0.5 + self.shift[1]) * new_height)
        result: Matrix = place @ shear @ turn @ tilt @ center
        return result


@dataclass(frozen=True)
class Mosaic:
    """Four images around a point of a canvas twice as wide and high, objects pasted in, seen through a warp."""

    indices: tuple[int, int, int, int]  # top left, top right, bottom left, bottom right
    center: tuple[float, float]  # x, y in shares of the image's size, 0.5..1.5
    paste: float  # probability of each outlined object to be pasted
    paste_seed: int
    warp: Warp


@dataclass(frozen=True)
class AugmentParams:
    """All that is random about one sample: no mosaic (the plain letterboxed image), one, or two mixed."""

    mosaics: tuple[Mosaic, ...]
    mix: float  # share of the first of two mosaics
    warp: Warp  # of the plain image
    gains: tuple[float, float, float]  # of hue, saturation, value
    flip_lr: bool  # flip left to right
    flip_ud: bool  # flip top to bottom


def draw(rng: np.random.Generator, recipe: TrainRecipe, index: int, count: int, *, mosaic: bool) -> AugmentParams:
    """Draw the augmentation of image `index` of `count`. `mosaic` False: neither mosaic nor what belongs to it."""
    mosaics: tuple[Mosaic, ...] = ()
    if mosaic and rng.random() < recipe.mosaic:
        mosaics = (_draw_mosaic(rng, recipe, index, count),)
        if rng.random() < recipe.mixup:
            mosaics += (_draw_mosaic(rng, recipe, int(rng.integers(count)), count),)
    hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * (recipe.hsv_h, recipe.hsv_s, recipe.hsv_v)
    return AugmentParams(
        mosaics=mosaics,
        mix=float(rng.beta(MIX_BETA, MIX_BETA)),
        warp=_draw_warp(rng, recipe),
        gains=(float(hue), float(saturation), float(value)),
        flip_lr=bool(rng.random() < recipe.fliplr),
        flip_ud=bool(rng.random() < recipe.flipud),
    )


def _draw_mosaic(rng: np.random.Generator, recipe: TrainRecipe, index: int, count: int) -> Mosaic:
    a, b, c, d = (int(i) for i in rng.permutation([index, *rng.integers(count, size=3)]))
    x, y = rng.uniform(0.5, 1.5, 2)
    return Mosaic((a, b, c, d), (float(x), float(y)), recipe.copy_paste, int(rng.integers(2**32)), _draw_warp(rng, recipe))


def _draw_warp(rng: np.random.Generator, recipe: TrainRecipe) -> Warp:
    def pair(limit: float) -> tuple[float, float]:
        x, y = rng.uniform(-limit, limit, 2) if limit else (0.0, 0.0)
        return float(x), float(y)

    return Warp(
        tilt=pair(recipe.perspective),
        degrees=pair(abs(recipe.degrees))[0],
        scale=float(rng.uniform(max(1 - recipe.scale, MIN_SCALE), 1 + recipe.scale)),
        shear=pair(abs(recipe.shear)),
        shift=pair(recipe.translate),
    )


@dataclass(frozen=True)
class Layer:
    """An image whose top left pixel lies at (left, top) of a canvas; mask uint8 [h, w], not 0: opaque, None: all of it."""

    image: Image
    left: int
    top: int
    mask: Image | None = None

    def within(self, x1: int, y1: int, x2: int, y2: int) -> Layer:
        """The part that lies in a rectangle of the canvas, maybe of no pixel; no copy."""
        height, width = self.image.shape[:2]
        left, top, right, bottom = x1 - self.left, y1 - self.top, x2 - self.left, y2 - self.top
        if left <= 0 and top <= 0 and right >= width and bottom >= height:
            return self
        left, top = min(max(left, 0), width), min(max(top, 0), height)
        part = np.s_[top : max(top, bottom), left : max(left, right)]
        mask = None if self.mask is None else self.mask[part]
        return Layer(self.image[part], self.left + left, self.top + top, mask)

    def holds(self, x1: int, y1: int, x2: int, y2: int) -> bool:
        """Whether it covers all of a rectangle of the canvas."""
        height, width = self.image.shape[:2]
        inside = x1 >= self.left and y1 >= self.top and x2 <= self.left + width and y2 <= self.top + height
        return inside and self.mask is None


@dataclass(frozen=True)
class Canvas:
    """Layers on gray, later ones hide earlier ones, and the objects in them."""

    shape: Shape
    layers: tuple[Layer, ...]
    labels: Labels

    def cut(self, x1: int, y1: int, x2: int, y2: int) -> Image:
        """A rectangle, not to be written to; layers with masks are left out."""
        for layer in self.layers:
            if layer.holds(x1, y1, x2, y2):  # as objects mostly lie in one image
                return layer.image[y1 - layer.top : y2 - layer.top, x1 - layer.left : x2 - layer.left]
        image: Image = np.full((y2 - y1, x2 - x1, 3), FILL, np.uint8)
        for layer in self.layers:
            part = layer.within(x1, y1, x2, y2)
            height, width = part.image.shape[:2]
            if part.mask is None and height and width:
                left, top = part.left - x1, part.top - y1
                image[top : top + height, left : left + width] = part.image
        return image


@dataclass(frozen=True)
class View:
    """A canvas seen through a 3x3 matrix, from its continuous pixels to the sample's; whole: every object is kept as it is."""

    canvas: Canvas
    matrix: Matrix
    whole: bool = False

    def inverse(self, shape: Shape, output: Shape) -> Matrix:
        """From the centers of pixels of `output` (height, width), to which `shape` is resized, to those of the canvas."""
        resized = np.diag([output[1] / shape[1], output[0] / shape[0], 1.0])
        back = np.linalg.inv(resized @ self.matrix)
        centered = _translation(-0.5, -0.5) @ back @ _translation(0.5, 0.5)
        return centered / centered[2, 2] if centered[2, 2] else centered

    def seen(self, inverse: Matrix, output: Shape) -> list[Layer]:
        """The parts of the layers that can be seen at all: those within the hull of the output's corners."""
        x1, y1, x2, y2 = visible_bounds(inverse, output)
        parts = [layer.within(x1, y1, x2, y2) for layer in self.canvas.layers]
        return [part for part in parts if part.image.size]


def visible_bounds(inverse: Matrix, output: Shape) -> Rectangle:
    """What of a canvas the pixels of `output` can show: the hull of where `inverse` leads its corners, and a margin."""
    right, bottom = output[1] - 1, output[0] - 1
    columns, rows = [], []
    a, b, c = inverse.tolist()
    for x, y in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
        depth = c[0] * x + c[1] * y + c[2]
        if depth <= 0:  # the horizon is in sight
            return EVERYWHERE
        columns.append((a[0] * x + a[1] * y + a[2]) / depth)
        rows.append((b[0] * x + b[1] * y + b[2]) / depth)
    x1, x2, y1, y2 = (_whole(place) for place in (min(columns), max(columns), min(rows), max(rows)))
    return x1 - ROUNDING, y1 - ROUNDING, x2 + 2 + ROUNDING, y2 + 2 + ROUNDING


def _whole(place: float) -> int:
    return math.floor(min(max(place, -FARTHEST), FARTHEST))


def mosaic(tiles: Sequence[Tile], center: tuple[float, float], size: int) -> Canvas:
    """Lay four images, none larger than `size`, around `center` (shares of size) on a canvas of 2 size x 2 size."""
    x, y = round(center[0] * size), round(center[1] * size)
    places = []
    for corner, (image, _) in enumerate(tiles):
        height, width = image.shape[:2]
        places.append((width, height, x if corner % 2 else x - width, y if corner > 1 else y - height))
    whole = [Layer(image, *place[2:]) for (image, _), place in zip(tiles, places, strict=True)]
    layers = [layer.within(0, 0, 2 * size, 2 * size) for layer in whole]
    labels = Labels.of_records([record for _, record in tiles], places)
    return Canvas((2 * size, 2 * size), tuple(layers), labels.clipped(2 * size, 2 * size))


def copy_paste(canvas: Canvas, probability: float, seed: int, seen: Rectangle = EVERYWHERE) -> Canvas:
    """Paste outlined objects, each with `probability`, at their mirrored place where they hide little of others.

    `seed` decides which objects. Those beyond `seen` lend their labels alone, no pixels.
    (Ghiasi et al., arXiv 2012.07177)
    """
    labels, width = canvas.labels, canvas.shape[1]
    lucky = np.random.default_rng(seed).random(len(labels)) < probability
    chosen = np.flatnonzero(lucky & labels.outlined)
    mirrored = labels.boxes[chosen]
    mirrored[:, [0, 2]] = width - mirrored[:, [2, 0]]
    free = (_cover(mirrored, labels.boxes) < MAX_COVER).all(1)
    chosen, mirrored = chosen[free], mirrored[free]
    taken: list[int] = []
    for number, apart in enumerate((_cover(mirrored, mirrored) < MAX_COVER).tolist()):
        if all(apart[other] for other in taken):
            taken.append(number)
    if not taken:
        return canvas
    keep = np.zeros(len(labels), bool)
    keep[chosen[taken]] = True
    originals = labels.chosen(keep)
    copies = originals.flipped(width, canvas.shape[0], flip_lr=True, flip_ud=False)
    patches = _cut_out(canvas, originals.boxes, copies, seen)
    return Canvas(canvas.shape, (*canvas.layers, *patches), concatenate([labels, copies]))


def _cover(boxes: Float32Array, others: Float32Array) -> Float32Array:
    """Share [n, m] of each of `others` [m, 4] that each of `boxes` [n, 4] hides."""
    overlap = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    np.maximum(overlap, 0, out=overlap)
    sides = others[:, 2:] - others[:, :2]
    share: Float32Array = overlap[..., 0] * overlap[..., 1] / np.maximum(sides[:, 0] * sides[:, 1], 1e-9)
    return share


def _cut_out(canvas: Canvas, boxes: Float32Array, copies: Labels, seen: Rectangle) -> list[Layer]:
    """Of the objects in `boxes` [n, 4] the mirrored image, masked by the mirrored outline in `copies`, at their place."""
    width, ends = canvas.shape[1], np.cumsum(copies.lengths).tolist()
    rectangles = np.hstack([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])]).astype(int).tolist()
    return [
        _patch(canvas.cut(x1, y1, x2, y2), copies.points[first:end], width - x2, y1)
        for (x1, y1, x2, y2), first, end in zip(rectangles, [0, *ends], ends, strict=False)
        if width - x2 < seen[2] and width - x1 > seen[0] and y1 < seen[3] and y2 > seen[1]
    ]


def _patch(image: Image, outline: Float32Array, left: int, top: int) -> Layer:
    """An image, mirrored, at (left, top), where the outline is its mask."""
    patch: Image = cv2.flip(image, 1)  # type: ignore[assignment]  # OpenCV's stubs lack the dtype
    mask: Image = np.zeros(patch.shape[:2], np.uint8)
    fraction = 4  # binary digits of OpenCV's fixed-point coordinates, which count from the first pixel's center
    points = np.rint((outline - np.array([left, top]) - 0.5) * (1 << fraction)).astype(np.int32)
    cv2.fillPoly(mask, [points], 1, shift=fraction)
    return Layer(patch, left, top, mask)


def mirror(shape: Shape, *, flip_lr: bool, flip_ud: bool) -> Matrix:
    """The matrix that flips an image of `shape` left to right (`flip_lr`), top to bottom (`flip_ud`)."""
    x, y = (-1.0 if flip_lr else 1.0), (-1.0 if flip_ud else 1.0)
    return np.array([[x, 0, shape[1] * flip_lr], [0, y, shape[0] * flip_ud], [0, 0, 1]], float)


def _translation(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)
