"""The demonstration data set: textured shapes over uneven backgrounds, drawn here, nothing downloaded.

A sample depends on the seed, the split and its own number alone, so the same call writes the same bytes, and a larger
data set begins with the images of a smaller one. Boxes are read off the rendered pixels: tight round what is visible.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from yolov9k.common.arrays import BoolArray, Float32Array, Image, Int64Array
from yolov9k.common.errors import UserError
from yolov9k.common.text import read_json
from yolov9k.data.images import write_image

NAMES = ("circle", "square", "triangle", "star")
MANIFEST = "synthetic.json"  # written last, so a folder that holds it is complete
_REVISION = 1  # of the drawing below: raise it when the images change
_SUPERSAMPLE = 4  # masks are drawn this much larger and averaged down: smooth edges
_VISIBLE = 0.8  # a shape that would leave less than this share of an earlier one in sight is placed elsewhere


class SyntheticSample(NamedTuple):
    """An image uint8 [size, size, 3] BGR, classes [n], boxes [n, 4]: x1 y1 x2 y2, pixel edges of what is visible."""

    image: Image
    classes: Int64Array
    boxes: Int64Array


def generate(folder: str | Path, *, train: int = 480, val: int = 96, size: int = 128, seed: int = 0) -> Path:
    """Write the data set in the YOLO layout and return the path of its data.yaml.

    A folder that already holds this very generation is left as it is; one of another generation is replaced as a whole.

    Args:
        folder: where `images/`, `labels/`, `data.yaml` and the manifest go.
        train, val: number of images in each split.
        size: side of the square images in pixels, at least 32.
        seed: of all the randomness.

    Raises:
        UserError: a number is out of range, or the folder holds something that was not generated here.
    """
    for name, value, minimum in (("train", train, 1), ("val", val, 1), ("size", size, 32), ("seed", seed, 0)):
        if value < minimum:
            raise UserError(f"synthetic data: {name} is {value}; it must be at least {minimum}")
    folder = Path(folder)
    manifest = {"revision": _REVISION, "train": train, "val": val, "size": size, "seed": seed}
    if _holds(folder, manifest):
        return folder / "data.yaml"
    staging = folder.with_name(f".{folder.name}.{os.getpid()}")  # beside it: the rename must not cross file systems
    try:
        for number, (split, count) in enumerate({"train": train, "val": val}.items()):
            _write_split(staging, split, [(seed, number, index) for index in range(count)], size)
        names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
        (staging / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}", encoding="utf-8")
        (staging / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder / "data.yaml"


def draw_sample(seed: tuple[int, int, int], size: int) -> SyntheticSample:
    """Draw the sample (seed, split, index): 1 to 4 shapes, each 25 to 55 % of the side, `size` pixels square."""
    rng = np.random.default_rng(seed)
    image = _background(rng, size)
    masks: list[BoolArray] = []  # what is still visible of each shape
    areas: list[int] = []  # and how many pixels it had
    classes: list[int] = []
    for _ in range(int(rng.integers(1, 5))):
        label = int(rng.integers(len(NAMES)))
        alpha = _place(rng, label, size, masks, areas)
        if alpha is None:
            continue
        image += alpha[..., None] * (_texture(rng, image, alpha) - image)
        solid = alpha > 0.5
        masks = [mask & ~solid for mask in masks]
        masks.append(solid)
        areas.append(int(solid.sum()))
        classes.append(label)
    image += rng.normal(0, rng.uniform(2, 8), image.shape).astype(np.float32)  # the sensor's noise, over everything
    pixels = np.clip(image, 0, 255).round().astype(np.uint8)
    return SyntheticSample(pixels, np.array(classes, np.int64), np.array([_tight_box(mask) for mask in masks], np.int64))


def _holds(folder: Path, manifest: dict[str, int]) -> bool:
    """Whether the folder is this generation already; UserError when it is not ours to replace."""
    if not folder.exists():
        return False
    try:
        return bool(read_json(folder / MANIFEST) == manifest)
    except UserError:
        if folder.is_dir() and not any(folder.iterdir()):
            return False
        raise UserError(f"{folder}: holds something other than synthetic data; name an empty or a new folder") from None


def _write_split(root: Path, split: str, seeds: list[tuple[int, int, int]], size: int) -> None:
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index, seed in enumerate(seeds):
        sample = draw_sample(seed, size)
        write_image(images / f"{index:05d}.jpg", sample.image)
        centers = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2 / size
        extents = (sample.boxes[:, 2:] - sample.boxes[:, :2]) / size
        rows = zip(sample.classes, np.concatenate((centers, extents), 1), strict=True)
        text = "".join(f"{label} {' '.join(f'{value:.6f}' for value in row)}\n" for label, row in rows)
        (labels / f"{index:05d}.txt").write_text(text, encoding="utf-8")


def _tight_box(mask: BoolArray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _place(rng: np.random.Generator, label: int, size: int, masks: list[BoolArray], areas: list[int]) -> Float32Array | None:
    """Coverage [size, size] of a new shape wholly inside the image, or None when no place hides little enough."""
    for _ in range(20):
        radius = size * rng.uniform(0.25, 0.55) / 2
        center = rng.uniform(radius, size - radius, 2).astype(np.float32)
        alpha = _coverage(_outline(label, radius, rng.uniform(0, 2 * np.pi)) + center, size)
        solid = alpha > 0.5
        if all((mask & ~solid).sum() >= _VISIBLE * area for mask, area in zip(masks, areas, strict=True)):
            return alpha
    return None


def _outline(label: int, radius: float, angle: float) -> Float32Array:
    """Corners [k, 2] of a shape about the origin that just fits into the circle of `radius`."""
    corners = {"circle": 64, "square": 4, "triangle": 3, "star": 10}[NAMES[label]]
    turn = angle + np.arange(corners) * 2 * np.pi / corners
    reach = np.full(corners, radius)
    if NAMES[label] == "star":
        reach[1::2] *= 0.45
    return np.stack((reach * np.cos(turn), reach * np.sin(turn)), 1).astype(np.float32)


def _coverage(outline: Float32Array, size: int) -> Float32Array:
    """How much of each pixel the outline covers, 0..1, [size, size]."""
    large = np.zeros((size * _SUPERSAMPLE, size * _SUPERSAMPLE), np.float32)
    shift = 4  # fractional bits of fillPoly's coordinates; pixel centers sit at whole numbers there, hence the half
    points = np.round((outline * _SUPERSAMPLE - 0.5) * 2**shift).astype(np.int32)
    cv2.fillPoly(large, [points], (1.0,), shift=shift)
    return np.asarray(cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA), np.float32)


def _background(rng: np.random.Generator, size: int) -> Float32Array:
    """A slope between two muted colors under soft, coarse blotches, float32 [size, size, 3]."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = _grid(size)
    slope = (x * np.cos(angle) + y * np.sin(angle)) / (size * np.sqrt(2)) + 0.5
    ends = rng.uniform(40, 215) + rng.uniform(-35, 35, (2, 3))
    image = ends[0] + np.clip(slope, 0, 1)[..., None] * (ends[1] - ends[0])
    coarse = rng.normal(0, 12, (8, 8, 3)).astype(np.float32)
    return np.asarray(image + cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _texture(rng: np.random.Generator, image: Float32Array, alpha: Float32Array) -> Float32Array:
    """Two tones of one hue in a pattern, apart from the background they cover, float32 [size, size, 3]."""
    inside = alpha > 0.5
    behind = image[inside].mean(0)
    candidates = [_color(rng) for _ in range(8)]
    color = max(candidates, key=lambda candidate: float(np.abs(candidate - behind).sum()))
    second = color * rng.uniform(0.45, 0.7) if color.mean() > 90 else color + (255 - color) * rng.uniform(0.35, 0.6)
    size = image.shape[0]
    period = size * rng.uniform(0.07, 0.12)
    angle = rng.uniform(0, np.pi)
    x, y = _grid(size)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))](u / period, v / period)
    return np.asarray(second + pattern[..., None] * (color - second), np.float32)


def _grid(size: int) -> tuple[Float32Array, Float32Array]:
    """x and y of every pixel from the middle of the image, each [size, size]."""
    line = np.arange(size, dtype=np.float32) - (size - 1) / 2
    x, y = np.meshgrid(line, line)
    return x, y


def _color(rng: np.random.Generator) -> Float32Array:
    """A saturated color, float32 [3] BGR."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(0.55, 1), rng.uniform(0.35, 1)]]], np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0] * 255, np.float32)


def _soft(wave: Float32Array) -> Float32Array:
    """A wave about zero made a 0..1 pattern with edges a fraction of a period wide."""
    return np.asarray(np.clip(wave * 3 + 0.5, 0, 1), np.float32)


def _plain(u: Float32Array, v: Float32Array) -> Float32Array:
    return np.ones_like(u)


def _stripes(u: Float32Array, v: Float32Array) -> Float32Array:
    return _soft(np.sin(2 * np.pi * u))


def _checks(u: Float32Array, v: Float32Array) -> Float32Array:
    return _soft(np.sin(np.pi * u) * np.sin(np.pi * v))


def _dots(u: Float32Array, v: Float32Array) -> Float32Array:
    return _soft(np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v) - 0.7)


_PATTERNS: tuple[Callable[[Float32Array, Float32Array], Float32Array], ...] = (_plain, _stripes, _checks, _dots)
