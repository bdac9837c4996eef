"""JPEG files decoded together on a GPU, by nvJPEG where torchvision offers it: fills a cache faster than a few cores can.

Its pixels differ from libjpeg's by a few levels of 255, so that a cache of one kind is never taken for one of the other.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yolov9k.common.arrays import Image
from yolov9k.common.device import cuda_device, has_cuda
from yolov9k.common.errors import warn
from yolov9k.common.files import read_bytes
from yolov9k.data.cache.image_cache import Reader
from yolov9k.data.headers import ImageError, opened, read_header
from yolov9k.data.images import is_jpeg, is_truncated
from yolov9k.data.records import Record

Decode = Callable[[list[Tensor]], list[Tensor]]  # files, uint8 [n] each, to images, uint8 [3, h, w] RGB each
TOGETHER = 64  # images a call: 1.2 MB of memory each at 640 pixels, ten times that before they are resized


def why_missing() -> str | None:
    """What keeps nvJPEG from being used here, None where nothing does."""
    if not has_cuda():
        return "it needs a GPU, and torch sees none"
    try:
        from torchvision.io import decode_jpeg  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # one built for another torch fails in either way
        return f"it needs torchvision, built for this torch ({' '.join(str(error).split())})"
    return None


def on_gpu(files: list[Tensor]) -> list[Tensor]:
    """Decode on the current GPU. Raises RuntimeError where nvJPEG cannot decode one of them."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(files, mode=ImageReadMode.RGB, device=cuda_device().type)  # type: ignore[no-any-return]


class NvjpegReader(Reader):
    """A Reader, fast, that decodes JPEG files many at a time; one alone, and what nvJPEG does not take, it reads as any."""

    portion = TOGETHER

    def __init__(self, records: Sequence[Record], size: int, decode: Decode = on_gpu) -> None:
        super().__init__(records, size, fast=True)
        self.decode = decode

    @property
    def kind(self) -> str:
        """Tells its images from those of other readers."""
        return f"{super().kind}|nvjpeg"

    def many(self, indices: Sequence[int]) -> dict[int, Image]:
        """The images of those files that could be decoded together; where nvJPEG refuses, none, and a warning."""
        files = [(index, data) for index in indices if (data := self._upright(index)) is not None]
        if not files:
            return {}
        try:
            images = self.decode([torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for _, data in files])
            return {index: self._fitted(index, p) for (index, _), p in zip(files, images, strict=True) if self._whole(index, p)}
        except RuntimeError as error:
            warn(f"--decode nvjpeg: {' '.join(str(error).split())}; {len(files)} images are decoded without it")
            return {}

    def _upright(self, index: int) -> bytes | None:
        """A whole JPEG file that no orientation turns, which nvJPEG would ignore; None for any other."""
        try:
            data = read_bytes(self.records[index].path)
            if not is_jpeg(data) or is_truncated(data):
                return None
            with opened(io.BytesIO(data)) as image:
                return data if read_header(image, len(data)).orientation == 1 else None
        except (OSError, ImageError):
            return None

    def _whole(self, index: int, image: Tensor) -> bool:
        """Whether it has the size that the record was read with."""
        return tuple(image.shape) == (3, self.records[index].height, self.records[index].width)

    def _fitted(self, index: int, image: Tensor) -> Image:
        reduce = self.reduction(self.records[index])
        height, width = (-(-side // reduce) for side in image.shape[1:])
        return shrink(image, reduce, self.shape(height, width)).cpu().numpy()


def shrink(image: Tensor, reduce: int, shape: tuple[int, int]) -> Tensor:
    """uint8 [3, h, w] RGB to uint8 [*shape, 3] BGR: the mean of cells of `reduce` x `reduce`, then bilinear as OpenCV's."""
    x = image[None].float()
    if reduce > 1:
        x = F.avg_pool2d(x, reduce, ceil_mode=True, count_include_pad=False)
    x = F.interpolate(x, shape, mode="bilinear", align_corners=False)[0]
    return x.flip(0).permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).contiguous()
