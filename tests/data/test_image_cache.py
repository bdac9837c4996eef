"""Reading images, and keeping them in memory."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.data_cases import make_records
from tests.tolerances import JPEG_LEVELS
from yolov9k.common.errors import UserError
from yolov9k.data.cache import image_cache as cache
from yolov9k.data.cache.image_cache import ImageCache, Reader, make_source
from yolov9k.data.images import UnreadableImage, read_image
from yolov9k.data.probe import probe_image


def test_images_are_turned_as_exif_says(tmp_path: Path) -> None:
    drawn = Image.new("RGB", (40, 20), "black")
    drawn.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    drawn.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    for reduce in (1, 2):
        image = read_image(tmp_path / "turned.jpg", reduce=reduce)
        assert image.shape == (40 // reduce, 20 // reduce, 3)
        assert image[: 18 // reduce].min() > 200 > 50 > image[22 // reduce :].max()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
def test_every_orientation_of_every_format_is_read_upright(tmp_path: Path, suffix: str) -> None:
    """OpenCV 5 can turn TIFFs by a quarter from memory alone: imread fails on them. Names may be of any script."""
    drawn = Image.new("RGB", (40, 20), "black")
    drawn.paste("white", (0, 0, 20, 20))
    drawn.paste("red", (0, 0, 10, 10))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"größe 鳥 {orientation}{suffix}"
        drawn.save(path, exif=exif, quality=95, **({"lossless": True} if suffix == ".webp" else {}))
        image = read_image(path)
        with Image.open(path) as stored:
            wanted = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))[..., ::-1]
        assert image.shape == wanted.shape == ((20, 40, 3) if orientation < 5 else (40, 20, 3))
        assert np.median(np.abs(image.astype(int) - wanted)) <= JPEG_LEVELS
        assert np.abs(image.astype(int) - wanted)[2::20, 2::20].max() <= JPEG_LEVELS
        assert (*probe_image(path)[:2], 3) == image.shape


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_gray_and_transparent_images_become_bgr(tmp_path: Path, suffix: str) -> None:
    for mode in ("L", "RGB", "RGBA") if suffix == ".png" else ("L", "RGB"):
        Image.new(mode, (3, 2), 90 if mode == "L" else (90, 91, 92, 93)[: len(mode)]).save(tmp_path / f"{mode}{suffix}")
        image = read_image(tmp_path / f"{mode}{suffix}")
        assert image.shape == (2, 3, 3)
        assert np.abs(image[0, 0].astype(int) - (90 if mode == "L" else (92, 91, 90))).max() <= JPEG_LEVELS


def test_unreadable_images_are_named(tmp_path: Path) -> None:
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
    (tmp_path / "text.jpg").write_text("no image")
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
    shape = Reader([record], size, fast=True).shape(h, w)
    assert Reader([record] * 3, size, fast=True).bytes == 3 * 3 * shape[0] * shape[1]
    assert max(shape) == size


def test_memory_holds_the_same_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records(tmp_path, [(30, 40), (50, 20), (8, 8)])
    records[1].path.unlink()
    reader = Reader(records, 32, fast=True)
    source = make_source(reader, "ram")
    assert isinstance(source, ImageCache)
    assert "3 images at 32 px" in capsys.readouterr().err
    expected = reader(2)
    for record in records[::2]:
        record.path.unlink()  # no longer needed
    assert source(0).shape == (24, 32, 3)
    assert np.array_equal(source(2), expected)
    assert not source(2).flags.writeable
    with pytest.raises(UnreadableImage, match=records[1].path.name):
        source(1)


def test_memory_is_one_mapping_for_all_forked_processes(tmp_path: Path) -> None:
    source = make_source(Reader(make_records(tmp_path, [(30, 40)]), 32, fast=True), "ram")
    address = source(0).ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= address < high:
            assert line.split()[1] == "r--s"  # shared, and nobody can write to it
            assert "memfd:yolov9k" in line
            return
    raise AssertionError("the image is not in a mapping")


def test_too_little_memory_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(make_records(tmp_path, [(32, 32)]), 32, fast=True)
    monkeypatch.setattr(cache, "available_memory", lambda: 3 * 32 * 32)
    assert make_source(reader, "ram") is reader
    assert "80%" in capsys.readouterr().err
    monkeypatch.setattr(cache, "available_memory", lambda: 4 * 32 * 32)
    assert isinstance(make_source(reader, "ram"), ImageCache)


def test_unknown_caches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tape"):
        make_source(Reader(make_records(tmp_path, [(3, 4)]), 32, fast=True), "tape")
