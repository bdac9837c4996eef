"""The file of images behind `--cache disk`: what it holds after kills, damage, full disks and many processes at once."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_cases import make_records, request
from tests.support import shared
from yolov9k.common.arrays import Image
from yolov9k.common.files import locked
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.batch import collate
from yolov9k.data.cache import image_cache as cache
from yolov9k.data.cache.image_cache import ImageCache, ImageSource, Reader, make_source
from yolov9k.data.cache.image_store import ENTRY, DamagedImage, ImageStore
from yolov9k.data.dataset import DetectionDataset
from yolov9k.data.images import UnreadableImage
from yolov9k.data.loader import make_loader
from yolov9k.data.records import Record, Split

ROOT = Path(__file__).resolve().parents[2]
SIZE = 160  # of the images in the cache
PIXELS = SIZE * SIZE * 3 // 4 * 3  # bytes of one of them: BCCD's images are 480 x 640
IDENTITY = bytes(range(32))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "yolov9k" / "images"


class CountingReader(Reader):
    """Notes which images are read from their files; may take its time."""

    def __init__(self, records: list[Record], *, delay: float = 0) -> None:
        super().__init__(records, SIZE, fast=False)
        self.read: list[int] = []
        self.delay = delay

    def __call__(self, index: int) -> Image:
        self.read.append(index)
        time.sleep(self.delay)
        return super().__call__(index)


def make_images(folder: Path, count: int) -> list[Record]:
    """Copies of real images, in a folder of their own so that they may be changed."""
    records = make_records(None, [(480, 640)] * count)
    folder.mkdir(parents=True, exist_ok=True)
    for record, source in zip(records, sorted(shared("data/bccd/JPEGImages").iterdir()), strict=False):
        record.path = folder / source.name
        record.path.write_bytes(source.read_bytes())
    return records


def the_file(home: Path) -> Path:
    """The only cache there is."""
    (file,) = home.glob("*.images")
    return file


def digests(source: ImageSource, count: int) -> list[str]:
    return [hashlib.sha256(source(index).tobytes()).hexdigest() for index in range(count)]


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that runs `code` with these tests' names and the environment of this one."""
    code = f"import os, sys\nfrom tests.data.test_image_store import *\n{code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


BUILD = """
reader = CountingReader(records_in(sys.argv[1]), delay=float(sys.argv[2]))
source = make_source(reader, "disk")
print(len(reader.read), *digests(source, len(reader.records)))
"""


def records_in(folder: str) -> list[Record]:
    paths = sorted(Path(folder).iterdir())
    records = make_records(None, [(480, 640)] * len(paths))
    for record, path in zip(records, paths, strict=True):
        record.path = path
    return records


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


def test_processes_that_build_at_once_share_the_work(tmp_path: Path, home: Path) -> None:
    records = make_images(tmp_path / "data", 24)
    processes = [python(BUILD, tmp_path / "data", 0.05) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    expected = digests(Reader(records, SIZE, fast=False), 24)
    read, *_ = zip(*(out.split() for out, _ in outputs), strict=True)
    assert sorted(map(int, read)) == [0, 24]
    assert all(out.split()[1:] == expected for out, _ in outputs)
    assert the_file(home).stat().st_size == 24 * (PIXELS + ENTRY.itemsize) + 48


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


def fill_the_disk(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of one MiB where the cache goes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("may not mount a file system here; the limit of a file's size stands in for a full disk")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_too_small_a_disk_is_told_beforehand(tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = CountingReader(make_images(tmp_path / "data", 40))
    assert make_source(reader, "disk") is reader
    assert reader.read == []
    told = capsys.readouterr().err
    assert "40 images at 160 px, 2 MiB" in told
    assert "more than 90% of what is free" in told
    assert list(small_disk.rglob("*.images")) == []


def test_a_disk_that_fills_up_is_told_and_given_back(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = make_images(tmp_path / "data", 12)
    filler = small_disk / "filler"

    class Filling(CountingReader):  # another program takes the disk while the cache is built
        def __call__(self, index: int) -> Image:
            if index == 6:
                fill_the_disk(filler)
            return super().__call__(index)

    reader = Filling(records)
    assert make_source(reader, "disk") is reader
    told = capsys.readouterr().err
    assert told.count("No space left on device") == 1
    assert list(small_disk.rglob("*.images")) == []
    filler.unlink()
    assert make_source(CountingReader(records[:6]), "disk")(5).shape == (120, 160, 3)


def test_a_full_disk_keeps_what_was_there_before(tmp_path: Path, small_disk: Path) -> None:
    records = make_images(tmp_path / "data", 6)
    before = digests(make_source(CountingReader(records), "disk"), 6)
    os.utime(records[1].path, ns=(1, 1))
    fill_the_disk(small_disk / "filler")
    reader = CountingReader(records)
    source = make_source(reader, "disk")
    assert digests(source, 6) == before
    assert reader.read == [1]  # through the cache, not into it


@pytest.mark.parametrize("place", ["disk", "ram"])
@pytest.mark.parametrize("limit", [10, 5 * PIXELS])
def test_a_limit_of_file_size_is_told_and_nothing_is_left(
    tmp_path: Path, home: Path, place: str, limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = CountingReader(make_images(tmp_path / "data", 12))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        assert make_source(reader, place) is reader
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = capsys.readouterr().err
    assert told.count("File too large") == 1
    assert "reading from files" in told
    assert list(home.rglob("*.images")) == []


def test_permission_denied_is_told(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = CountingReader(make_images(tmp_path / "data", 1))
    home.mkdir(parents=True)
    home.chmod(0o555)
    root = os.geteuid() == 0
    if root:  # who may do everything
        os.seteuid(65534)
    try:
        assert make_source(reader, "disk") is reader
    finally:
        if root:
            os.seteuid(0)
        home.chmod(0o755)
    told = capsys.readouterr().err
    assert "Permission denied" in told
    assert "XDG_CACHE_HOME" in told


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    reader = Reader(make_records(tmp_path, [(30, 40)]), 32, fast=False)
    assert make_source(reader, "disk") is reader
    assert "Not a directory" in capsys.readouterr().err


def test_too_little_disk_leaves_a_started_cache_in_use(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = make_images(tmp_path / "data", 4)
    make_source(CountingReader(records), "disk")
    os.utime(records[1].path, ns=(1, 1))
    monkeypatch.setattr(cache, "DISK_SHARE", 0.0)
    reader = CountingReader(records)
    source = make_source(reader, "disk")
    assert digests(source, 4) == digests(Reader(records, SIZE, fast=False), 4)
    assert reader.read == [1]


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
