"""Decoded, resized pictures: read from their files, or kept in memory or on disk.

A reader, a RamCache and a DiskCache are alike: called with a record's index they return its picture, uint8 BGR with
the long side of `size` pixels. The array may be shared: do not write to it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from yolov9k.data.letterbox import Image, resize, scaled
from yolov9k.data.records import Record
from yolov9k.errors import UserError, warn

PictureSource = Callable[[int], Image]
MEMORY_SHARE = 0.8  # of the memory that is free: the rest is for the training itself
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"
_console = Console(stderr=True, soft_wrap=True, highlight=False)


class UnreadableImage(Exception):
    """A picture's file is missing, truncated or not a picture; the message is one line that names the file."""


def read_image(path: Path, *, reduce: int = 1) -> Image:
    """Decode a file to uint8 BGR [h, w, 3], turned as its EXIF orientation says.

    reduce: 1, 2, 4 or 8, the picture comes so many times smaller, which a JPEG decoder does faster than a whole one.
    Raises UnreadableImage; a truncated JPEG or PNG, which OpenCV would fill with grey, counts as unreadable.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}") from None
    if _truncated(data):
        raise UnreadableImage(f"{path}: the file is truncated")
    flag = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag.get(reduce, cv2.IMREAD_REDUCED_COLOR_8))
    except cv2.error as error:
        raise UnreadableImage(f"{path}: {error.err}") from None
    if image is None:
        raise UnreadableImage(f"{path}: not a picture that OpenCV can read")
    return image  # type: ignore[return-value]  # OpenCV's stubs lack the dtype


def _truncated(data: bytes) -> bool:
    """No end after the last scan. Within JPEG scans 0xff is escaped, so that a marker found is a marker."""
    if data.startswith(_JPEG):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(_PNG) and b"IEND" not in data[-4096:]


class Reader:
    """Decodes and resizes on demand.

    fast: bilinear resizing and reduced JPEG decoding, for pictures that will be augmented; otherwise shrinking
    averages over areas, as evaluation wants it.
    """

    def __init__(self, records: Sequence[Record], size: int, *, fast: bool) -> None:
        self.records, self.size, self.fast = records, size, fast

    def __call__(self, index: int) -> Image:
        record = self.records[index]
        longest = max(record.height, record.width)
        # only as far as the picture is not smaller than wanted; other formats would be decoded whole anyway
        jpeg = self.fast and record.path.suffix.lower() in (".jpg", ".jpeg")
        reduce = next((r for r in (8, 4, 2) if jpeg and longest >= r * self.size), 1)
        image = read_image(record.path, reduce=reduce)
        return resize(image, self._shape(*image.shape[:2]), smooth=not self.fast)

    def _shape(self, height: int, width: int) -> tuple[int, int]:
        gain = self.size / max(height, width)
        return scaled(height, gain), scaled(width, gain)

    @property
    def bytes(self) -> int:
        """Memory that all pictures take once decoded and resized."""
        return sum(3 * h * w for h, w in (self._shape(r.height, r.width) for r in self.records))


class RamCache:
    """All pictures in a list; worker processes forked later share its pages. Unreadable ones are left to the reader."""

    def __init__(self, reader: Reader, threads: int | None = None) -> None:
        self.reader = reader
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            self.images = list(pool.map(self._try, range(len(reader.records))))

    def _try(self, index: int) -> Image | None:
        try:
            return self.reader(index)
        except UnreadableImage:
            return None

    def __call__(self, index: int) -> Image:
        image = self.images[index]
        return self.reader(index) if image is None else image


class DiskCache:
    """Pictures as .npy files in a folder, each written when it is first asked for.

    A file's name comes from the picture's path, time of change and length and from the way it is resized: a picture
    that changes is read anew. When a file cannot be written one warning says so and nothing more is written.
    """

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader, self.folder, self.writable = reader, folder, True

    def __call__(self, index: int) -> Image:
        file = self.file(index)
        try:
            image: Image = np.load(file, allow_pickle=False)
            return image
        except (OSError, ValueError, EOFError):
            image = self.reader(index)
        if self.writable:
            self._write(file, image)
        return image

    def file(self, index: int) -> Path:
        """Where the picture of a record is kept. Raises UnreadableImage where the picture itself is gone."""
        path = self.reader.records[index].path
        try:
            stat = path.stat()
        except OSError as error:
            raise UnreadableImage(f"{path}: {error.strerror or error}") from None
        key = f"{path.absolute()}|{stat.st_mtime_ns}|{stat.st_size}|{self.reader.size}|{self.reader.fast}"
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.npy"

    def _write(self, file: Path, image: Image) -> None:
        scratch = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
                scratch = stream.name
                np.save(stream, image)
            os.replace(scratch, file)  # in one step: another process never sees half a file
        except OSError as error:
            self.writable = False
            warn(f"image cache {self.folder}: {error.strerror or error}; going on without writing to it")
            if scratch is not None:
                Path(scratch).unlink(missing_ok=True)


def make_source(reader: Reader, cache: str | None) -> PictureSource:
    """Put a cache, None, "ram" or "disk", before a reader; says how large it gets.

    Falls back to the reader with a warning where there is not enough memory, or no place to write. Raises UserError
    for another name.
    """
    if cache is None:
        return reader
    if cache not in ("ram", "disk"):
        raise UserError(f"--cache {cache}: no such cache; choose 'ram' or 'disk'")
    what = f"{len(reader.records)} pictures at {reader.size} px, {_readable(reader.bytes)}"
    return _ram(reader, what) if cache == "ram" else _disk(reader, what)


def _ram(reader: Reader, what: str) -> PictureSource:
    free = available_memory()
    if free is not None and reader.bytes > MEMORY_SHARE * free:
        warn(f"--cache ram: {what}, is more than {MEMORY_SHARE:.0%} of the {_readable(free)} free; reading from files")
        return reader
    _console.print(f"caching in memory: {what}")
    return RamCache(reader)


def _disk(reader: Reader, what: str) -> PictureSource:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        warn(f"--cache disk: {folder}: {error.strerror or error}; set XDG_CACHE_HOME; reading from files")
        return reader
    if reader.bytes > free:
        warn(f"--cache disk: {what}, may not fit into the {_readable(free)} free in {folder}; caching until it is full")
    _console.print(f"caching on disk: {what}, in {folder}", markup=False)
    return DiskCache(reader, folder)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/yolov9k/images``, in ``~/.cache`` by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolov9k" / "images"


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _readable(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
