"""From a record to a sample: the picture and its labels, augmented or letterboxed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset

from yolov9k.data import augment
from yolov9k.data.augment import Mosaic, Recipe, Tile
from yolov9k.data.cache import PictureSource, Reader, UnreadableImage, make_source
from yolov9k.data.labels import Labels
from yolov9k.data.letterbox import FILL, Image, letterbox, scaled
from yolov9k.data.records import Record
from yolov9k.errors import UserError, warn
from yolov9k.hyp import Hyp

Shape = tuple[int, int]


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
    """A picture, uint8 BGR [h, w, 3], and its labels.

    gain, pad (left, top): x in this picture = x in the original * gain + left; of meaning without augmentation only.
    """

    image: Image
    labels: Labels
    index: int
    gain: float
    pad: tuple[int, int]
    output: Shape
    failures: list[Failure] = field(default_factory=list)


class DetectionDataset(Dataset[Sample]):
    """Samples of a list of records.

    augment False: pictures are letterboxed, never enlarged beyond `img_size`. A picture that cannot be read is
    replaced in training by the next one that can; in evaluation by a grey one, so that its objects count as missed.
    `unreadable` holds the indices of the records that failed so far, as far as `report` was told.
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
    ) -> None:
        self.records, self.hyp, self.img_size, self.augment, self.seed = records, hyp, img_size, augment, seed
        self.unreadable: set[int] = set()
        self.pictures: PictureSource = make_source(Reader(records, img_size, fast=augment), cache)

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
            grey = np.full((*draw.shape, 3), FILL, np.uint8)
            return Sample(grey, Labels.empty(), draw.index, 1.0, (0, 0), draw.output, failures)
        gain = max(image.shape[:2]) / max(record.height, record.width)
        (image, labels), refit, pad = _fit(image, record, draw.shape)
        return Sample(image, labels, draw.index, gain * refit, pad, draw.output)

    def _augmented(self, draw: Draw) -> Sample:
        rng = np.random.default_rng((self.seed, draw.epoch, draw.index))
        recipe = augment.draw(rng, self.hyp, draw.index, len(self), mosaic=draw.mosaic)
        failures: list[Failure] = []
        image, labels = self.apply(recipe, draw.index, draw.shape, failures)
        return Sample(image, labels, draw.index, 1.0, (0, 0), draw.output, failures)

    def apply(self, recipe: Recipe, index: int, shape: Shape, failures: list[Failure]) -> Tile:
        """The picture and labels that a recipe makes, of `shape`; pictures that failed on the way join `failures`."""
        if recipe.mosaics:
            tile = self._mosaic(recipe.mosaics[0], shape, failures)
            if len(recipe.mosaics) > 1:
                tile = augment.mix(tile, self._mosaic(recipe.mosaics[1], shape, failures), recipe.mix)
        else:
            image, record = self._readable(index, failures)
            (image, labels), _, _ = _fit(image, record, shape)
            tile = augment.warp(image, labels, recipe.warp.matrix(shape, shape), shape)
        image, labels = tile
        return augment.flip(augment.recolour(image, recipe.gains), labels, across=recipe.across, upside=recipe.upside)

    def _mosaic(self, mosaic: Mosaic, shape: Shape, failures: list[Failure]) -> Tile:
        found = [self._readable(index, failures) for index in mosaic.indices]
        tiles = [(image, Labels.of_record(record, *image.shape[1::-1])) for image, record in found]
        canvas, labels = augment.mosaic(tiles, mosaic.centre, self.img_size)
        canvas, labels = augment.copy_paste(canvas, labels, mosaic.paste, mosaic.paste_seed)
        height, width = canvas.shape[:2]
        return augment.warp(canvas, labels, mosaic.warp.matrix((height, width), shape), shape)

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


def _fit(image: Image, record: Record, shape: Shape) -> tuple[Tile, float, tuple[int, int]]:
    """Letterbox a picture with its labels, never enlarging it: the tile, the gain and the padding (left, top)."""
    height, width = image.shape[:2]
    image, gain, pad = letterbox(image, shape, scaleup=False)
    return (image, Labels.of_record(record, scaled(width, gain), scaled(height, gain)).shifted(*pad)), gain, pad
