"""Augmentation: random parameters are drawn first, pure functions then apply them to pictures and labels.

`draw` makes a Recipe from a generator and the hyper-parameters alone; nothing below it is random. Whoever applies the
same recipe, on whatever device, gets the same picture. Pictures are uint8 BGR [h, w, 3].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov9k.data.labels import Floats, Labels, concatenate
from yolov9k.data.letterbox import FILL, Image
from yolov9k.hyp import Hyp

Matrix = NDArray[np.float64]
Tile = tuple[Image, Labels]
GREY = (FILL, FILL, FILL)

MIX_BETA = 32.0  # mix-up's share is Beta(32, 32); facts, training recipe
MAX_COVER = 0.3  # a pasted object may hide less than this share of any other
MIN_SCALE = 0.05  # hyp.scale 1 would otherwise allow an empty picture
MAX_TILT = 0.9  # keeps the horizon outside the picture: 1 would put it on a corner


@dataclass(frozen=True)
class Warp:
    """A view: about the centre tilted, rotated and scaled, sheared, then shifted by shares of the result's sides."""

    tilt: tuple[float, float] = (0.0, 0.0)  # perspective, 1 / pixel, along x and y
    degrees: float = 0.0
    scale: float = 1.0
    shear: tuple[float, float] = (0.0, 0.0)  # degrees along x and y
    shift: tuple[float, float] = (0.0, 0.0)

    def matrix(self, source: tuple[int, int], target: tuple[int, int]) -> Matrix:
        """The 3x3 matrix from a picture of `source` (height, width) to one of `target`, in continuous pixels."""
        (height, width), (new_height, new_width) = source, target
        steepness = (abs(self.tilt[0]) * width + abs(self.tilt[1]) * height) / 2
        ease = min(1.0, MAX_TILT / steepness) if steepness else 1.0
        angle = math.radians(self.degrees)
        cosine, sine = self.scale * math.cos(angle), self.scale * math.sin(angle)
        centre = _translation(-width / 2, -height / 2)
        tilt = np.array([[1, 0, 0], [0, 1, 0], [self.tilt[0] * ease, self.tilt[1] * ease, 1]])
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        x, y = (math.tan(math.radians(s)) for s in self.shear)
        shear = np.array([[1, x, 0], [y, 1, 0], [0, 0, 1]])
        place = _translation((0.5 + self.shift[0]) * new_width, (0.5 + self.shift[1]) * new_height)
        result: Matrix = place @ shear @ turn @ tilt @ centre
        return result


@dataclass(frozen=True)
class Mosaic:
    """Four pictures around a point of a canvas twice as wide and high, objects pasted in, seen through a warp."""

    indices: tuple[int, int, int, int]  # top left, top right, bottom left, bottom right
    centre: tuple[float, float]  # x, y in shares of the picture's size, 0.5..1.5
    paste: float  # probability of each outlined object to be pasted
    paste_seed: int
    warp: Warp


@dataclass(frozen=True)
class Recipe:
    """All that is random about one sample: no mosaic (the plain letterboxed picture), one, or two mixed."""

    mosaics: tuple[Mosaic, ...]
    mix: float  # share of the first of two mosaics
    warp: Warp  # of the plain picture
    gains: tuple[float, float, float]  # of hue, saturation, value
    across: bool  # flip left to right
    upside: bool  # flip top to bottom


def draw(rng: np.random.Generator, hyp: Hyp, index: int, count: int, *, mosaic: bool) -> Recipe:
    """Draw the recipe of picture `index` of `count`. `mosaic` False: neither mosaic nor what belongs to it."""
    mosaics: tuple[Mosaic, ...] = ()
    if mosaic and rng.random() < hyp.mosaic:
        mosaics = (_draw_mosaic(rng, hyp, index, count),)
        if rng.random() < hyp.mixup:
            mosaics += (_draw_mosaic(rng, hyp, int(rng.integers(count)), count),)
    hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    return Recipe(
        mosaics=mosaics,
        mix=float(rng.beta(MIX_BETA, MIX_BETA)),
        warp=_draw_warp(rng, hyp),
        gains=(float(hue), float(saturation), float(value)),
        across=bool(rng.random() < hyp.fliplr),
        upside=bool(rng.random() < hyp.flipud),
    )


def _draw_mosaic(rng: np.random.Generator, hyp: Hyp, index: int, count: int) -> Mosaic:
    a, b, c, d = (int(i) for i in rng.permutation([index, *rng.integers(count, size=3)]))
    x, y = rng.uniform(0.5, 1.5, 2)
    return Mosaic((a, b, c, d), (float(x), float(y)), hyp.copy_paste, int(rng.integers(2**32)), _draw_warp(rng, hyp))


def _draw_warp(rng: np.random.Generator, hyp: Hyp) -> Warp:
    def pair(limit: float) -> tuple[float, float]:
        x, y = rng.uniform(-limit, limit, 2) if limit else (0.0, 0.0)
        return float(x), float(y)

    return Warp(
        tilt=pair(hyp.perspective),
        degrees=pair(abs(hyp.degrees))[0],
        scale=float(rng.uniform(max(1 - hyp.scale, MIN_SCALE), 1 + hyp.scale)),
        shear=pair(abs(hyp.shear)),
        shift=pair(hyp.translate),
    )


def mosaic(tiles: Sequence[Tile], centre: tuple[float, float], size: int) -> Tile:
    """Lay four pictures, none larger than `size`, around `centre` (shares of size) on a canvas of 2 size x 2 size."""
    canvas: Image = np.full((2 * size, 2 * size, 3), FILL, np.uint8)
    x, y = round(centre[0] * size), round(centre[1] * size)
    parts = []
    for corner, (image, labels) in enumerate(tiles):
        height, width = image.shape[:2]
        left, top = (x if corner % 2 else x - width), (y if corner > 1 else y - height)
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, 2 * size), min(top + height, 2 * size)
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
        parts.append(labels.shifted(left, top))
    return canvas, concatenate(parts).clipped(2 * size, 2 * size)


def copy_paste(image: Image, labels: Labels, probability: float, seed: int) -> Tile:
    """Paste outlined objects, each with `probability`, at their mirrored place where they hide little of others.

    The picture is changed in place. `seed` decides which objects. (Ghiasi et al., arXiv 2012.07177)
    """
    lucky = np.random.default_rng(seed).random(len(labels)) < probability
    chosen = np.flatnonzero(lucky & labels.outlined)
    if not len(chosen):
        return image, labels
    mirrored = labels.flipped(image.shape[1], image.shape[0], across=True, upside=False)
    boxes, taken, patches = labels.boxes, [], []
    for index in chosen.tolist():
        box = mirrored.boxes[index]
        if (_cover(box, boxes) < MAX_COVER).all():
            taken.append(index)
            boxes = np.vstack([boxes, box])
            patches.append(_cut_out(image, labels.boxes[index], mirrored.outline(index)))
    for patch, mask, (left, top) in patches:  # only now, so that no patch shows another
        place = image[top : top + patch.shape[0], left : left + patch.shape[1]]
        cv2.copyTo(patch, mask, place)
    keep = np.zeros(len(labels), bool)
    keep[taken] = True
    return image, concatenate([labels, mirrored.chosen(keep)])


def _cover(box: Floats, boxes: Floats) -> Floats:
    """Share of each of `boxes` [n, 4] that `box` hides."""
    overlap = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-9)
    share: Floats = overlap.clip(0).prod(1) / areas
    return share


def _cut_out(image: Image, box: Floats, outline: Floats) -> tuple[Image, Image, tuple[int, int]]:
    """The mirrored picture within a box, the mask of the mirrored outline in it, and (left, top) of its place."""
    width = image.shape[1]
    (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    patch = image[y1:y2, x1:x2][:, ::-1].copy()
    mask: Image = np.zeros(patch.shape[:2], np.uint8)
    fraction = 4  # binary digits of OpenCV's fixed-point coordinates, which count from the first pixel's centre
    points = np.round((outline - (width - x2, y1) - 0.5) * (1 << fraction)).astype(np.int32)
    cv2.fillPoly(mask, [points], 1, shift=fraction)
    return patch, mask, (width - x2, y1)


def warp(image: Image, labels: Labels, matrix: Matrix, shape: tuple[int, int]) -> Tile:
    """See picture and labels through a 3x3 matrix in a window `shape` (height, width); outside is grey."""
    height, width = shape
    if image.shape[:2] == shape and np.allclose(matrix, np.eye(3)):
        return image, labels
    # OpenCV's coordinates are those of pixel centres
    centred = _translation(-0.5, -0.5) @ matrix @ _translation(0.5, 0.5)
    if matrix[2, 0] or matrix[2, 1]:
        seen = cv2.warpPerspective(image, centred, (width, height), borderValue=GREY)
    else:
        seen = cv2.warpAffine(image, centred[:2], (width, height), borderValue=GREY)
    return seen, labels.warped(matrix, width, height)  # type: ignore[return-value]  # OpenCV's stubs lack the dtype


def mix(first: Tile, second: Tile, share: float) -> Tile:
    """Mix-up: blend two pictures of one size, `share` of the first, and keep the objects of both (arXiv 1710.09412)."""
    blend = cv2.addWeighted(first[0], share, second[0], 1 - share, 0)
    return blend, concatenate([first[1], second[1]])  # type: ignore[return-value]  # OpenCV's stubs lack the dtype


def recolour(image: Image, gains: tuple[float, float, float]) -> Image:
    """Multiply hue, saturation and value by gains, by tables of their 256 levels."""
    if gains == (1.0, 1.0, 1.0):
        return image
    levels = np.arange(256)
    hue, saturation, value = (levels * gain for gain in gains)
    tables = [hue % 180, saturation.clip(0, 255), value.clip(0, 255)]  # OpenCV's hue counts to 180
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    turned = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
    return cv2.cvtColor(cv2.merge(turned), cv2.COLOR_HSV2BGR)  # type: ignore[return-value]


def flip(image: Image, labels: Labels, *, across: bool, upside: bool) -> Tile:
    """Mirror left to right (`across`) and top to bottom (`upside`)."""
    if not (across or upside):
        return image, labels
    code = -1 if across and upside else 1 if across else 0
    labels = labels.flipped(image.shape[1], image.shape[0], across=across, upside=upside)
    return cv2.flip(image, code), labels  # type: ignore[return-value]  # OpenCV's stubs lack the dtype


def _translation(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)
