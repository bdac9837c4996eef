"""Boxes of an image in the shape that users of Ultralytics know, and still the array that they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from yolov9k.common.arrays import Int64Array

Rows = Any  # a tensor, or an array once `numpy` was asked for


class Names(list[str]):
    """Class names by number. A list that also reads as the dictionary that Ultralytics has in its place."""

    def keys(self) -> range:
        return range(len(self))

    def values(self) -> list[str]:
        return list(self)

    def items(self) -> list[tuple[int, str]]:
        return list(enumerate(self))

    def __contains__(self, key: object) -> bool:
        """Whether a name is among them, or a number is one of theirs, as the dictionary's keys are."""
        number = isinstance(key, (int, float, np.number)) and not isinstance(key, bool)
        return key in range(len(self)) if number else super().__contains__(key)

    def get(self, number: int, default: str | None = None) -> str | None:
        return self[number] if 0 <= number < len(self) else default


class Boxes(np.ndarray[Any, np.dtype[np.float32]]):
    """Boxes of one image: float32 [n, 4], corners x1 y1 x2 y2 in its pixels, which know what was found in them.

    Beside the array there are fields with a row a box, float32 tensors on the host until `to`, `cuda` or `numpy` takes them
    elsewhere: data [n, 6] (corners, score, class; [n, 7] with a track's number before the score), xyxy, xywh (center and
    sides) and, as shares of the image, xyxyn and xywhn, all [n, 4]; conf, cls and id [n], id None without tracks. A number
    chooses one box, [4], whose fields have one row; a slice, a mask or numbers choose several. What else numpy makes of
    them is a plain array. Names and meanings are Ultralytics'.
    """

    orig_shape: tuple[int, int]
    _rows: Rows

    def __new__(cls, data: Rows, orig_shape: tuple[int, int]) -> Boxes:
        """data: [n, 6] or [n, 7], a tensor or an array; orig_shape: height and width of the image."""
        host = data.detach().cpu().float().numpy() if isinstance(data, torch.Tensor) else np.asarray(data, np.float32)
        boxes = host[:, :4].view(cls)
        boxes._rows, boxes.orig_shape = data, orig_shape
        return boxes

    @classmethod
    def of(cls, corners: Any, scores: Any, classes: Any, orig_shape: tuple[int, int]) -> Boxes:
        """From corners [n, 4], scores [n] and classes [n]."""
        columns = np.empty((len(scores), 6), np.float32)
        columns[:, :4], columns[:, 4], columns[:, 5] = corners, scores, classes
        return cls(torch.from_numpy(columns), orig_shape)

    def __array_finalize__(self, array: Any) -> None:
        self._rows, self.orig_shape = None, getattr(array, "orig_shape", (0, 0))

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        return self if array is self else np.asarray(array)[()]  # itself where it was written to in place

    def __reduce__(self) -> Any:
        return (Boxes, (self._rows, self.orig_shape)) if self._whole() else np.asarray(self).__reduce__()

    def __copy__(self) -> Any:
        return Boxes(self._rows, self.orig_shape) if self._whole() else np.array(self)

    def __deepcopy__(self, memo: Any) -> Any:
        return Boxes(copy.deepcopy(self._rows, memo), self.orig_shape) if self._whole() else np.array(self)

    def _whole(self) -> bool:
        """Whether these are all boxes of their rows: neither one of them nor what numpy made of them."""
        return self._rows is not None and self.ndim == 2

    def __bool__(self) -> bool:
        return len(self) > 0 if self._rows is not None else bool(np.asarray(self))

    def __getitem__(self, index: Any) -> Any:
        chosen = index.cpu().numpy() if isinstance(index, torch.Tensor) else index
        chosen = chosen[()] if isinstance(chosen, np.ndarray) and not chosen.ndim else chosen
        if self._whole() and isinstance(chosen, int | np.integer) and not isinstance(chosen, bool):
            return self._one(range(len(self))[chosen])
        if self._whole() and isinstance(chosen, slice):
            return self._several(np.arange(len(self))[chosen])
        if self._whole() and isinstance(chosen, list | np.ndarray) and np.ndim(chosen) == 1:
            return self._several(np.arange(len(self))[chosen if len(chosen) else slice(0)])
        return np.asarray(self)[chosen]

    def _one(self, number: int) -> Boxes:
        box: Boxes = np.asarray(self)[number].view(Boxes)
        box._rows, box.orig_shape = self._rows[number : number + 1], self.orig_shape
        return box

    def _several(self, numbers: Int64Array) -> Boxes:
        chosen = torch.from_numpy(numbers.copy()) if isinstance(self._rows, torch.Tensor) else numbers
        return Boxes(self._rows[chosen], self.orig_shape)

    @property
    def data(self) -> Rows:  # hides the buffer of numpy's own, which memoryview(boxes) still gives
        """[n, 6] or [n, 7]: corners, the track's number if there are tracks, score, class."""
        if self._rows is None:
            raise AttributeError("this array was made from a result's boxes and has no scores or classes; take result.boxes")
        return self._rows

    @property
    def xyxy(self) -> Rows:
        return self.data[:, :4]

    @property
    def xywh(self) -> Rows:
        low, high = self.data[:, :2], self.data[:, 2:4]
        return _beside((low + high) / 2, high - low)

    @property
    def xyxyn(self) -> Rows:
        return self.xyxy / self._extent()

    @property
    def xywhn(self) -> Rows:
        return self.xywh / self._extent()

    @property
    def conf(self) -> Rows:
        return self.data[:, -2]

    @property
    def cls(self) -> Rows:
        return self.data[:, -1]

    @property
    def id(self) -> Rows | None:
        return self.data[:, 4] if self.is_track else None

    @property
    def is_track(self) -> bool:
        return bool(self.data.shape[1] == 7)

    def cpu(self) -> Boxes:
        """The same with fields on the host."""
        return self._with(lambda rows: rows.cpu() if isinstance(rows, torch.Tensor) else rows)

    def cuda(self) -> Boxes:
        """The same with fields on the GPU."""
        return self.to("cuda")

    def numpy(self) -> Boxes:
        """The same with fields that are arrays."""
        return self._with(lambda rows: rows.cpu().numpy() if isinstance(rows, torch.Tensor) else rows)

    def to(self, *args: Any, **kwargs: Any) -> Boxes:
        """The same with fields that are tensors, moved as `Tensor.to` moves them."""
        return self._with(lambda rows: torch.as_tensor(rows).to(*args, **kwargs))

    def _with(self, change: Callable[[Rows], Rows]) -> Boxes:
        twin = Boxes(change(self.data), self.orig_shape)
        return twin if self.ndim == 2 else twin[0]

    def _extent(self) -> Rows:
        height, width = self.orig_shape
        sides = [width, height, width, height]
        return self.data.new_tensor(sides) if isinstance(self.data, torch.Tensor) else np.array(sides, np.float32)


def _beside(left: Rows, right: Rows) -> Rows:
    return torch.cat((left, right), 1) if isinstance(left, torch.Tensor) else np.concatenate((left, right), 1)
