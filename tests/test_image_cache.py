"""Reading pictures, and keeping them in memory or on disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.test_dataset import make_records
from tests.tolerances import JPEG_LEVELS
from yolov9k.data import cache
from yolov9k.data.cache import DiskCache, RamCache, Reader, UnreadableImage, make_source, read_image
from yolov9k.data.probe import probe_image
from yolov9k.errors import UserError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "yolov9k" / "images"


def test_pictures_are_turned_as_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    for reduce in (1, 2):
        image = read_image(tmp_path / "turned.jpg", reduce=reduce)
        assert image.shape == (40 // reduce, 20 // reduce, 3)
        assert image[: 18 // reduce].min() > 200 > 50 > image[22 // reduce :].max()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
def test_every_orientation_of_every_format_is_read_upright(tmp_path: Path, suffix: str) -> None:
    """OpenCV 5 can turn TIFFs by a quarter from memory alone: imread fails on them. Names may be of any script."""
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (0, 0, 20, 20))
    picture.paste("red", (0, 0, 10, 10))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"größe 鳥 {orientation}{suffix}"
        picture.save(path, exif=exif, quality=95, **({"lossless": True} if suffix == ".webp" else {}))
        image = read_image(path)
        with Image.open(path) as stored:
            wanted = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))[..., ::-1]
        assert image.shape == wanted.shape == ((20, 40, 3) if orientation < 5 else (40, 20, 3))
        assert np.median(np.abs(image.astype(int) - wanted)) <= JPEG_LEVELS
        assert np.abs(image.astype(int) - wanted)[2::20, 2::20].max() <= JPEG_LEVELS
        assert (*probe_image(path)[:2], 3) == image.shape


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_grey_and_transparent_pictures_become_bgr(tmp_path: Path, suffix: str) -> None:
    for mode in ("L", "RGB", "RGBA") if suffix == ".png" else ("L", "RGB"):
        Image.new(mode, (3, 2), 90 if mode == "L" else (90, 91, 92, 93)[: len(mode)]).save(tmp_path / f"{mode}{suffix}")
        image = read_image(tmp_path / f"{mode}{suffix}")
        assert image.shape == (2, 3, 3)
        assert np.abs(image[0, 0].astype(int) - (90 if mode == "L" else (92, 91, 90))).max() <= JPEG_LEVELS


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for name in ("a.jpg", "a.png"):
        cv2.imwrite(str(tmp_path / name), noise)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole + b"appended")  # harmless
        assert read_image(tmp_path / name).shape == (64, 64, 3)
        for length in (len(whole) // 2, len(whole) - 12):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(UnreadableImage, match=name):
                read_image(tmp_path / name)
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("text.jpg", "empty.jpg", "missing.jpg"):
        with pytest.raises(UnreadableImage, match=name):
            read_image(tmp_path / name)


def test_the_long_side_gets_the_size(tmp_path: Path) -> None:
    records = make_records(tmp_path, [(480, 640), (640, 480), (1, 1), (1000, 2), (33, 21)])
    for fast in (False, True):
        shapes = [Reader(records, 64, fast=fast)(i).shape for i in range(5)]
        assert shapes == [(48, 64, 3), (64, 48, 3), (64, 64, 3), (64, 1, 3), (64, 41, 3)]


def test_fast_reading_resembles_smooth_reading(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(480) / 480, np.arange(640) / 640)[..., None] * [100, 120, 50]
    cv2.imwrite(str(tmp_path / "ramp.jpg"), ramp.astype(np.uint8))
    record = make_records(tmp_path, [(480, 640)])[0]
    record.path = tmp_path / "ramp.jpg"
    smooth, fast = (Reader([record], 160, fast=f)(0).astype(int) for f in (False, True))
    assert np.abs(smooth - fast).max() <= JPEG_LEVELS


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([32, 640]))
def test_the_announced_size_is_the_size(h: int, w: int, size: int) -> None:
    record = make_records(None, [(h, w)])[0]
    shape = Reader([record], size, fast=True)._shape(h, w)
    assert Reader([record] * 3, size, fast=True).bytes == 3 * 3 * shape[0] * shape[1]
    assert max(shape) == size


def test_memory_holds_the_same_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records(tmp_path, [(30, 40), (50, 20), (8, 8)])
    records[1].path.unlink()
    reader = Reader(records, 32, fast=True)
    source = make_source(reader, "ram")
    assert isinstance(source, RamCache)
    assert "3 pictures at 32 px" in capsys.readouterr().err
    records[0].path.unlink()  # no longer needed
    assert source(0).shape == (24, 32, 3)
    assert np.array_equal(source(2), reader(2))
    with pytest.raises(UnreadableImage, match=records[1].path.name):
        source(1)


def test_too_little_memory_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(make_records(tmp_path, [(32, 32)]), 32, fast=True)
    monkeypatch.setattr(cache, "available_memory", lambda: 3 * 32 * 32)
    assert make_source(reader, "ram") is reader
    assert "80%" in capsys.readouterr().err
    monkeypatch.setattr(cache, "available_memory", lambda: 4 * 32 * 32)
    assert isinstance(make_source(reader, "ram"), RamCache)


def test_available_memory_is_read_from_the_system() -> None:
    memory = cache.available_memory()
    if not Path("/proc/meminfo").exists():
        pytest.skip("this system has no /proc/meminfo")
    assert memory is not None
    assert 2**20 < memory < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_disk_keeps_pictures_until_they_change(tmp_path: Path, home: Path) -> None:
    records = make_records(tmp_path / "data", [(30, 40), (50, 20)])
    reader = Reader(records, 32, fast=False)
    source = make_source(reader, "disk")
    assert isinstance(source, DiskCache)
    first = source(0)
    files = list(home.rglob("*.npy"))
    assert files == [source.file(0)]
    assert list(home.rglob("tmp*")) == []
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == sorted(r.path.name for r in records)
    assert np.array_equal(source(0), first)
    np.save(files[0], first + 1)  # shows where the next one comes from
    assert np.array_equal(source(0), first + 1)
    cv2.imwrite(str(records[0].path), np.zeros((30, 40, 3), np.uint8))
    os.utime(records[0].path, ns=(1, 1))
    assert not source(0).any()
    assert not np.array_equal(DiskCache(Reader(records, 64, fast=False), home)(1).shape, source(1).shape)
    assert source.file(1) != DiskCache(Reader(records, 32, fast=True), home).file(1)
    records[1].path.unlink()
    with pytest.raises(UnreadableImage, match=records[1].path.name):
        source(1)


def test_a_broken_cache_file_is_made_anew(tmp_path: Path, home: Path) -> None:
    source = make_source(Reader(make_records(tmp_path, [(30, 40)]), 32, fast=False), "disk")
    assert isinstance(source, DiskCache)
    image = source(0)
    for rubbish in (b"", b"rubbish", source.file(0).read_bytes()[:200]):
        source.file(0).write_bytes(rubbish)
        assert np.array_equal(source(0), image)
        assert np.array_equal(np.load(source.file(0)), image)


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    reader = Reader(make_records(tmp_path, [(30, 40)]), 32, fast=False)
    assert make_source(reader, "disk") is reader
    assert "XDG_CACHE_HOME" in capsys.readouterr().err


def test_a_full_disk_is_told_once_and_leaves_nothing_behind(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_source(Reader(make_records(tmp_path, [(30, 40), (40, 30)]), 32, fast=False), "disk")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    capsys.readouterr()
    assert source(0).shape == (24, 32, 3)
    assert source(1).shape == (32, 24, 3)
    assert capsys.readouterr().err.count("No space left") == 1
    assert [p for p in home.rglob("*") if p.is_file()] == []


def test_unknown_caches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tape"):
        make_source(Reader(make_records(tmp_path, [(3, 4)]), 32, fast=True), "tape")
