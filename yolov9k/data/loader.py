"""Batches for training and evaluation, made by worker processes that share no state with the main one."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from yolov9k.common.device import is_pinnable
from yolov9k.common.errors import UserError, check_range, warn
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.augment import Shape
from yolov9k.data.batch import Batch, RawBatch, collate, pack
from yolov9k.data.dataset import DetectionDataset, Sample, SampleRequest
from yolov9k.data.letterbox import rectangle_shapes
from yolov9k.data.records import Split
from yolov9k.data.transform import Transform
from yolov9k.data.workers import begin, explained, fitting_workers, start_worker, why_no_workers

__all__ = ["Batch", "Loader", "RawBatch", "RequestSampler", "make_loader"]
SCALES = (0.5, 1.5)  # of img_size, the range of multi-scale training


@dataclass
class RequestSampler:
    """The samples that an epoch asks for, batch by batch.

    shapes: of each batch where the records are taken in order of aspect (rectangular batches, `order` sorts them);
    otherwise all are square. Everything random depends on (seed, epoch) alone. start: so many first batches are left out.
    """

    order: NDArray[np.int64]
    batch: int
    img_size: int
    stride: int
    shapes: list[Shape] | None
    shuffle: bool
    mosaic_epochs: int
    multi_scale: bool
    seed: int
    epoch: int = 0
    start: int = 0

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch)

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        epoch, mosaic = self.epoch, self.epoch < self.mosaic_epochs
        order, turns = self.order, np.arange(len(self))
        if self.shuffle and self.shapes is None:
            order = rng.permutation(order)
        elif self.shuffle:
            turns = rng.permutation(turns)
        for number, turn in list(enumerate(turns))[self.start :]:
            shape = self.shapes[turn] if self.shapes else (self.img_size, self.img_size)
            output = self._output(shape, epoch, number)
            chosen = order[turn * self.batch : (turn + 1) * self.batch]
            yield [SampleRequest(int(index), epoch, mosaic, shape, output) for index in chosen]

    def _output(self, shape: Shape, epoch: int, number: int) -> Shape:
        if not self.multi_scale:
            return shape
        low, high = (round(side * self.img_size / self.stride) for side in SCALES)
        size = np.random.default_rng((self.seed, epoch, number)).integers(max(low, 1), high + 1) * self.stride
        height, width = (math.ceil(side * size / self.img_size / self.stride) * self.stride for side in shape)
        return height, width


class Loader:
    """An iterable of Batch. Call `set_epoch` before each epoch's iteration; workers live until `close`.

    device None: the workers augment. Otherwise they only read and decode, batches are augmented on that device: either here
    as they are iterated over, or by whoever takes them from `raw`. The batches are the same.

    An iteration may be left half-way. Images that could not be read are warned about once and counted in
    `dataset.unreadable`. The batches do not depend on the number of workers.
    """

    def __init__(
        self, dataset: DetectionDataset, sampler: RequestSampler, *, workers: int, pin: bool, device: torch.device | None = None
    ) -> None:
        self.dataset, self.sampler, self.batch_size, self.device = dataset, sampler, sampler.batch, device
        self._pin = pin
        self._batches: DataLoader[Sample] | None = self._make(workers)

    def _make(self, workers: int) -> DataLoader[Sample]:
        make: Callable[[Sequence[Sample]], Batch | RawBatch] = pack if self.device else collate
        return DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            num_workers=workers,
            collate_fn=make,
            pin_memory=self._pin,
            persistent_workers=workers > 0,
            worker_init_fn=start_worker,
            multiprocessing_context="fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None,
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch whose batches the next iteration gives, from the one numbered `start` on."""
        self.sampler.epoch, self.sampler.start = epoch, start

    def plan(self, epochs: int, close_mosaic: int) -> None:
        """Train for another number of epochs, the last `close_mosaic` of them without mosaic."""
        if self.sampler.mosaic_epochs:
            self.sampler.mosaic_epochs = epochs - close_mosaic

    def __iter__(self) -> Iterator[Batch]:
        if self.device is None:
            yield from self._made()
        else:
            yield from (raw.to(self.device).augment() for raw in self.raw())

    def raw(self) -> Iterator[RawBatch]:
        """The batches before augmentation, in the host's memory: `raw.to(device).augment(dtype, channels_last=...)`.

        Raises RuntimeError where the workers augment.
        """
        if self.device is None:
            raise RuntimeError("this loader's workers augment; make_loader(augment_on=device) leaves that to a device")
        return self._made()

    def _made(self) -> Iterator[Any]:
        iterator = self._begin()
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except UserError as error:
                # torch puts a worker's traceback before the message
                raise UserError(str(error).strip().splitlines()[-1].removeprefix("yolov9k.common.errors.UserError: ")) from None
            except (RuntimeError, OSError, MemoryError, EOFError) as error:
                if told := explained(error, iterator):
                    raise told from None
                raise
            self.dataset.report(batch.failures)
            yield batch

    def _begin(self) -> Iterator[Any]:
        """An epoch's iterator, of the main process where no worker can be started."""
        if self._batches is None:
            raise RuntimeError("this loader is closed")
        workers = self._batches.num_workers
        why = why_no_workers() if workers else ""
        try:
            if not why:
                return begin(self._batches)
        except OSError as error:
            if not workers:
                raise
            why = str(error.strerror)
        warn(f"--workers {workers}: no worker can be started ({why}); images are read in the main process")
        self._batches = self._make(0)
        return begin(self._batches)

    def close(self) -> None:
        """Stop the workers. The loader cannot be used after."""
        self._batches = None


def make_loader(
    split: Split,
    recipe: TrainRecipe,
    *,
    img_size: int,
    batch: int,
    augment: bool,
    rect: bool = False,
    workers: int = 2,
    cache: str | None = None,
    decode: str = "cpu",
    seed: int = 0,
    close_mosaic: int = 15,
    epochs: int = 1,
    multi_scale: bool = False,
    stride: int = 32,
    pin: bool | None = None,
    augment_on: torch.device | str = "worker",
    transform: Transform | None = None,
    placement: str = "center",
) -> Loader:
    """Make the loader of one split.

    augment: training, shuffled and augmented; the last `close_mosaic` of `epochs` epochs have no mosaic.
    rect: batches of records of like aspect, padded as little as the stride allows, without mosaic.
    multi_scale: each training batch has a size of its own, 0.5 to 1.5 times img_size in multiples of stride.
    workers: at most as many as there are processors. cache: None, "ram" or "disk". decode: "cpu", or "nvjpeg" for a cache of
    images to augment.
    pin: page-locked batches, by default where there is CUDA.
    augment_on: "worker", or a device: workers then only read and decode, the device does the rest (`Loader.raw`).
    transform: a user's own augmentation of training images, in the workers before all other (`data.transform.UserTransform`).
    placement: of images that are not augmented, a model's `letterbox`.
    Raises UserError for an img_size that is no multiple of the stride, a batch below 1, fewer than 0 workers, a
    cache of another name, or a split without records.
    """
    if img_size < stride or img_size % stride:
        near = max(1, round(img_size / stride)) * stride
        raise UserError(f"--img-size {img_size}: not a multiple of the stride {stride}; the nearest is {near}")
    check_range("batch", batch, 1)
    check_range("workers", workers, 0)
    if not split.records:
        raise UserError(f"{split.source}: the split '{split.name}' has no images")
    order, shapes = np.arange(len(split.records)), None
    if rect:
        aspects = np.array([record.height / record.width for record in split.records])
        order = np.argsort(aspects, kind="stable")
        shapes = rectangle_shapes(aspects[order], batch, img_size, stride)
    workers = min(workers, os.cpu_count() or 1)
    on_device = augment_on != "worker"
    dataset = DetectionDataset(
        split.records,
        recipe,
        img_size,
        augment=augment,
        seed=seed,
        cache=cache,
        decode=decode,
        transform=transform,
        placement=placement,
    )
    sampler = RequestSampler(
        order=order,
        batch=batch,
        img_size=img_size,
        stride=stride,
        shapes=shapes,
        shuffle=augment,
        mosaic_epochs=epochs - close_mosaic if augment and not rect else 0,
        multi_scale=multi_scale and augment,
        seed=seed,
    )
    device = torch.device(augment_on) if on_device else None
    if workers:
        workers = fitting_workers(workers, _batch_bytes(sampler, recipe, on_device))
    pin = is_pinnable() if pin is None else pin
    return Loader(dataset, sampler, workers=workers, pin=pin, device=device)


def _batch_bytes(sampler: RequestSampler, recipe: TrainRecipe, decoded: bool) -> float:
    """Bytes of a batch's images, or of the images that it is made of where these are handed over as they were decoded."""
    height, width = max(sampler.shapes or [(sampler.img_size, sampler.img_size)], key=math.prod)
    image: float = 3 * height * width
    if decoded:
        image *= round(1 + 3 * recipe.mosaic) * (1 + recipe.mixup) if sampler.mosaic_epochs else 1
    return sampler.batch * image * (SCALES[1] ** 2 if sampler.multi_scale and not decoded else 1)
