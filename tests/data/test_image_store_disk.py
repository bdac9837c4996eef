"""The file of images behind `--cache disk` where there is no room or no permission: that is told, nothing is lost."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data_cases import make_records
from tests.image_store_cases import PIXELS, SIZE, CountingReader, digests, make_images
from yolov9k.common.arrays import Image
from yolov9k.data.cache import image_cache as cache
from yolov9k.data.cache.image_cache import Reader, make_source

pytestmark = pytest.mark.usefixtures("home")


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
