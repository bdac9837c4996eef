"""Candidates of three maps at 640 pixels, 80 classes: Triton against torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.dfl_cases import LAYOUTS, READ, STRIDES, WRITTEN, bytes_of, draw_maps, skip_absent
from yolov9k.ops import dfl_candidates


@pytest.mark.parametrize("variant", ["triton", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images", [1, 16])
def bench_dfl_candidates(measure: Callable[..., None], device: str, variant: str, layout: str, images: int) -> None:
    """Anchors above 0.001 alone, of logits around -9: all class logits are read once, a candidate's values once more."""
    skip_absent(variant, device)
    maps = draw_maps(device, layout, images, -9.0)
    found = int(dfl_candidates(maps, STRIDES, backend=variant).counts.sum())
    moved = bytes_of(maps, READ - 64) + found * ((READ + WRITTEN) * maps[0].element_size() + 8)
    measure(lambda: dfl_candidates(maps, STRIDES, backend=variant), device, moved)
