"""From a record to a sample: what the operators make an image and its boxes of, augmented or letterboxed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError, warn
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data import augment
from yolov9k.data.augment import AugmentParams, Canvas, ImageLayer, Mosaic, Shape, Tile, View
from yolov9k.data.cache.image_cache import ImageSource, Reader, make_source
from yolov9k.data.cache.nvjpeg import NvjpegReader
from yolov9k.data.images import UnreadableImage
from yolov9k.data.labels import Labels
from yolov9k.data.letterbox import fit, place
from yolov9k.data.records import Record
from yolov9k.data.transform import Transform, UserTransform


@dataclass(frozen=True)
class SampleRequest:
    """One sample that is asked for. All that changes between epochs is in here: workers share no state."""

    index: int
    epoch: int
    mosaic: bool
    shape: Shape  # (height, width) that the image is letterboxed or augmented to
    output: Shape  # (height, width) that the batch is resized to


@dataclass(frozen=True)
class Failure:
    """A record whose image could not be read, and why."""

    index: int
    reason: str


@dataclass
class Sample:
    """An image that is yet to be made, and its objects: one view or a mixture of two (`ops.augment`).

    mix_weight: of the first view. hsv_gains: of hue, saturation and value. shape (height, width): where the views' matrices
    lead; output: what the image is resized to. gain, pad (left, top): x in `shape` = x in the original * gain + left;
    of meaning without augmentation only.
    """

    views: tuple[View, ...]
    mix_weight: float
    hsv_gains: tuple[float, float, float]
    index: int
    shape: Shape
    output: Shape
    gain: float = 1.0
    pad: tuple[int, int] = (0, 0)
    failures: list[Failure] = field(default_factory=list)


class DetectionDataset(Dataset[Sample]):
    """Samples of a list of records.

    augment False: images are letterboxed, never enlarged beyond `img_size`. An image that cannot be read is
    replaced in training by the next one that can; in evaluation by a gray one, so that its objects count as missed.
    `unreadable` holds the indices of the records that failed, as far as `report` was told.
    decode: "cpu", or "nvjpeg", by which a cache of images to augment is filled. transform: a user's own augmentation, called
    with every image of a training sample before anything else is made of it (`UserTransform`). placement: of images that are
    not augmented, as in `letterbox.place`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        recipe: TrainRecipe,
        img_size: int,
        *,
        augment: bool,
        seed: int = 0,
        cache: str | None = None,
        decode: str = "cpu",
        transform: Transform | None = None,
        placement: str = "center",
    ) -> None:
        self.placement = placement
        self.records, self.recipe, self.img_size, self.augment, self.seed = records, recipe, img_size, augment, seed
        self.unreadable: set[int] = set()
        self.transform = UserTransform(transform, img_size) if augment and transform is not None else None
        nvjpeg = decode == "nvjpeg" and augment and cache is not None
        reader = NvjpegReader(records, img_size) if nvjpeg else Reader(records, img_size, fast=augment)
        self.images: ImageSource = make_source(reader, cache)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, request: SampleRequest) -> Sample:
        return self._augmented(request) if self.augment else self._letterboxed(request)

    def report(self, failures: Sequence[Failure]) -> None:
        """Count records whose images could not be read; the first time each is warned about."""
        for failure in failures:
            if failure.index not in self.unreadable:
                self.unreadable.add(failure.index)
                instead = "another image takes its place" if self.augment else "its objects count as missed"
                warn(f"{failure.reason}; {instead}")

    def _letterboxed(self, request: SampleRequest) -> Sample:
        record, failures = self.records[request.index], list[Failure]()
        image = self._image(request.index, failures)
        if image is None:
            gray, one = View(Canvas(request.shape, (), Labels.empty()), np.eye(3), whole=True), (1.0, 1.0, 1.0)
            return Sample((gray,), 1.0, one, request.index, request.shape, request.output, failures=failures)
        gain = max(image.shape[:2]) / max(record.height, record.width)
        canvas, refit, pad = _fit(image, record, request.shape, self.placement)
        view = View(canvas, np.eye(3), whole=True)
        return Sample((view,), 1.0, (1.0, 1.0, 1.0), request.index, request.shape, request.output, gain * refit, pad)

    def _augmented(self, request: SampleRequest) -> Sample:
        rng = np.random.default_rng((self.seed, request.epoch, request.index))
        params = augment.draw(rng, self.recipe, request.index, len(self), mosaic=request.mosaic)
        failures: list[Failure] = []
        views = self.apply(params, request.index, request.shape, failures, request.epoch)
        weight = params.mix_weight if len(views) > 1 else 1.0
        return Sample(views, weight, params.hsv_gains, request.index, request.shape, request.output, failures=failures)

    def apply(
        self, params: AugmentParams, index: int, shape: Shape, failures: list[Failure], epoch: int = 0
    ) -> tuple[View, ...]:
        """The views that `params` ask for, of `shape`; images that failed on the way join `failures`."""
        mirror = augment.mirror(shape, flip_lr=params.flip_lr, flip_ud=params.flip_ud)
        views = [self._mosaic(mosaic, shape, failures, (epoch, index, turn)) for turn, mosaic in enumerate(params.mosaics)]
        if not views:
            canvas, _, _ = _fit(*self._transformed(index, failures, (epoch, index)), shape)
            matrix = params.warp.matrix(shape, shape)
            still = np.allclose(matrix, np.eye(3))
            views = [View(canvas, np.eye(3) if still else matrix, whole=still)]
        return tuple(View(view.canvas, mirror @ view.matrix, view.whole) for view in views)

    def _mosaic(self, mosaic: Mosaic, shape: Shape, failures: list[Failure], turn: tuple[int, ...]) -> View:
        found = [self._transformed(index, failures, (*turn, tile)) for tile, index in enumerate(mosaic.indices)]
        canvas = augment.mosaic(found, mosaic.center, self.img_size)
        matrix = mosaic.warp.matrix(canvas.shape, shape)
        inverse = np.linalg.inv(matrix).astype(np.float64)
        seen = augment.visible_bounds(inverse, (shape[0] + 1, shape[1] + 1))  # corners, not the last pixels' centers
        return View(augment.copy_paste(canvas, mosaic.paste, mosaic.paste_seed, seen), matrix)

    def _transformed(self, index: int, failures: list[Failure], turn: tuple[int, ...]) -> Tile:
        """A record's image and the record, after the user's augmentation if there is one; `turn` tells its generator apart."""
        image, record = self._readable(index, failures)
        return (image, record) if self.transform is None else self.transform(image, record, (self.seed, *turn))

    def _readable(self, index: int, failures: list[Failure]) -> tuple[Image, Record]:
        """The record and its image, or the next record whose image can be read."""
        for candidate in (*range(index, len(self)), *range(index)):
            image = self._image(candidate, failures)
            if image is not None:
                return image, self.records[candidate]
        raise UserError(f"{self.records[index].path}: neither this nor any other of {len(self)} images can be read")

    def _image(self, index: int, failures: list[Failure]) -> Image | None:
        try:
            return self.images(index)
        except UnreadableImage as error:
            failures.append(Failure(index, str(error)))
            return None


def _fit(image: Image, record: Record, shape: Shape, placement: str = "center") -> tuple[Canvas, float, tuple[int, int]]:
    """Letterbox an image with its labels, never enlarging it: the canvas, the gain and the padding (left, top)."""
    image, gain = fit(image, shape, scaleup=False)
    height, width = image.shape[:2]
    left, top = place((height, width), shape, placement)
    labels = Labels.of_records([record], [(width, height, left, top)])
    return Canvas(shape, (ImageLayer(image, left, top),), labels), gain, (left, top)
