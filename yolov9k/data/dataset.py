"""From a record to a sample: what the operators make a picture and its boxes of, augmented or letterboxed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset

from yolov9k.common.errors import UserError, warn
from yolov9k.config.recipe import Hyp
from yolov9k.data import augment
from yolov9k.data.augment import Canvas, Layer, Mosaic, Recipe, Shape, View
from yolov9k.data.cache.image_cache import PictureSource, Reader, UnreadableImage, make_source
from yolov9k.data.cache.nvjpeg import NvjpegReader
from yolov9k.data.labels import Labels
from yolov9k.data.letterbox import Image, fit
from yolov9k.data.records import Record


@dataclass(frozen=True)
class Draw:
    """One sample that is asked for. All that changes between epochs is in here: workers share no state."""

    index: int
    epoch: int
    mosaic: bool
    shape: Shape  # (height, width) that the picture is letterboxed or augmented to
    output: Shape  # (height, width) that the batch is resized to


@dataclass(frozen=True)
class Failure:
    """A record whose picture could not be read, and why."""

    index: int
    reason: str


@dataclass
class Sample:
    """A picture that is yet to be made, and its objects: one view or a mixture of two (`ops.augment`).

    mix: share of the first view. gains: of hue, saturation and value. shape (height, width): where the views' matrices
    lead; output: what the picture is resized to. gain, pad (left, top): x in `shape` = x in the original * gain + left;
    of meaning without augmentation only.
    """

    views: tuple[View, ...]
    mix: float
    gains: tuple[float, float, float]
    index: int
    shape: Shape
    output: Shape
    gain: float = 1.0
    pad: tuple[int, int] = (0, 0)
    failures: list[Failure] = field(default_factory=list)


class DetectionDataset(Dataset[Sample]):
    """Samples of a list of records.

    augment False: pictures are letterboxed, never enlarged beyond `img_size`. A picture that cannot be read is
    replaced in training by the next one that can; in evaluation by a grey one, so that its objects count as missed.
    `unreadable` holds the indices of the records that failed so far, as far as `report` was told.
    decode: "cpu", or "nvjpeg", by which a cache of pictures to augment is filled.
    """

    def __init__(
        self,
        records: Sequence[Record],
        hyp: Hyp,
        img_size: int,
        *,
        augment: bool,
        seed: int = 0,
        cache: str | None = None,
        decode: str = "cpu",
    ) -> None:
        self.records, self.hyp, self.img_size, self.augment, self.seed = records, hyp, img_size, augment, seed
        self.unreadable: set[int] = set()
        nvjpeg = decode == "nvjpeg" and augment and cache is not None
        reader = NvjpegReader(records, img_size) if nvjpeg else Reader(records, img_size, fast=augment)
        self.pictures: PictureSource = make_source(reader, cache)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> Sample:
        return self._augmented(draw) if self.augment else self._letterboxed(draw)

    def report(self, failures: Sequence[Failure]) -> None:
        """Count records whose pictures could not be read; the first time each is warned about."""
        for failure in failures:
            if failure.index not in self.unreadable:
                self.unreadable.add(failure.index)
                instead = "another picture takes its place" if self.augment else "its objects count as missed"
                warn(f"{failure.reason}; {instead}")

    def _letterboxed(self, draw: Draw) -> Sample:
        record, failures = self.records[draw.index], list[Failure]()
        image = self._picture(draw.index, failures)
        if image is None:
            grey, one = View(Canvas(draw.shape, (), Labels.empty()), np.eye(3), whole=True), (1.0, 1.0, 1.0)
            return Sample((grey,), 1.0, one, draw.index, draw.shape, draw.output, failures=failures)
        gain = max(image.shape[:2]) / max(record.height, record.width)
        canvas, refit, pad = _fit(image, record, draw.shape)
        view = View(canvas, np.eye(3), whole=True)
        return Sample((view,), 1.0, (1.0, 1.0, 1.0), draw.index, draw.shape, draw.output, gain * refit, pad)

    def _augmented(self, draw: Draw) -> Sample:
        rng = np.random.default_rng((self.seed, draw.epoch, draw.index))
        recipe = augment.draw(rng, self.hyp, draw.index, len(self), mosaic=draw.mosaic)
        failures: list[Failure] = []
        views = self.apply(recipe, draw.index, draw.shape, failures)
        mix = recipe.mix if len(views) > 1 else 1.0
        return Sample(views, mix, recipe.gains, draw.index, draw.shape, draw.output, failures=failures)

    def apply(self, recipe: Recipe, index: int, shape: Shape, failures: list[Failure]) -> tuple[View, ...]:
        """The views that a recipe asks for, of `shape`; pictures that failed on the way join `failures`."""
        mirror = augment.mirror(shape, across=recipe.across, upside=recipe.upside)
        views = [self._mosaic(mosaic, shape, failures) for mosaic in recipe.mosaics]
        if not views:
            canvas, _, _ = _fit(*self._readable(index, failures), shape)
            matrix = recipe.warp.matrix(shape, shape)
            still = np.allclose(matrix, np.eye(3))
            views = [View(canvas, np.eye(3) if still else matrix, whole=still)]
        return tuple(View(view.canvas, mirror @ view.matrix, view.whole) for view in views)

    def _mosaic(self, mosaic: Mosaic, shape: Shape, failures: list[Failure]) -> View:
        found = [self._readable(index, failures) for index in mosaic.indices]
        canvas = augment.mosaic(found, mosaic.centre, self.img_size)
        matrix = mosaic.warp.matrix(canvas.shape, shape)
        inverse = np.linalg.inv(matrix).astype(np.float64)
        seen = augment.sight(inverse, (shape[0] + 1, shape[1] + 1))  # corners, not the last pixels' centres
        return View(augment.copy_paste(canvas, mosaic.paste, mosaic.paste_seed, seen), matrix)

    def _readable(self, index: int, failures: list[Failure]) -> tuple[Image, Record]:
        """The record and its picture, or the next record whose picture can be read."""
        for candidate in (*range(index, len(self)), *range(index)):
            image = self._picture(candidate, failures)
            if image is not None:
                return image, self.records[candidate]
        raise UserError(f"{self.records[index].path}: neither this nor any other of {len(self)} pictures can be read")

    def _picture(self, index: int, failures: list[Failure]) -> Image | None:
        try:
            return self.pictures(index)
        except UnreadableImage as error:
            failures.append(Failure(index, str(error)))
            return None


def _fit(image: Image, record: Record, shape: Shape) -> tuple[Canvas, float, tuple[int, int]]:
    """Letterbox a picture with its labels, never enlarging it: the canvas, the gain and the padding (left, top)."""
    image, gain = fit(image, shape, scaleup=False)
    height, width = image.shape[:2]
    left, top = (shape[1] - width) // 2, (shape[0] - height) // 2
    labels = Labels.of_records([record], [(width, height, left, top)])
    return Canvas(shape, (Layer(image, left, top),), labels), gain, (left, top)
