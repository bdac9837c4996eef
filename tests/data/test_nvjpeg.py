"""A cache filled by JPEG files decoded together: the same images as one by one, and nothing is lost that cannot be."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tests.data_cases import make_records
from tests.support import shared
from tests.tiers import slow_case
from tests.tolerances import ALIASED_LEVELS, RESIZE_LEVELS
from yolov9k.data.cache import nvjpeg
from yolov9k.data.cache.image_cache import ImageCache, Reader, make_source
from yolov9k.data.cache.nvjpeg import NvjpegReader, shrink
from yolov9k.data.config import load_split
from yolov9k.data.records import Record

GPU = pytest.mark.skipif(nvjpeg.why_missing() is not None, reason=nvjpeg.why_missing() or "")
SIZE = 320


def by_opencv(files: list[Tensor]) -> list[Tensor]:
    """What nvJPEG does, by libjpeg: every other step is the real one."""
    images = (cv2.imdecode(file.numpy(), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) for file in files)
    return [torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1) for image in images]


def real_records() -> list[Record]:
    return [*load_split(shared("data/bccd"), "val").records[:70], *load_split(shared("data/coco-demo"), "train").records[:20]]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_images_are_resized_as_opencv_does(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    wanted = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR).reshape(rows, columns, 3)
    found = shrink(torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1), 1, (rows, columns)).numpy()
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - wanted).max() <= (0 if (rows, columns) == (height, width) else RESIZE_LEVELS)


@pytest.mark.parametrize("decode", [by_opencv, pytest.param(nvjpeg.on_gpu, marks=GPU)])
@pytest.mark.parametrize("size", [SIZE, 128])
@pytest.mark.parametrize("every", [5, slow_case(1)])
def test_images_are_those_that_are_read_one_by_one(decode: nvjpeg.Decode, size: int, every: int) -> None:
    """At 128 the one reader decodes at reduced scale and the other averages."""
    records = real_records()[::every]
    reader, other = NvjpegReader(records, size, decode), Reader(records, size, fast=True)
    found = reader.many(range(len(records)))
    assert found.keys() == set(range(len(records)))
    for index, image in found.items():
        wanted = other(index)
        assert image.shape == wanted.shape
        assert np.abs(image.astype(int) - wanted).mean() <= ALIASED_LEVELS


def jpegs(folder: Path, count: int) -> list[Record]:
    return make_records(folder, [(30, 40)] * (2 * count))[1::2]


def odd_files(folder: Path) -> list[Record]:
    """Two plain JPEGs, then a PNG, a turned one, one cut short, one that is no image, none at all, one of another size."""
    records = jpegs(folder, 8)
    paths = [record.path for record in records]
    Image.open(paths[2]).save(paths[2], format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(paths[3]).save(paths[3], exif=exif)
    paths[4].write_bytes(paths[4].read_bytes()[:-20])
    paths[5].write_bytes(b"\xff\xd8 no image \xff\xda\xff\xd9")
    paths[6].unlink()
    Image.new("RGB", (20, 10)).save(paths[7])
    return records


def test_what_cannot_be_decoded_together_is_read_one_by_one(tmp_path: Path) -> None:
    records = odd_files(tmp_path)
    reader, other = NvjpegReader(records, 32, by_opencv), Reader(records, 32, fast=True)
    assert reader.many(range(8)).keys() == {0, 1}
    assert reader.many([2, 4]) == {}
    cached = make_source(reader, "ram")
    assert isinstance(cached, ImageCache)
    assert np.count_nonzero(cached.store.entries["offset"]) == 5
    for index in (2, 3, 7):
        assert np.array_equal(cached(index), other(index))


def test_a_decoder_that_refuses_is_said_and_done_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuses(files: list[Tensor]) -> list[Tensor]:
        raise RuntimeError("nvjpegDecodeBatched failed:\n 5")

    records = jpegs(tmp_path, 3)
    cached, other = make_source(NvjpegReader(records, 32, refuses), "ram"), Reader(records, 32, fast=True)
    assert "--decode nvjpeg: nvjpegDecodeBatched failed: 5; 3 images are decoded without it" in capsys.readouterr().err
    assert all(np.array_equal(cached(index), other(index)) for index in range(3))


def test_caches_of_both_kinds_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    records = jpegs(tmp_path, 3)
    for reader in (NvjpegReader(records, 32, by_opencv), Reader(records, 32, fast=True)):
        make_source(reader, "disk")
    assert len(list((tmp_path / "cache").rglob("*.images"))) == 2
