"""Pickles and files of torch.save made instruction by instruction, as no program would write them."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from typing import Any

import numpy as np
import torch

PROTO = b"\x80\x02"
SOUND = {"model": {"a": torch.arange(6.0), "b": torch.ones(2, 3)}, "epoch": 3}
NUMBERS = torch.arange(6.0).numpy().tobytes()


def archive(pickled: bytes, **records: bytes) -> bytes:
    """An archive as torch.save writes it, of a pickle and the numbers of tensors, every checksum right."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, data in {
            "data.pkl": pickled,
            "version": b"3\n",
            **{f"data/{key[1:]}": v for key, v in records.items()},
        }.items():
            written.writestr(f"archive/{name}", data)
    return file.getvalue()


def row(pickled: bytes, after: bytes = b"\x80\x02].") -> bytes:
    """The form before archives: three pickles of their own, that of the content, then keys and numbers."""
    file = io.BytesIO()
    torch.save({"a": 1}, file, _use_new_zipfile_serialization=False)
    data = file.getvalue()
    return data[: data.rfind(b"\x80\x02}")] + pickled + after


def dumped(value: Any) -> bytes:
    """The instructions that make a plain value, without the frame around them."""
    return pickle.dumps(value, 2)[2:-1]


def name(path: str) -> bytes:
    module, _, last = path.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def called(path: str, *arguments: Any) -> bytes:
    """The instructions that call a function with plain values."""
    return name(path) + dumped(arguments) + b"R"


def called_with(path: str, *arguments: bytes) -> bytes:
    """The same, the arguments as instructions."""
    return name(path) + b"(" + b"".join(arguments) + b"tR"


def table(**values: bytes) -> bytes:
    """A whole pickle of a table, its values as instructions."""
    return PROTO + b"}(" + b"".join(dumped(key) + value for key, value in values.items()) + b"u."


def stored(count: int = 6, key: str = "0", kind: str = "torch.FloatStorage") -> bytes:
    return b"(" + dumped("storage") + name(kind) + dumped(key) + dumped("cpu") + dumped(count) + b"tQ"


def tensor(size: Any = (6,), stride: Any = (1,), offset: int = 0, storage: bytes = b"") -> bytes:
    hooks = name("collections.OrderedDict") + b")R"
    parts = [storage or stored(), dumped(offset), dumped(size), dumped(stride), dumped(False), hooks]
    return called_with("torch._utils._rebuild_tensor_v2", *parts)


def module(class_path: str, **state: bytes) -> bytes:
    """The instructions of an object with attributes."""
    inner = b"}(" + b"".join(dumped(key) + value for key, value in state.items()) + b"u"
    return name(class_path) + b")\x81" + inner + b"b"


def array(shape: tuple[int, ...], dtype: str, data: bytes) -> bytes:
    kind = called("numpy.dtype", dtype, False, True) + dumped((3, "<", None, None, None, -1, -1, 0)) + b"b"
    made = called_with("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), dumped((0,)), dumped("b"))
    raw = called("_codecs.encode", data.decode("latin1"), "latin1")
    return made + b"(" + dumped(1) + dumped(shape) + kind + dumped(False) + raw + b"tb"


def with_tensor(instructions: bytes) -> bytes:
    return archive(table(model=instructions), n0=NUMBERS)


def nested_tuples(depth: int) -> bytes:
    """A tuple of two references to the tuple before it, and so on: 2 ** depth values where one follows them."""
    return b")q\x63" + b"0h\x63h\x63\x86q\x63" * depth


def module_ladder(depth: int) -> bytes:
    """Modules each of which holds the one before it twice: 2 ** depth of them where one follows them."""
    level = module("x.Leaf", _parameters=b"}(" + dumped("w") + tensor() + b"u") + b"q\x63"
    for _ in range(depth):
        level += b"0" + module("x.Twice", _modules=b"}(" + dumped("a") + b"h\x63" + dumped("b") + b"h\x63u") + b"q\x63"
    return PROTO + b"}(" + dumped("model") + level + b"u."


def module_ring() -> bytes:
    state = b"}(" + dumped("_modules") + b"}(" + dumped("a") + b"h\x07uub"
    return PROTO + b"}(" + dumped("model") + name("x.Ring") + b")\x81q\x07" + state + b"u."


def directory(count: int) -> bytes:
    """An archive that is a table of `count` records and nothing else."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(entry) * count, 4, 0)
    return b"PK\x03\x04" + entry * count + end


def overlapping() -> bytes:
    """A zip bomb of records that are all the same bytes of the file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("archive/data.pkl", PROTO + b"}.")
        written.writestr("archive/data/0", bytes(100_000))
        for number in range(1, 200):
            twin = zipfile.ZipInfo(f"archive/data/{number}")
            first = written.infolist()[1]
            twin.header_offset, twin.file_size, twin.compress_size, twin.CRC = (
                first.header_offset, first.file_size, first.compress_size, first.CRC,
            )  # fmt: skip
            written.filelist.append(twin)
    return file.getvalue()


def zipped(compression: int = zipfile.ZIP_STORED, **files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for path, data in files.items():
            written.writestr(path.replace("__", "/").replace("_", "."), data)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        for member in ("storages", "tensors", "pickle"):
            written.addfile(tarfile.TarInfo(member))
    return file.getvalue()


def sound(new: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(SOUND, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def numpy_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def flipped(data: bytes, part: bytes) -> bytes:
    at = data.index(part)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
