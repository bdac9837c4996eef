"""The input's kernel on a device: from packed, decoded images to a channels-last batch.

Bytes are those that must move: every image of the batch read once, the batch written once.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.augment_cases import mosaics, skip_absent, tensors_on
from yolov9k.ops import augment


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8])
def bench_augment(measure: Callable[..., None], device: str, dtype: torch.dtype, mixed: bool) -> None:
    """Sixteen images of 640 pixels, each a mosaic of four or a mixture of two; against copying the same bytes."""
    skip_absent("augment", device)
    case = mosaics(16, 640, mixed)
    tensors = tensors_on(case, device)
    moved = case.pixels.numel() + 16 * 3 * 640 * 640 * dtype.itemsize
    measure(lambda: augment(*tensors, case.size, dtype, channels_last=True, backend="triton"), device, moved)
