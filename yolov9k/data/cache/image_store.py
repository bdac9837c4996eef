"""A file of images: written once by many threads, then mapped and read by many processes without copying.

Layout, little-endian: a header (magic, identity of the list of images, their number), one entry an image, then the
pixels, one image after another in the order they were written. Pixels are only ever appended, their entry written after
them, so that a killed process leaves whole images behind, and who has the file mapped never sees one change.

Each entry's checksum covers itself and its pixels. Bounds of all entries are verified when a file is opened, which reads
nothing but the entries; a checksum is verified when its image is first asked for by a process or one forked from it,
since that reads the image anyway. A file that another program cuts short while it is mapped ends the reader with SIGBUS.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov9k.common.arrays import Image, Int64Array
from yolov9k.common.errors import warn

ENTRY = np.dtype(
    [
        ("changed", "<i8"),  # the source's time of change in ns and its length in bytes: its stamp
        ("length", "<i8"),
        ("offset", "<i8"),  # of the pixels in the file; 0: there are none
        ("height", "<u4"),
        ("width", "<u4"),
        ("checksum", "<u4"),  # of the fields above and the pixels
    ]
)
GONE = -1  # time of change and length of a source that is not there
_HEADER = struct.Struct("<8s32sQ")
_MAGIC = b"YKPICS\x00\x01"  # the last byte is the version of the layout and of how images are resized
_MAX_SIDE = 1 << 16
_UNSEEN, _SOUND, _DAMAGED = range(3)


class DamagedImage(Exception):
    """An image's checksum is wrong."""


class ImageStore:
    """Images, uint8 [h, w, 3] of any shapes, by their index. Open one with `at` or `in_memory`, put, seal, then get.

    entries: ENTRY [n], those that are present and up to date have an offset. name: the file's path, or what it is.
    """

    def __init__(self, descriptor: int, name: str, identity: bytes, stamps: Int64Array) -> None:
        self._file, self.name = os.fdopen(descriptor, "r+b", buffering=0), name
        self._header = _HEADER.pack(_MAGIC, identity, len(stamps))
        self._data = len(self._header) + len(stamps) * ENTRY.itemsize
        self.entries = np.zeros(len(stamps), ENTRY)
        self.entries["changed"], self.entries["length"] = stamps.T
        self._end = self._first = self._data
        self._seen = np.frombuffer(mmap.mmap(-1, max(len(stamps), 1)), np.uint8)  # shared with forked processes
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()

    @classmethod
    def in_memory(cls, stamps: Int64Array) -> ImageStore:
        """An empty one in memory of its own, which goes with the last process that holds it."""
        store = cls(os.memfd_create("yolov9k"), "memory", bytes(32), stamps)
        store._start()
        return store

    @classmethod
    def at(cls, path: Path, identity: bytes, stamps: Int64Array) -> ImageStore:
        """The one at `path`, with the images that are whole and whose stamps (int64 [n, 2]) have not changed.

        It is made anew where it is of another `identity` (32 bytes), or holds more that is out of date than is not.
        Only one process may do this at a time: hold `common.files.locked(path)` until it is sealed. Raises OSError.
        """
        if path.exists():
            store = cls(os.open(path, os.O_RDWR), str(path), identity, stamps)
            if store._resume():
                return store
            path.unlink()  # not cut short: other processes may have it mapped
        store = cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), str(path), identity, stamps)
        try:
            store._start()
        except OSError:
            path.unlink()
            raise
        return store

    @property
    def missing(self) -> Int64Array:
        """Indices of images that are not here and whose source is."""
        return np.flatnonzero((self.entries["offset"] == 0) & (self.entries["changed"] != GONE))

    def _start(self) -> None:
        os.truncate(self._file.fileno(), self._data)  # entries read as zeros
        self._write(self._header, 0)

    def _resume(self) -> bool:
        size, descriptor = os.fstat(self._file.fileno()).st_size, self._file.fileno()
        if size < self._data or os.pread(descriptor, len(self._header), 0) != self._header:
            warn(f"{self.name}: not a cache of these images, or damaged; made anew")
            return False
        found = np.frombuffer(os.pread(descriptor, self._data - len(self._header), len(self._header)), ENTRY)
        there, lengths = found["offset"] != 0, _lengths(found)
        whole = there & (found["offset"] >= self._data) & (lengths > 0) & (found["offset"] <= size - lengths)
        if lost := int((there & ~whole).sum()):
            warn(f"{self.name}: truncated or damaged; {lost} images are read anew")
        fresh = whole & (found["changed"] == self.entries["changed"]) & (found["length"] == self.entries["length"])
        self.entries[fresh] = found[fresh]
        live = int(lengths[fresh].sum())
        self._end = self._first = size
        return size - self._data - live <= live

    def put(self, index: int, image: Image) -> None:
        """Append an image and write its entry; threads may do so side by side. Raises OSError where there is no room."""
        entry = self.entries[index].copy()
        with self._lock:
            entry["offset"], self._end = self._end, self._end + image.nbytes
        entry["height"], entry["width"] = image.shape[:2]
        image = np.ascontiguousarray(image)
        entry["checksum"] = _checksum(entry, image)
        self._write(image.data.cast("B"), int(entry["offset"]))
        self._write(entry.tobytes(), self._place(index))
        self.entries[index] = entry

    def give_back(self) -> None:
        """Take out all that was put since opening: what a full disk needs. Only before `seal`."""
        added = np.flatnonzero(self.entries["offset"] >= self._first)
        os.truncate(self._file.fileno(), self._first)
        for index in added:
            self._forget(int(index))
        self._end = self._first

    def seal(self) -> None:
        """Map the file; nothing is put after that."""
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def get(self, index: int) -> Image | None:
        """An image as a read-only view of the map; None where it is not here.

        Raises DamagedImage once for an image whose checksum is wrong; from then on it is not here, nor in the file.
        """
        _, _, offset, height, width, checksum = self.entries[index].item()
        if not offset or self._seen[index] == _DAMAGED:
            return None
        assert self._map is not None, "a store is read after it was sealed"
        image = np.frombuffer(self._map, np.uint8, 3 * height * width, offset).reshape(height, width, 3)
        if self._seen[index] == _UNSEEN:
            if _checksum(self.entries[index], image) != checksum:
                self._seen[index] = _DAMAGED
                with contextlib.suppress(OSError):  # it is found again the next time
                    self._write(bytes(ENTRY.itemsize), self._place(index))
                raise DamagedImage(f"{self.name}: image {index} is damaged")
            self._seen[index] = _SOUND
        return image

    def _forget(self, index: int) -> None:
        self.entries["offset"][index] = 0
        self._write(bytes(ENTRY.itemsize), self._place(index))

    def _place(self, index: int) -> int:
        return len(self._header) + index * ENTRY.itemsize

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        while view:  # a write may stop short, at 2 GiB or where a disk is nearly full
            count = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[count:], offset + count


def _checksum(entry: np.void, image: Image) -> int:
    fields = entry.tobytes()[: ENTRY.fields["checksum"][1]]  # type: ignore[index]  # it has fields
    return zlib.crc32(image.data, zlib.crc32(fields))


def _lengths(entries: NDArray[Any]) -> Int64Array:
    """Bytes of the pixels, 0 where the sides are not those of an image."""
    height, width = (entries[side].astype(np.int64) for side in ("height", "width"))
    return np.where((height < _MAX_SIDE) & (width < _MAX_SIDE), 3 * height * width, 0)
