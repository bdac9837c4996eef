"""Batches: the same whatever makes them, padded, in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.data_cases import equal, make_split
from tests.support import shared
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.config import load_split
from yolov9k.data.loader import make_loader
from yolov9k.data.records import Split

SHAPES = [(48, 64), (64, 40), (30, 30), (64, 64), (20, 64), (100, 90), (64, 33)]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return make_split(tmp_path / "data", SHAPES)


def test_batches_do_not_depend_on_the_workers(split: Split) -> None:
    alone = make_loader(split, TrainRecipe(), img_size=64, batch=3, augment=True, workers=0, epochs=20, seed=5)
    helped = make_loader(split, TrainRecipe(), img_size=64, batch=3, augment=True, workers=2, epochs=20, seed=5)
    epochs = {}
    for epoch in (0, 3, 19):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        epochs[epoch] = list(alone)
        assert all(equal(a, b) for a, b in zip(epochs[epoch], helped, strict=True))
    assert len(alone) == len(epochs[0]) == 3
    assert [len(b) for b in epochs[0]] == [3, 3, 1]
    for batches in epochs.values():
        assert sorted(i for b in batches for i in b.indices) == list(range(7))
    assert not equal(epochs[0][0], epochs[3][0])
    alone.set_epoch(3)
    assert equal(next(iter(alone)), epochs[3][0])
    # an iteration that is left half-way, with batches of its epoch already on their way
    helped.set_epoch(0)
    next(iter(helped))
    helped.set_epoch(3)
    assert all(equal(a, b) for a, b in zip(epochs[3], helped, strict=True))
    helped.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(iter(helped))


def test_seeds_differ(split: Split) -> None:
    one, two = (
        next(iter(make_loader(split, TrainRecipe(), img_size=64, batch=7, augment=True, workers=0, seed=s))) for s in (1, 2)
    )
    assert not torch.equal(one.images, two.images)


def test_a_batch_holds_images_and_padded_boxes(split: Split) -> None:
    batch = next(iter(make_loader(split, TrainRecipe(), img_size=64, batch=4, augment=False, workers=0)))
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous()
    assert batch.boxes.shape == (4, 1, 5)
    assert batch.boxes.dtype == batch.scale.dtype == batch.pad.dtype == torch.float32
    assert batch.counts.tolist() == [1, 1, 1, 0]
    assert batch.counts.dtype == torch.int64
    assert batch.indices == [0, 1, 2, 3]
    assert not batch.boxes[3].any()
    assert torch.allclose(batch.boxes[0, 0], torch.tensor([0.0, 0.5, 0.5, 0.5, 0.375]))
    assert batch.boxes[:3, 0, 0].tolist() == [0, 1, 2]
    assert batch.pad.tolist() == [[0, 8], [12, 0], [0, 0], [0, 0]]
    assert batch.scale.tolist() == pytest.approx([1, 1, 64 / 30, 1])
    moved = batch.to("cpu")
    assert equal(moved, batch)
    assert batch.to("meta").images.device.type == "meta"


def test_images_are_rgb(tmp_path: Path) -> None:
    split = make_split(tmp_path, [(32, 32)])
    Image.new("RGB", (32, 32), (200, 100, 50)).save(split.records[0].path)
    batch = next(iter(make_loader(split, TrainRecipe(), img_size=32, batch=1, augment=False, workers=0)))
    assert batch.images[0, :, 5, 5].tolist() == [200, 100, 50]


def test_no_object_at_all_still_gives_a_row(tmp_path: Path) -> None:
    split = make_split(tmp_path, SHAPES)
    split.records = [split.records[3]]  # the one without labels
    for augment in (True, False):
        loader = make_loader(split, TrainRecipe(), img_size=64, batch=16, augment=augment, workers=0, epochs=99)
        (batch,) = loader
        assert batch.boxes.shape == (1, 1, 5)
        assert batch.counts.tolist() == [0]


def test_rectangular_batches_are_sorted_and_small(split: Split) -> None:
    loader = make_loader(split, TrainRecipe(), img_size=64, batch=2, augment=False, rect=True, workers=0, stride=32)
    batches = list(loader)
    assert [b.indices for b in batches] == [[4, 0], [2, 3], [5, 1], [6]]
    assert [tuple(b.images.shape[2:]) for b in batches] == [(64, 96), (96, 96), (96, 96), (96, 64)]
    for batch in batches:
        for row, index in enumerate(batch.indices):
            record = split.records[index]
            if batch.counts[row]:
                height, width = batch.images.shape[2:]
                center = batch.boxes[row, 0, 1:3] * torch.tensor([width, height])
                middle = torch.tensor([record.width, record.height]) / 2 * batch.scale[row] + batch.pad[row]
                assert torch.allclose(center, middle, atol=1.0)


def test_rectangular_training_shuffles_batches_only(split: Split) -> None:
    loader = make_loader(split, TrainRecipe(), img_size=64, batch=2, augment=True, rect=True, workers=0, epochs=99)
    orders = []
    for epoch in range(6):
        loader.set_epoch(epoch)
        draws = list(loader.sampler)
        assert sorted([d.index for d in b] for b in draws) == [[2, 3], [4, 0], [5, 1], [6]]
        assert not any(d.mosaic for b in draws for d in b)
        orders.append([b[0].index for b in draws])
        if epoch == 0:
            assert {tuple(b.images.shape[2:]) for b in loader} == {(64, 96), (96, 96), (96, 64)}
    assert len({tuple(order) for order in orders}) > 2


def test_mosaic_ends_before_the_last_epochs(split: Split) -> None:
    loader = make_loader(split, TrainRecipe(), img_size=64, batch=2, augment=True, workers=0, epochs=20, close_mosaic=5)
    for epoch, expected in ((0, True), (14, True), (15, False), (19, False)):
        loader.set_epoch(epoch)
        assert {d.mosaic for b in loader.sampler for d in b} == {expected}


def test_multi_scale_gives_each_batch_a_size(split: Split) -> None:
    loader = make_loader(split, TrainRecipe(), img_size=128, batch=1, augment=True, workers=0, multi_scale=True, epochs=99)
    sizes = set()
    for epoch in range(8):
        loader.set_epoch(epoch)
        outputs = [b[0].output for b in loader.sampler]
        assert outputs == [b[0].output for b in loader.sampler]
        sizes.update(outputs)
    assert sizes == {(s, s) for s in (64, 96, 128, 160, 192)}
    expected = [b[0].output for b in loader.sampler]
    for batch, output in zip(loader, expected, strict=True):
        assert tuple(batch.images.shape[2:]) == output
        assert batch.boxes[..., 1:].max() <= 1
    plain = make_loader(split, TrainRecipe(), img_size=128, batch=1, augment=False, workers=0, multi_scale=True)
    assert {tuple(b.images.shape[2:]) for b in plain} == {(128, 128)}


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_counted_and_named_once(split: Split, workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    loader = make_loader(split, TrainRecipe(), img_size=64, batch=2, augment=True, workers=workers, epochs=99)
    split.records[2].path.unlink()
    for epoch in range(2):
        loader.set_epoch(epoch)
        assert sum(len(batch) for batch in loader) == 7
    loader.close()
    assert loader.dataset.unreadable == {2}
    assert capsys.readouterr().err.count(split.records[2].path.name) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_ends_with_one_line(split: Split, workers: int) -> None:
    for record in split.records:
        record.path.unlink()
    loader = make_loader(split, TrainRecipe(), img_size=64, batch=2, augment=True, workers=workers)
    with pytest.raises(UserError, match="can be read") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert "yolov9k.common.errors" not in str(caught.value)


def test_the_memory_cache_serves_forked_workers(split: Split) -> None:
    cached = make_loader(split, TrainRecipe(), img_size=64, batch=3, augment=True, workers=2, epochs=99, cache="ram")
    plain = make_loader(split, TrainRecipe(), img_size=64, batch=3, augment=True, workers=0, epochs=99)
    expected = list(plain)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 2)  # OpenCV's threads exist when the workers fork
    for record in split.records:
        record.path.unlink()
    assert all(equal(a, b) for a, b in zip(expected, cached, strict=True))
    cached.close()


@pytest.mark.parametrize(
    ("change", "match"),
    [({"img_size": 100}, "96"), ({"img_size": 10}, "32"), ({"batch": 0}, "batch"), ({"workers": -1}, "workers")],
)
def test_bad_settings_are_refused(split: Split, change: dict[str, int], match: str) -> None:
    with pytest.raises(UserError, match=match):
        make_loader(split, TrainRecipe(), **{"img_size": 64, "batch": 2, "augment": True, "workers": 0, **change})  # type: ignore[arg-type]


def test_an_empty_split_is_refused(split: Split) -> None:
    split.records = []
    with pytest.raises(UserError, match="no images"):
        make_loader(split, TrainRecipe(), img_size=64, batch=2, augment=True)


@pytest.mark.parametrize("name", ["data/bccd", "data/coco-demo"])
def test_real_data_flows(name: str) -> None:
    split = load_split(shared(name), "train")
    split.records = split.records[:12]
    loader = make_loader(split, TrainRecipe(), img_size=160, batch=8, augment=True, workers=0, epochs=99)
    counts = 0
    for batch in loader:
        assert batch.images.shape[1:] == (3, 160, 160)
        counts += int(batch.counts.sum())
        rows = torch.arange(batch.boxes.shape[1]) < batch.counts[:, None]
        boxes = batch.boxes[rows]
        assert (boxes[:, 0] < len(split.names)).all()
        low, high = boxes[:, 1:3] - boxes[:, 3:] / 2, boxes[:, 1:3] + boxes[:, 3:] / 2
        assert low.min() >= -np.finfo(np.float32).eps
        assert high.max() <= 1 + np.finfo(np.float32).eps
        assert (boxes[:, 3:] * 160 > 2 - 1e-4).all()
        assert not batch.boxes[~rows].any()
    assert counts > 30
    assert not loader.dataset.unreadable


PARTED = """
import multiprocessing.resource_sharer as sharer
import os, sys, time
from multiprocessing.connection import Client
from multiprocessing.process import current_process
from yolov9k.data.workers import start_worker

start_worker(0)
address, _ = sharer.DupFd(os.open(os.devnull, os.O_RDONLY))._id
Client(address, authkey=current_process().authkey).close()  # as the main process does that Ctrl-C reaches here
time.sleep(0.5)
sys.excepthook(RuntimeError, RuntimeError("another fault"), None)
"""


@pytest.mark.long
def test_an_interrupted_main_process_makes_no_worker_complain() -> None:
    done = subprocess.run([sys.executable, "-c", PARTED], capture_output=True, text=True, check=True)
    assert done.stderr == "RuntimeError: another fault\n"
