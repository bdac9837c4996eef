"""DFL decode of yolov9's three maps at 640 pixels, 80 classes: Triton against the reference, both layouts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from yolov9k.ops import available, dfl_decode

READ, WRITTEN, SIDES = 144, 84, (80, 40, 20)  # values an anchor; cells a side of each level
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images", [1, 16])
def bench_dfl_decode(measure: Callable[..., None], device: str, backend: str, layout: str, images: int) -> None:
    """From raw maps to boxes in pixels and probabilities; bfloat16 on a GPU, float32 on a CPU."""
    if backend not in available("dfl_decode") or (backend == "triton" and device == "cpu"):
        pytest.skip("Triton's kernels run on a GPU; its interpreter is not worth timing")
    dtype, form = torch.bfloat16 if device == "cuda" else torch.float32, LAYOUTS[layout]
    maps = [torch.randn(images, READ, side, side, device=device).to(dtype).contiguous(memory_format=form) for side in SIDES]
    moved = images * sum(side**2 for side in SIDES) * (READ + WRITTEN) * maps[0].element_size()
    measure(lambda: dfl_decode(maps, [8, 16, 32], backend=backend), device, moved)
