"""From decoded images to a training batch: the fused C++ pass against the five passes of OpenCV, on one thread each.

Images of 640 pixels, the default params, 16 a batch; with `yolov9k.data`'s own layout and packing on the one side. Both
begin with decoded images and drawn parameters, both end with uint8 [B, 3, H, W] and labels. The ratio in `extra_info` is of
processor time, batches of either taken in turns within one run, so that it holds on a busy machine too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from bench.input_cases import BATCH, IMAGES, SIZE
from tests import opencv_input
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data import augment
from yolov9k.data.batch import collate
from yolov9k.data.dataset import DetectionDataset, Sample
from yolov9k.data.labels import Labels
from yolov9k.data.records import Record
from yolov9k.ops import available

RECIPES = {
    "default": TrainRecipe(),
    "turned": TrainRecipe().override(degrees=10, shear=2),
    "tilted": TrainRecipe().override(perspective=0.0003),
}


def random_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth shades with some noise, as images have them: every hue, no flat areas."""
    coarse = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return (smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)


def record(rng: np.random.Generator, number: int, height: int, width: int) -> Record:
    """Seven objects, all outlined by 24 points, as COCO has them."""
    n, angles = 7, np.linspace(0, 2 * np.pi, 24, endpoint=False)
    centers, radii = rng.uniform(0.2, 0.8, (n, 2)), rng.uniform(0.03, 0.18, (n, 1))
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    outlines = [(c + r * circle).astype(np.float32) for c, r in zip(centers, radii, strict=True)]
    boxes = np.hstack([centers - radii, centers + radii]).astype(np.float32)
    path, ones = Path(f"{number}.jpg"), np.ones(n, np.float32)
    return Record(path, number, height, width, rng.integers(0, 80, n), boxes, list(outlines), np.zeros(n, bool), ones)


class Work:
    """Decoded images and endless parameters."""

    def __init__(self, recipe: TrainRecipe) -> None:
        rng = np.random.default_rng(0)
        shapes = [(SIZE, rng.integers(420, SIZE)) if i % 3 else (rng.integers(420, SIZE), SIZE) for i in range(IMAGES)]
        self.images = [random_image(rng, *map(int, shape)) for shape in shapes]
        records = [record(rng, i, *map(int, shape)) for i, shape in enumerate(shapes)]
        self.tiles = [(i, Labels.of_records([r], [(*i.shape[1::-1], 0, 0)])) for i, r in zip(self.images, records, strict=True)]
        self.dataset = DetectionDataset(records, recipe, SIZE, augment=True)
        self.dataset.images = self.images.__getitem__
        self.draws = self._draws(recipe)

    @staticmethod
    def _draws(recipe: TrainRecipe) -> Iterator[list[augment.AugmentParams]]:
        rng = np.random.default_rng(1)
        while True:
            yield [augment.draw(rng, recipe, i, IMAGES, mosaic=True) for i in range(BATCH)]

    def fused(self, params_list: list[augment.AugmentParams]) -> object:
        shape = (SIZE, SIZE)
        samples = []
        for params in params_list:
            views = self.dataset.apply(params, 0, shape, [])
            samples.append(Sample(views, params.mix_weight if len(views) > 1 else 1.0, params.hsv_gains, 0, shape, shape))
        return collate(samples)

    def opencv(self, params_list: list[augment.AugmentParams]) -> object:
        return opencv_input.batch(params_list, self.tiles, SIZE)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads, theirs = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(theirs)


def seconds(run: Callable[[list[augment.AugmentParams]], object], params_list: list[augment.AugmentParams]) -> float:
    start = time.process_time()
    run(params_list)
    return time.process_time() - start


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("path", ["fused", "opencv"])
@pytest.mark.parametrize("hyp", RECIPES)
def bench_input(benchmark: Any, hyp: str, path: str) -> None:
    """A batch of 16; images a second of one core, and for the fused pass how many times OpenCV's."""
    if "cpu" not in available("augment"):
        pytest.skip("yolov9k._native is not built")
    work = Work(RECIPES[hyp])
    run = work.fused if path == "fused" else work.opencv
    benchmark.pedantic(
        lambda params_list: run(params_list), setup=lambda: ((next(work.draws),), {}), rounds=20, warmup_rounds=2
    )
    if benchmark.stats and path == "fused":
        pairs = [(seconds(work.opencv, r), seconds(work.fused, r)) for r, _ in zip(work.draws, range(20), strict=False)]
        theirs, ours = (min(times) for times in zip(*pairs, strict=True))
        benchmark.extra_info["images_per_cpu_second"] = round(BATCH / ours, 1)
        benchmark.extra_info["opencv_images_per_cpu_second"] = round(BATCH / theirs, 1)
        benchmark.extra_info["times_opencv"] = round(theirs / ours, 2)
