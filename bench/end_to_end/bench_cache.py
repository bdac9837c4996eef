"""An image at training size from the cache against decoding and resizing it: real images, one thread, on a CPU.

Each run reads all images once in a random order and copies them, as a mosaic does. `first`: with checksums verified.
The files are in the system's memory: what a disk adds is not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data_cases import make_records
from tests.support import shared
from yolov9k.common.arrays import Image
from yolov9k.data.cache.image_cache import ImageSource, Reader, make_source

SIZE, COUNT = 640, 64


def reader() -> Reader:
    paths = sorted(shared("data/bccd/JPEGImages").iterdir())[:COUNT]
    records = make_records(None, [(480, 640)] * len(paths))
    for record, path in zip(records, paths, strict=True):
        record.path = path
    return Reader(records, SIZE, fast=True)


def sources(variant: str) -> Callable[[], ImageSource]:
    """Makes the source of a round; a cache made anew has verified nothing yet."""
    if variant == "files":
        return reader
    place = "ram" if variant == "ram" else "disk"
    if variant == "disk first":
        return lambda: make_source(reader(), place)
    source = make_source(reader(), place)
    return lambda: source


@pytest.mark.parametrize("variant", ["files", "disk first", "disk", "ram"])
def bench_cache(benchmark: Any, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make, order = sources(variant), np.random.default_rng(0).permutation(COUNT).tolist()
    canvas: Image = np.empty((SIZE, SIZE, 3), np.uint8)

    def run(source: ImageSource) -> None:
        for index in order:
            image = source(index)
            canvas[: image.shape[0], : image.shape[1]] = image

    benchmark.pedantic(run, setup=lambda: ((make(),), {}), rounds=20, warmup_rounds=2)
    if benchmark.stats:  # absent when benchmarks are only run once, as the tests do
        benchmark.extra_info["images_per_second"] = round(COUNT / benchmark.stats.stats.median)
