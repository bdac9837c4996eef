"""The file of images behind `--cache disk`: what it holds, also after kills and with many processes at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data_cases import make_records, request
from tests.image_store_cases import BUILD, PIXELS, SIZE, CountingReader, digests, make_images, python, the_file
from yolov9k.common.arrays import Image
from yolov9k.common.files import locked
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.batch import collate
from yolov9k.data.cache.image_cache import Reader, make_source
from yolov9k.data.cache.image_store import ENTRY
from yolov9k.data.dataset import DetectionDataset
from yolov9k.data.images import UnreadableImage
from yolov9k.data.loader import make_loader
from yolov9k.data.records import Split

pytestmark = pytest.mark.usefixtures("home")


def test_real_images_are_read_once(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_images(tmp_path / "data", 12)
    expected = digests(Reader(records, SIZE, fast=False), 12)
    first, second = CountingReader(records), CountingReader(records)
    source = make_source(first, "disk")
    told = capsys.readouterr().err
    assert f"12 images at {SIZE} px, 1 MiB, 0 already there" in told
    assert str(the_file(home)) in told
    assert sorted(first.read) == list(range(12))
    assert digests(source, 12) == digests(make_source(second, "disk"), 12) == expected
    assert len(first.read) == 12
    assert second.read == []
    assert "12 already there" in capsys.readouterr().err
    assert the_file(home).stat().st_size == 12 * (PIXELS + ENTRY.itemsize) + 48
    assert the_file(home).name.startswith(f"data-{SIZE}-")
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == sorted(r.path.name for r in records)


def test_images_are_views_that_cannot_be_written(tmp_path: Path) -> None:
    source = make_source(CountingReader(make_images(tmp_path, 2)), "disk")
    image = source(1)
    assert image.base is not None
    assert image.ctypes.data == source(1).ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_what_tells_images_apart_gets_a_file_of_its_own(tmp_path: Path, home: Path) -> None:
    records = make_records(tmp_path / "data", [(30, 40), (50, 20)])
    ways = [(records, 32, True), (records, 32, False), (records, 64, True), (records[:1], 32, True), (records[::-1], 32, True)]
    for number, (some, size, fast) in enumerate(ways):
        reader = Reader(some, size, fast=fast)
        assert np.array_equal(make_source(reader, "disk")(0), reader(0))
        assert len(list(home.glob("*.images"))) == number + 1


def test_the_space_that_all_caches_take_is_told(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir(parents=True)
    (home / "forgotten.images").write_bytes(bytes(5 << 20))
    make_source(CountingReader(make_images(tmp_path / "data", 1)), "disk")
    assert "the caches in this folder take 5 MiB" in capsys.readouterr().err


def test_only_changed_images_are_read_anew(tmp_path: Path, home: Path) -> None:
    records = make_images(tmp_path / "data", 8)
    old = make_source(CountingReader(records), "disk")
    before = digests(old, 8)
    records[2].path.write_bytes(records[3].path.read_bytes())  # other content and length
    os.utime(records[5].path, ns=(1, 1))  # touched
    records[6].path.unlink()
    reader = CountingReader(records)
    source = make_source(reader, "disk")
    assert sorted(reader.read) == [2, 5]
    assert np.array_equal(source(2), source(3))
    assert digests(source, 6) == [*before[:2], before[3], *before[3:6]]
    with pytest.raises(UnreadableImage, match=records[6].path.name):
        source(6)
    assert digests(old, 8) == before  # a process that uses the file sees no image change


def test_a_file_that_is_mostly_out_of_date_is_replaced(tmp_path: Path, home: Path) -> None:
    records = make_images(tmp_path / "data", 6)
    old = make_source(CountingReader(records), "disk")
    before, size = digests(old, 6), the_file(home).stat().st_size
    for turn in range(1, 5):  # again and again: it does not grow for ever
        for record in records[:4]:
            os.utime(record.path, ns=(turn, turn))
        assert digests(make_source(CountingReader(records), "disk"), 6) == before
        assert the_file(home).stat().st_size <= size
    assert digests(old, 6) == before  # still mapped, though its name is gone


def test_unreadable_images_are_left_to_the_reader(tmp_path: Path) -> None:
    records = make_images(tmp_path / "data", 3)
    records[1].path.write_bytes(records[1].path.read_bytes()[:5000])
    for _ in range(2):
        source = make_source(CountingReader(records), "disk")
        assert source(2).shape == (120, 160, 3)
        with pytest.raises(UnreadableImage, match="truncated"):
            source(1)


@pytest.mark.long
def test_a_kill_half_way_costs_only_the_rest(tmp_path: Path, home: Path) -> None:
    records = make_images(tmp_path / "data", 60)
    process = python(BUILD, tmp_path / "data", 0.1)
    deadline = time.monotonic() + 120
    while sum(file.stat().st_size for file in home.glob("*.images")) < 20 * PIXELS:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert the_file(home).stat().st_size < 50 * PIXELS
    reader = CountingReader(records)
    source = make_source(reader, "disk")
    kept = 60 - len(reader.read)
    assert 15 <= kept < 50
    assert digests(source, 60) == digests(Reader(records, SIZE, fast=False), 60)
    assert len(reader.read) == 60 - kept  # all come from the file now
    assert the_file(home).stat().st_size < 70 * PIXELS  # what was half written is all that is lost


@pytest.mark.long
def test_processes_that_build_at_once_share_the_work(tmp_path: Path, home: Path) -> None:
    records = make_images(tmp_path / "data", 24)
    processes = [python(BUILD, tmp_path / "data", 0.05) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    expected = digests(Reader(records, SIZE, fast=False), 24)
    read, *_ = zip(*(out.split() for out, _ in outputs), strict=True)
    assert sorted(map(int, read)) == [0, 24]
    assert all(out.split()[1:] == expected for out, _ in outputs)
    assert the_file(home).stat().st_size == 24 * (PIXELS + ENTRY.itemsize) + 48


@pytest.mark.long
def test_who_waits_is_told_for_what(tmp_path: Path, home: Path) -> None:
    records = make_images(tmp_path / "data", 2)
    make_source(CountingReader(records), "disk")
    with locked(the_file(home), lambda: None):
        process = python(BUILD, tmp_path / "data", 0)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "waiting for another process" in line
        assert str(the_file(home)) in line
        assert process.poll() is None
    out, _ = process.communicate(timeout=120)
    assert out.split()[0] == "0"


def test_threads_of_a_build_may_be_interrupted(tmp_path: Path) -> None:
    """Ctrl-C: what was read is kept."""
    records = make_images(tmp_path / "data", 40)

    class Interrupted(CountingReader):
        def __call__(self, index: int) -> Image:
            if index == 20:
                raise KeyboardInterrupt
            return super().__call__(index)

    with pytest.raises(KeyboardInterrupt):
        make_source(Interrupted(records), "disk")
    reader = CountingReader(records)
    make_source(reader, "disk")
    assert set(range(10)).isdisjoint(reader.read)
    assert 20 in reader.read


@pytest.mark.parametrize("place", ["disk", "ram"])
def test_no_sample_writes_to_the_cache(tmp_path: Path, place: str) -> None:
    """Views are read-only, so that a step which writes would raise: none does, also where no augmentation is drawn."""
    records = make_records(tmp_path / "data", [(64, 64), (40, 64), (64, 30), (32, 32)])
    still = TrainRecipe().override(hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0, mosaic=0)
    for recipe in (still, TrainRecipe().override(mixup=1, copy_paste=1, mosaic=1)):
        for augmented in (False, True):
            plain, cached = (DetectionDataset(records, recipe, 64, augment=augmented, cache=c) for c in (None, place))
            for index in range(4):
                a, b = (d[request(index, mosaic=augmented, shape=(64, 64))] for d in (plain, cached))
                assert torch.equal(collate([a]).images, collate([b]).images)


def test_forked_workers_make_the_same_batches_from_a_file(tmp_path: Path) -> None:
    shapes = [(64, 64), (40, 64), (64, 30), (32, 32), (50, 60)]
    split = Split("train", list("abcde"), [1, 2, 3, 4, 5], make_records(tmp_path / "data", shapes))
    for _ in range(2):  # made, then found
        kinds = [(None, 0), ("disk", 2)]
        plain, cached = (
            make_loader(split, TrainRecipe(), img_size=64, batch=2, augment=True, workers=w, cache=c) for c, w in kinds
        )
        pairs = list(zip(plain, cached, strict=True))
        assert len(pairs) == 3
        assert all(torch.equal(a.images, b.images) and torch.equal(a.boxes, b.boxes) for a, b in pairs)
        cached.close()
