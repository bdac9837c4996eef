"""Decoded, resized images: read from their files, or kept in memory or on disk.

A Reader and an ImageCache are alike: called with a record's index they return its image, uint8 BGR with the long side
of `size` pixels. The array may be shared, and then cannot be written to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from yolov9k.common.arrays import Image, Int64Array
from yolov9k.common.console import PlainConsole
from yolov9k.common.errors import UserError, warn
from yolov9k.common.files import cache_folder, locked
from yolov9k.common.memory import available_memory, readable_size
from yolov9k.common.progress import progress_bar
from yolov9k.data.cache.image_store import GONE, DamagedImage, ImageStore
from yolov9k.data.images import UnreadableImage, read_image
from yolov9k.data.letterbox import resize, scaled
from yolov9k.data.records import Record

ImageSource = Callable[[int], Image]
MEMORY_SHARE = 0.8  # of the memory that is free: the rest is for the training itself
DISK_SHARE = 0.9  # of the disk that is free: the rest is for the checkpoints
_console = PlainConsole(stderr=True)


class Reader:
    """Decodes and resizes on demand.

    fast: bilinear resizing and reduced JPEG decoding, for images that will be augmented; otherwise shrinking
    averages over areas, as evaluation wants it.
    """

    portion = 1024  # images handed to the threads at a time: a future takes a kilobyte

    def __init__(self, records: Sequence[Record], size: int, *, fast: bool) -> None:
        self.records, self.size, self.fast = records, size, fast

    def __call__(self, index: int) -> Image:
        record = self.records[index]
        image = read_image(record.path, reduce=self.reduction(record), size=(record.height, record.width))
        return resize(image, self.shape(*image.shape[:2]), smooth=not self.fast)

    @property
    def kind(self) -> str:
        """Tells its images from those of other readers."""
        return f"{self.size}|{self.fast}"

    def many(self, indices: Sequence[int]) -> dict[int, Image]:
        """Images that are read together, where that is faster; the others are to be asked for one by one."""
        return {}

    def reduction(self, record: Record) -> int:
        """How many times smaller an image is decoded: only as far as it is not smaller than wanted.

        Formats other than JPEG would be decoded whole anyway.
        """
        jpeg = self.fast and record.path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")
        return next((r for r in (8, 4, 2) if jpeg and max(record.height, record.width) >= r * self.size), 1)

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a decoded image is resized to."""
        gain = self.size / max(height, width)
        return scaled(height, gain), scaled(width, gain)

    @property
    def bytes(self) -> int:
        """Memory that all images take once decoded and resized."""
        return self.bytes_of(range(len(self.records)))

    def bytes_of(self, indices: Iterable[int]) -> int:
        """Memory that some images take; an image decoded at reduced size may have a row more or less."""
        records = (self.records[index] for index in indices)
        return sum(3 * h * w for h, w in (self.shape(r.height, r.width) for r in records))


class ImageCache:
    """Images in an ImageStore; what is not in it, or is damaged there, comes from the reader.

    Processes forked later share the images' memory; all processes that use the same file share its pages.
    """

    def __init__(self, reader: Reader, store: ImageStore) -> None:
        self.reader, self.store = reader, store

    def __call__(self, index: int) -> Image:
        try:
            image = self.store.get(index)
        except DamagedImage:
            image = None
            warn(f"{self.store.name}: {self.reader.records[index].path} is damaged in this cache; it is read anew")
        return self.reader(index) if image is None else image

    def fill(self) -> None:
        """Read what is missing, in parallel; each image is kept as soon as it is read.

        Where it cannot be written, a warning says so and what this call has written is given back.
        """
        try:
            self._read(self.store.missing.tolist())
        except OSError as error:
            self.store.give_back()
            warn(f"--cache: {self.store.name}: {error.strerror or error}; reading from files what is not there")

    def ready(self) -> ImageSource:
        """The cache, to be filled no more, or the reader where nothing is cached."""
        self.store.seal()
        return self if self.store.entries["offset"].any() else self.reader

    def _read(self, indices: list[int]) -> None:
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            with progress_bar(_console.is_terminal, _console) as progress:
                task = progress.add_task("caching", total=len(indices))
                for start in range(0, len(indices), self.reader.portion):
                    portion = indices[start : start + self.reader.portion]
                    together = self.reader.many(portion)
                    for _ in pool.map(self._keep, portion, map(together.get, portion)):
                        progress.advance(task)
        finally:
            pool.shutdown(cancel_futures=True)

    def _keep(self, index: int, image: Image | None) -> None:
        try:
            image = self.reader(index) if image is None else image
        except UnreadableImage:  # left to the reader, which tells who asks for it
            return
        self.store.put(index, image)


def check_name(cache: str | None) -> None:
    """Raise UserError where there is no such cache."""
    if cache not in (None, "ram", "disk"):
        raise UserError(f"--cache {cache}: no such cache; choose 'ram' or 'disk'")


def make_source(reader: Reader, cache: str | None) -> ImageSource:
    """Put a cache, None, "ram" or "disk", before a reader, filled; says beforehand how large it gets.

    Falls back to the reader with a warning where there is not enough memory or disk, or no place to write. Files that
    change while the cache is in use are not read again. Raises UserError for another name.
    """
    check_name(cache)
    if cache is None:
        return reader
    return _ram(reader) if cache == "ram" else _disk(reader)


def _ram(reader: Reader) -> ImageSource:
    free, what = available_memory(), _what(reader)
    if free is not None and reader.bytes > MEMORY_SHARE * free:
        warn(f"--cache ram: {what}, is more than {MEMORY_SHARE:.0%} of the {readable_size(free)} free; reading from files")
        return reader
    _console.print(f"caching in memory: {what}")
    try:
        cached = ImageCache(reader, ImageStore.in_memory(_stamps(reader)))
        cached.fill()
        return cached.ready()
    except OSError as error:
        warn(f"--cache ram: {error.strerror or error}; reading from files")
        return reader


def _disk(reader: Reader) -> ImageSource:
    identity = _identity(reader)
    # the folder's name is for who looks for what may be deleted
    place = reader.records[0].path.absolute().parent.name[:40] if reader.records else ""
    path = Path(f"{place}-{reader.size}-{identity.hex()[:16]}.images")
    try:
        path = cache_folder() / "images" / path
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, lambda: _console.print(f"waiting for another process to make {path}")):
            return _on_disk(reader, path, identity)
    except OSError as error:
        warn(f"--cache disk: {path}: {error.strerror or error}; set XDG_CACHE_HOME; reading from files")
        return reader


def _on_disk(reader: Reader, path: Path, identity: bytes) -> ImageSource:
    cached = ImageCache(reader, ImageStore.at(path, identity, _stamps(reader)))
    missing, free = cached.store.missing.tolist(), shutil.disk_usage(path.parent).free
    there = np.count_nonzero(cached.store.entries["offset"])
    _console.print(
        f"caching on disk: {_what(reader)}, {there} already there, in {path}; the caches in this folder take "
        f"{readable_size(_taken(path.parent))}, {readable_size(free)} are free",
    )
    if (more := reader.bytes_of(missing)) > DISK_SHARE * free:
        warn(f"--cache disk: {readable_size(more)} are more than {DISK_SHARE:.0%} of what is free; reading them from files")
    else:
        cached.fill()
    source = cached.ready()
    if source is reader:  # nothing is in it
        path.unlink()
    return source


def _identity(reader: Reader) -> bytes:
    """32 bytes that tell this list of images, read in this way, from any other."""
    digest = hashlib.sha256(reader.kind.encode())
    for record in reader.records:
        digest.update(b"\0" + os.fsencode(record.path.absolute()))
    return digest.digest()


def _stamps(reader: Reader) -> Int64Array:
    """Time of change in ns and length in bytes of the images' files, int64 [n, 2]; GONE where there is none."""
    stamps = np.full((len(reader.records), 2), GONE, np.int64)
    for stamp, record in zip(stamps, reader.records, strict=True):
        with contextlib.suppress(OSError):
            stat = record.path.stat()
            stamp[:] = stat.st_mtime_ns, stat.st_size
    return stamps


def _what(reader: Reader) -> str:
    return f"{len(reader.records)} images at {reader.size} px, {readable_size(reader.bytes)}"


def _taken(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process has removed it
            size += file.lstat().st_size
    return size
