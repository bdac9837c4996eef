"""Reading checkpoint files. What a file declares is held against its size and its checksums, and no code in it is run.

torch and safetensors read what they are given: neither looks at a checksum, and torch obeys a declared `bytearray(2**34)`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from yolov9k.common.errors import UserError
from yolov9k.common.files import user_path

_ZIP = b"PK\x03\x04"
# What torch lets a pickle call although no tensor needs it: these fill memory, or take quadratic time, as they are told.
_REFUSED_CALLS = (b"\nbytearray\n", b"c_codecs\nencode\n")


class _Damaged(Exception):
    """What is wrong with a file."""


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file. Raises UserError naming the file and the remedy."""
    if not str(path).strip():
        raise UserError("--weights: empty; give a checkpoint")
    path = user_path(path)
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder, give a checkpoint in it")
    if not os.path.isfile(path):
        raise UserError(
            f"{path}: {'is not a regular file, give a checkpoint' if os.path.exists(path) else 'no such checkpoint'}"
        )
    try:
        content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path}: does not fit into memory, or is damaged and declares more than it holds") from None
    except Exception as error:  # torch promises nothing of what a damaged file makes it raise
        raise UserError(f"{path}: {_what_is_wrong(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, expected a checkpoint or a state dict")
    return content


def _what_is_wrong(error: Exception) -> str:
    """A reader's error in a few words: the first sentence of those that are meant for people."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and ("unsupported GLOBAL" in text or "Unsupported global" in text):
        return "holds Python objects, not only tensors, and is not opened; convert it to a state dict first"
    told = isinstance(error, _Damaged | RuntimeError | OSError | SafetensorError | zipfile.BadZipFile)
    said = " ".join(text.split()).split(". ")[0][:200]  # the rest is torch's advice
    return f"damaged or not a checkpoint ({said if told and said else 'no pickle of tensors'}); copy or download it again"


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        is_archive = file.read(len(_ZIP)) == _ZIP
    if is_archive:
        _check_archive(path)
    else:
        with path.open("rb") as file, contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
            _check_calls(path, data)
    with warnings.catch_warnings():  # torch warns of pickles that are none of its own; they are refused anyway
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Raise for records that are packed, overlap, or are not what their checksums say."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise UserError(
                f"{path}: its records are compressed, which no checkpoint's are; unpack and save it with torch.save"
            )
        names = {record.filename.lower() for record in records}  # torch's reader takes capitals for small letters
        if len(names) < len(records) or sum(record.file_size for record in records) > path.stat().st_size:
            raise _Damaged("its records are more than the file holds")
        summed = any(record.CRC for record in records)  # torch.save can be told to leave checksums out: all are 0 then
        if summed and (wrong := archive.testzip()):
            raise _Damaged(f"record {wrong[:80]} is not what its checksum says")
        for record in records:
            if record.filename.endswith("data.pkl"):
                record.CRC = record.CRC if summed else None  # type: ignore[assignment]  # None: not looked at
                _check_calls(path, archive.open(record).read())


def _check_calls(path: Path, data: bytes | mmap.mmap) -> None:
    """Raise UserError where a pickle calls what no tensor needs."""
    if any(data.find(call) >= 0 for call in _REFUSED_CALLS):
        raise UserError(
            f"{path}: holds byte strings, not only tensors and plain values, and is not opened; save it without them"
        )


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        notes = file.metadata() or {}
        plain = json.loads(notes.get("yolov9k", "{}"))
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no dict
    if not isinstance(plain, dict):
        raise _Damaged("its plain values are no table")
    if "crc32" in notes and notes["crc32"] != checksum(tensors, notes.get("yolov9k", "")):
        raise _Damaged("it is not what its checksum says")
    return {**plain, "model": tensors}


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """CRC-32 of tensors with their names, dtypes and shapes, and of a text: safetensors has none of its own."""
    value = zlib.crc32(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        value = zlib.crc32(f"{key} {tensor.dtype} {list(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
