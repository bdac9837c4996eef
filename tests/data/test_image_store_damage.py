"""The file of images behind `--cache disk`, damaged: no wrong image ever comes out of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.image_store_cases import PIXELS, CountingReader, digests, make_images, the_file
from yolov9k.common.arrays import Image
from yolov9k.data.cache.image_cache import ImageCache, make_source
from yolov9k.data.cache.image_store import DamagedImage, ImageStore

pytestmark = pytest.mark.usefixtures("home")
IDENTITY = bytes(range(32))


def test_a_flipped_byte_is_found_once_and_mended(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_images(tmp_path / "data", 3)
    expected = digests(make_source(CountingReader(records), "disk"), 3)
    data = bytearray(the_file(home).read_bytes())
    data[-1] ^= 1
    the_file(home).write_bytes(data)
    for mended in (False, True):
        reader = CountingReader(records)
        source = make_source(reader, "disk")
        assert len(reader.read) == mended
        capsys.readouterr()
        assert digests(source, 3) == digests(source, 3) == expected
        assert capsys.readouterr().err.count("damaged") == (not mended)


def test_forked_processes_find_damage_once(tmp_path: Path, home: Path) -> None:
    records = make_images(tmp_path / "data", 2)
    make_source(CountingReader(records), "disk")
    with the_file(home).open("r+b") as file:
        file.seek(-PIXELS, os.SEEK_END)
        file.write(b"damaged")
    reader = CountingReader(records)
    source = make_source(reader, "disk")
    assert isinstance(source, ImageCache)

    def worker() -> None:
        with contextlib.suppress(DamagedImage):
            for index in range(2):
                source.store.get(index)
            os._exit(0)
        os._exit(1)

    codes = []
    for _ in range(2):
        process = multiprocessing.get_context("fork").Process(target=worker)
        process.start()
        process.join()
        codes.append(process.exitcode)
    assert codes == [1, 0]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Image]]:
    """A small store's file and its images, of random pixels; each takes less than the others together."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in ((2, 3), (3, 2), (3, 3))]
    path = tmp_path_factory.mktemp("store") / "store"
    store = ImageStore.at(path, IDENTITY, stamps(3))
    for index, image in enumerate(images):
        store.put(index, image)
    return path.read_bytes(), images


def stamps(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.stack([np.arange(count) + 7, np.arange(count) + 1], 1)


def check(data: bytes, images: list[Image], identity: bytes = IDENTITY) -> int:
    """Open a store of this content: each image that it gives must be right. Returns how many it gives."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store")
        path.write_bytes(data)
        store = ImageStore.at(path, identity, stamps(3))
        missing = store.missing.tolist()
        store.seal()
        count = 0
        for index, image in enumerate(images):
            with contextlib.suppress(DamagedImage):
                found = store.get(index)
                assert (found is None) >= (index in missing)
                if found is not None:
                    assert np.array_equal(found, image)
                    count += 1
        return count


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_damage_gives_a_wrong_image(sound: tuple[bytes, list[Image]], data: st.DataObject) -> None:
    whole, images = sound
    place, wrong = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    damaged = bytearray(whole)
    damaged[place] ^= wrong
    assert check(bytes(damaged), images) == (0 if place < 48 else 2)


@settings(deadline=None)
@given(st.data())
def test_a_cut_costs_the_images_beyond_it(sound: tuple[bytes, list[Image]], data: st.DataObject) -> None:
    whole, images = sound
    length = data.draw(st.integers(0, len(whole)))
    lengths = np.cumsum([image.nbytes for image in images])
    start = len(whole) - lengths[-1]
    kept = int((start + lengths <= length).sum())
    live = lengths[kept - 1] if kept else 0
    # a remainder longer than what it follows is waste: the file is made anew
    assert check(whole[:length], images) == (kept if length >= start and length - start - live <= live else 0)


def test_files_that_are_no_caches_are_replaced(sound: tuple[bytes, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    whole, images = sound
    assert check(whole, images) == 3
    for data, identity in ((b"", IDENTITY), (b"rubbish" * 99, IDENTITY), (whole, bytes(32))):
        capsys.readouterr()
        assert check(data, images, identity) == 0
        assert "made anew" in capsys.readouterr().err


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=30), st.booleans(), st.randoms())
def test_threads_put_images_of_any_shape(shapes: list[tuple[int, int]], memory: bool, random: object) -> None:
    rng = np.random.default_rng(len(shapes))
    images = [rng.integers(0, 256, (w, h, 3)).astype(np.uint8).swapaxes(0, 1) for h, w in shapes]  # non-contiguous
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store")
        put = stamps(len(images))
        store = ImageStore.in_memory(put) if memory else ImageStore.at(path, IDENTITY, put)
        assert store.missing.tolist() == list(range(len(images)))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(store.put, range(len(images)), images))
        stores = [store] if memory else [store, ImageStore.at(path, IDENTITY, put)]
        for opened in stores:
            opened.seal()
            assert not len(opened.missing)
            assert all(np.array_equal(opened.get(index), image) for index, image in enumerate(images))
