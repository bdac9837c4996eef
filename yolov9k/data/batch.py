"""Batches, and what they are made of: decoded images and small tables, which one operator augments on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov9k.common.device import Stream, is_cpu
from yolov9k.data.augment import ImageLayer, Shape, View
from yolov9k.data.dataset import Failure, Sample
from yolov9k.data.labels import Labels, concatenate
from yolov9k.ops import augment, augment_boxes
from yolov9k.ops.augment import LAYER

Pixels = tuple[Tensor | tuple[Tensor, ...], Tensor]  # what holds the images, and the table of layers
Movable = TypeVar("Movable", bound="_Movable")


class _Movable:
    """A dataclass whose tensors move together."""

    def to(self: Movable, device: torch.device | str, *, non_blocking: bool = True) -> Movable:
        """A copy with all tensors on a device; asynchronous where this batch is pinned."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: Movable) -> Movable:
        """A copy in page-locked memory."""
        return self._moved(Tensor.pin_memory)

    def record_stream(self, stream: Stream) -> None:
        """Tell the allocator that a CUDA stream reads the tensors, which were made on another."""
        for f in fields(self):  # type: ignore[arg-type]
            if isinstance(value := getattr(self, f.name), Tensor):
                value.record_stream(stream)

    def _moved(self: Movable, move: Callable[[Tensor], Tensor]) -> Movable:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{k: move(v) for k, v in values.items() if isinstance(v, Tensor)})  # type: ignore[type-var]


@dataclass
class Batch(_Movable):
    """Images and targets, padded to fixed shapes.

    images: uint8 [B, 3, H, W], RGB. boxes: float32 [B, G, 5], class cx cy w h normalized to the letterboxed image,
    zero beyond counts int64 [B]; G is at least the most boxes of an image and 1. indices: records of the split.
    scale float32 [B] and pad float32 [B, 2] (left, top): x in the image = x in the original * scale + left; of
    meaning without augmentation only. failures: records whose images could not be read on the way.
    """

    images: Tensor
    boxes: Tensor
    counts: Tensor
    indices: list[int]
    scale: Tensor
    pad: Tensor
    failures: list[Failure] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)


@dataclass
class RawBatch(_Movable):
    """A batch before augmentation: images as they were decoded, and what is to be done with them.

    pixels, layers, layer_ranges, views, mix_weights, hsv_gains: what `ops.augment` takes; several pixels, which do not
    move, where the batch is made at once (`collate`). points, ends, classes, min_area_ratio, object_ranges, matrices:
    what `ops.augment_boxes` takes. shape, output (height, width): of the boxes and of the images. capacity: the
    most objects of a sample, at least 1. The rest as in Batch.
    """

    pixels: Tensor | tuple[Tensor, ...]
    layers: Tensor
    layer_ranges: Tensor
    views: Tensor
    mix_weights: Tensor
    hsv_gains: Tensor
    points: Tensor
    ends: Tensor
    classes: Tensor
    min_area_ratio: Tensor
    object_ranges: Tensor
    matrices: Tensor
    shape: Shape
    output: Shape
    capacity: int
    indices: list[int]
    scale: Tensor
    pad: Tensor
    failures: list[Failure] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    def augment(self, dtype: torch.dtype = torch.uint8, *, channels_last: bool = False, backend: str = "auto") -> Batch:
        """The batch, made on the device where the tensors lie, without waiting for it.

        dtype, channels_last, backend: as in `ops.augment`; a floating dtype gives images in 0..1. On the CPU the boxes have
        as many rows as the fullest image needs, elsewhere `capacity`, as nobody there may ask how many are needed.
        """
        images = augment(
            self.pixels, self.layers, self.layer_ranges, self.views, self.mix_weights, self.hsv_gains, self.output,
            dtype, channels_last, backend,
        )  # fmt: skip
        boxes, counts = augment_boxes(
            self.points, self.ends, self.classes, self.min_area_ratio, self.object_ranges, self.matrices, self.shape,
            self.capacity, backend,
        )  # fmt: skip
        if is_cpu(counts.device):
            boxes = boxes[:, : max(1, int(counts.max()))].contiguous()
        return Batch(images, boxes, counts, self.indices, self.scale, self.pad, self.failures)


def pack(samples: Sequence[Sample]) -> RawBatch:
    """Lay the samples of a batch, all of one shape and output, one after another, to be taken to another process or device."""
    return _lay(samples, _copied)


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a batch of samples where this is called; no image is copied on the way where csrc/ is built."""
    return _lay(samples, _lent).augment()


def _lay(samples: Sequence[Sample], host_copy: Callable[[Sequence[ImageLayer]], Pixels]) -> RawBatch:
    """A raw batch, its images handed over as pixels and the table of layers."""
    shape, output = samples[0].shape, samples[0].output
    layers: list[list[ImageLayer]] = []
    views, matrices, labels = [], [], []
    for sample in samples:
        for view in _two(sample.views):
            inverse = view.inverse(shape, output) if view else np.eye(3)
            views.append(inverse)
            matrices.append(view.matrix if view else np.eye(3))
            layers.append(view.seen(inverse, output) if view else [])
            labels.append(_objects(view) if view else (Labels.empty(), np.zeros(0, np.float32)))
    pixels, table = host_copy([layer for some in layers for layer in some])
    objects = concatenate([some for some, _ in labels])
    object_ranges = _ranges([len(some) for some, _ in labels])
    return RawBatch(
        pixels=pixels,
        layers=table,
        layer_ranges=_ranges([len(some) for some in layers]),
        views=_matrices(views),
        mix_weights=_floats([sample.mix_weight for sample in samples]),
        hsv_gains=_floats([sample.hsv_gains for sample in samples]),
        points=torch.from_numpy(np.ascontiguousarray(objects.points)),
        ends=torch.from_numpy(np.cumsum(objects.lengths)),
        classes=torch.from_numpy(objects.classes),
        min_area_ratio=torch.from_numpy(np.concatenate([ratios for _, ratios in labels])),
        object_ranges=object_ranges,
        matrices=_matrices(matrices),
        shape=shape,
        output=output,
        capacity=max(1, int((object_ranges[:, 1, 1] - object_ranges[:, 0, 0]).max())),
        indices=[sample.index for sample in samples],
        scale=_floats([sample.gain for sample in samples]),
        pad=_floats([sample.pad for sample in samples]),
        failures=[failure for sample in samples for failure in sample.failures],
    )


def _two(views: Sequence[View]) -> list[View | None]:
    return [*views, None][:2]


def _objects(view: View) -> tuple[Labels, NDArray[np.float32]]:
    """The objects of a view and the share of its area that each must keep; the annotated boxes where all are to be kept."""
    labels = view.canvas.labels
    return (labels.boxed, np.full(len(labels), -1, np.float32)) if view.whole else (labels, labels.min_area_ratio)


def _copied(layers: Sequence[ImageLayer]) -> tuple[Tensor, Tensor]:
    """Images and masks in one uint8 [N], and the table int64 [L, 8] that tells where (`ops.augment`)."""
    pixels = np.empty(sum(layer.image.size + (0 if layer.mask is None else layer.mask.size) for layer in layers), np.uint8)
    table, start = np.empty((len(layers), LAYER), np.int64), 0
    for row, layer in zip(table, layers, strict=True):
        height, width = layer.image.shape[:2]
        first, start = start, _put(layer.image, pixels, start)
        mask, start = (-1, start) if layer.mask is None else (start, _put(layer.mask, pixels, start))
        row[:] = first, height, width, layer.left, layer.top, mask, 3 * width, width
    return torch.from_numpy(pixels), torch.from_numpy(table)


def _put(array: NDArray[np.uint8], pixels: NDArray[np.uint8], start: int) -> int:
    end = start + array.size
    pixels[start:end].reshape(array.shape)[...] = array
    return end


def _lent(layers: Sequence[ImageLayer]) -> tuple[tuple[Tensor, ...], Tensor]:
    """The same table, and the memory of each image and mask as it is."""
    parts, table, start = [np.empty(0, np.uint8)], [], 0
    for layer in layers:
        (height, width, _), cover, mask_stride = layer.image.shape, -1, 0
        image, stride = _memory(layer.image, (3, 1))
        parts.append(image)
        first, start = start, start + image.size
        if layer.mask is not None:
            mask, mask_stride = _memory(layer.mask, (1,))
            parts.append(mask)
            cover, start = start, start + mask.size
        table.append((first, height, width, layer.left, layer.top, cover, stride, mask_stride))
    return tuple(map(torch.from_numpy, parts)), torch.from_numpy(np.array(table, np.int64).reshape(-1, LAYER))


def _memory(rows: NDArray[np.uint8], within: tuple[int, ...]) -> tuple[NDArray[np.uint8], int]:
    """The bytes from the first row's begin to the last one's end, uint8 [N], and how far apart rows begin."""
    height, width, stride = *rows.shape[:2], rows.strides[0]
    if rows.strides[1:] != within or stride < width * within[0]:
        rows, stride = np.ascontiguousarray(rows), width * within[0]
    return np.asarray(_Bytes(rows, (height - 1) * stride + width * within[0])), stride


class _Bytes:
    """Memory from an array's first byte on, for numpy. Writable, as torch warns of all else; nobody writes to it."""

    def __init__(self, array: NDArray[np.uint8], size: int) -> None:
        self.array = array  # whose memory lives as long as this
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (address, False)}


def _ranges(counts: Sequence[int]) -> Tensor:
    """[B, 2, 2] first and one past the last of what each of two views has so many of."""
    ends = np.cumsum(counts, dtype=np.int64)
    return torch.from_numpy(np.stack([ends - np.array(counts, np.int64), ends], -1).reshape(-1, 2, 2))


def _matrices(matrices: Sequence[NDArray[np.float64]]) -> Tensor:
    return torch.from_numpy(np.array(matrices, np.float32).reshape(-1, 2, 3, 3))


def _floats(values: Iterable[Any]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))
