"""Files of torch.save, in its two forms: an archive of records (torch 1.6 and later) and a row of pickles (before).

Each byte is read once, into the memory where it stays, and held against its checksum where the form has them.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from yolov9k.common.errors import UserError
from yolov9k.models.pickled_calls import Stored
from yolov9k.models.stand_ins import Damaged, Reference
from yolov9k.models.unpickle import Unpickler

OLD_MAGIC = 0x1950A86A20F9469CFC6C  # the first value of a row of pickles
OLD_START = b"\x80\x02\x8a\x0a" + OLD_MAGIC.to_bytes(10, "little")
_OLD_PROTOCOL = 1001
MAX_PLAIN = 64 << 20  # bytes of a pickle, and of what is made of it in a small file
MAX_DIRECTORY = 8 << 20  # bytes of an archive's table: tens of thousands of tensors

_KINDS = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64,
    "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "QInt8": torch.qint8, "QUInt8": torch.quint8,
    "QInt32": torch.qint32, "Untyped": torch.uint8,
}  # fmt: skip
_STORAGES = {f"torch.{module}{kind}Storage": dtype for kind, dtype in _KINDS.items() for module in ("", "cuda.", "storage.")}


def read_archive(path: Path) -> Any:
    """What an archive holds. Raises UserError naming the file, Damaged, Refused, or an error of what is wrong in it."""
    with path.open("rb") as file:
        return _Archive(path, file).load()


def read_row(path: Path) -> Any:
    """What a row of pickles holds. Raises as `read_archive` does."""
    with path.open("rb") as file:
        return _Row(file).load()


class _Directory(io.BufferedReader):
    """A file for zipfile, which reads as much as a table is declared to be long."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise Damaged("its table of records is larger than any checkpoint's")
        return super().read(size)


class _Archive:
    """Records of an archive by name, each one stored as it is."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.size = path, file, os.fstat(file.fileno()).st_size
        with _Directory(io.FileIO(path)) as table, zipfile.ZipFile(table) as archive:
            listed = archive.infolist()
        self.records = {record.filename: record for record in listed}
        self._check(listed)
        self.summed = any(record.CRC for record in listed)  # torch.save can be told to leave checksums out: all are 0 then
        self.swapped = False
        self.stored: dict[str, torch.UntypedStorage] = {}

    def _check(self, listed: list[zipfile.ZipInfo]) -> None:
        names = [name for name in self.records if name.endswith("data.pkl")]
        if any(name.endswith("constants.pkl") for name in self.records):
            raise UserError(
                f"{self.path}: is a TorchScript program, and is not run; give the checkpoint that it was exported from"
            )
        if not names:
            raise UserError(
                f"{self.path}: is a zip archive of something else than a checkpoint; unpack it and give what is in it"
            )
        if any(record.compress_type != zipfile.ZIP_STORED for record in listed):
            raise UserError(
                f"{self.path}: its records are compressed, which no checkpoint's are; unpack and save it with torch.save"
            )
        if len(self.records) < len(listed) or len(names) > 1 or sum(record.file_size for record in listed) > self.size:
            raise Damaged("its records are more than the file holds")
        self.folder = names[0].removesuffix("data.pkl")

    def load(self) -> Any:
        order = self._bytes("byteorder") if f"{self.folder}byteorder" in self.records else b"little"
        if order not in (b"little", b"big"):
            raise Damaged("its order of bytes is neither little nor big")
        self.swapped = order.decode() != sys.byteorder
        pickle = self._bytes("data.pkl")
        return Unpickler(pickle, self._storage, max(MAX_PLAIN, 2 * self.size)).load()

    def _bytes(self, name: str) -> bytes:
        if (size := self._record(name).file_size) > MAX_PLAIN:
            raise Damaged(f"its record {name} has {size:,} bytes")
        data = bytearray(size)
        self._fill(name, memoryview(data))
        return bytes(data)

    def _record(self, name: str) -> zipfile.ZipInfo:
        if (record := self.records.get(self.folder + name)) is None:
            raise Damaged(f"it has no record {name[:80]}")
        return record

    def _fill(self, name: str, target: memoryview) -> None:
        """Read a record into memory, and hold it against its checksum."""
        record = self._record(name)
        self.file.seek(record.header_offset)
        header = self.file.read(30)
        if header[:4] != b"PK\x03\x04" or len(header) < 30:
            raise Damaged(f"record {record.filename[:80]} does not begin where the file's table says")
        name_size, extra_size = struct.unpack("<2H", header[26:])
        self.file.seek(name_size + extra_size, os.SEEK_CUR)
        if self.file.readinto(target) != len(target):  # type: ignore[attr-defined]
            raise Damaged(f"record {record.filename[:80]} is cut short")
        if self.summed and zlib.crc32(target) != record.CRC:
            raise Damaged(f"record {record.filename[:80]} is not what its checksum says")

    def _storage(self, identity: Any) -> Stored:
        kind, key, _, count = _identity(identity, 4)
        dtype, size = _dtype_of(kind), self._record(f"data/{key}").file_size
        if count * dtype.itemsize != size:
            raise Damaged(f"record data/{key} has {size:,} bytes for {count:,} values of {str(dtype).removeprefix('torch.')}")
        if key not in self.stored:
            self.stored[key] = data = _storage(size)
            self._fill(f"data/{key}", _memory(data))
            if self.swapped:
                data.byteswap(dtype)  # type: ignore[no-untyped-call]
        return Stored(self.stored[key], dtype, count, self.size)


class _Row:
    """The five pickles and the numbers of the older form, which come last and have no checksums."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.stored: dict[Any, Stored] = {}
        self.held = 0  # bytes declared so far
        self.room = max(MAX_PLAIN, 2 * self.size)

    def load(self) -> Any:
        if self._plain(self._none) != OLD_MAGIC or self._plain(self._none) != _OLD_PROTOCOL:
            raise Damaged("its first values are not those of torch.save")
        self._plain(self._none)  # sizes of numbers on the machine that wrote it
        content = self._plain(self._storage)
        keys = self._plain(self._none)
        if not isinstance(keys, list) or len(keys) != len(self.stored) or set(map(str, keys)) != set(self.stored):
            raise Damaged("its tensors and its list of them differ")
        for key in keys:
            self._fill(self.stored[str(key)])
        if self.file.read(1):
            raise Damaged("more follows where it should end")
        return content

    def _plain(self, storage: Callable[[Any], Any]) -> Any:
        machine = Unpickler(self.file, storage, self.room)  # the file's own place moves on by one pickle
        value = machine.load()
        self.room = machine.room
        return value

    def _none(self, _: Any) -> Any:
        raise Damaged("a plain value in it is a tensor")

    def _storage(self, identity: Any) -> Any:
        if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":  # with the source of its class
            return identity[1]
        kind, key, _, count, view = _identity(identity, 5)
        dtype = _dtype_of(kind)
        if key not in self.stored:
            self.held += count * dtype.itemsize
            if self.held > self.size:
                raise Damaged("its tensors are larger than the file")
            self.stored[key] = Stored(_storage(count * dtype.itemsize), dtype, count, self.size)
        stored = self.stored[key]
        if stored.dtype != dtype:
            raise Damaged(f"its tensors {key[:80]} are of two kinds")
        return stored if view is None else _part(stored, view)

    def _fill(self, stored: Stored) -> None:
        count = int.from_bytes(self.file.read(8), "little")
        memory = _memory(stored.data)
        if count != stored.count or self.file.readinto(memory) != len(memory):  # type: ignore[attr-defined]
            raise Damaged("its tensors are cut short, or not as large as it says")


def _identity(identity: Any, length: int) -> tuple[Any, ...]:
    """What a pickle calls the numbers of a tensor: kind, key, device, count, and in the older form a view."""
    if not isinstance(identity, tuple) or len(identity) != length + 1 or identity[0] not in ("storage", b"storage"):
        raise Damaged("a tensor in it is made of no stored numbers")
    key, count = identity[2], identity[4]
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**62:
        raise Damaged("a tensor in it is made of no stored numbers")
    return identity[1:]


def _dtype_of(kind: Any) -> torch.dtype:
    dtype = _STORAGES.get(kind.path) if isinstance(kind, Reference) else None
    if dtype is None:
        raise Damaged("a tensor in it is of no kind of numbers that torch has")
    return dtype


def _part(stored: Stored, view: Any) -> Stored:
    """A stretch of stored numbers, as the oldest files have it."""
    if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
        raise Damaged("a tensor in it is made of no stored numbers")
    _, offset, count = view
    if offset + count > stored.count:
        raise Damaged("a tensor in it is larger than what is stored for it")
    size = stored.dtype.itemsize
    return Stored(stored.data[offset * size : (offset + count) * size], stored.dtype, count, stored.file_size)


def _storage(size: int) -> torch.UntypedStorage:
    return torch.UntypedStorage(size)  # type: ignore[no-untyped-call]


def _memory(data: torch.UntypedStorage) -> memoryview:
    """The bytes of a storage, to be written."""
    return torch.empty(0, dtype=torch.uint8).set_(data).numpy().data
