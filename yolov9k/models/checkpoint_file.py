"""Reading checkpoint files: no code in one is run, and what it declares is held against its size and its checksums.

Tensors and plain values come as they are, whole modules and other objects as stand-ins (stand_ins.py).
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from yolov9k.common.errors import MODEL, UserError, failing_as, one_line
from yolov9k.common.files import plain_path
from yolov9k.common.paths import given_path
from yolov9k.models.file_kinds import HEAD, is_safetensors, what_it_is
from yolov9k.models.stand_ins import Damaged, Refused, StandIn
from yolov9k.models.tables import likely_name
from yolov9k.models.torch_files import OLD_START, read_archive, read_row

MAX_TABLE = 4 << 20  # bytes of a safetensors file's table: tens of thousands of tensors


@failing_as(MODEL)
def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file; a module that was saved as a whole stands under "model", as a StandIn.

    Takes what torch.save has written in either form, and safetensors, told by content. The memory is that of the file, and that
    of its plain values. Raises UserError naming the file, what it is and the remedy.
    """
    if not str(path).strip():
        raise UserError("--weights: empty; give a checkpoint")
    path = given_path(path)
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder, give a checkpoint in it")
    if not os.path.isfile(path):
        raise UserError(f"{path}: {'is not a regular file, give a checkpoint' if os.path.exists(path) else _absent(path)}")
    try:
        content = _read(path)
    except UserError:
        raise
    except Refused as error:
        raise UserError(
            f"{path}: calls {one_line(str(error), 100)}, which no checkpoint needs; it was not run; do not trust this file, "
            "get the weights from their publisher"
        ) from None
    except Exception as error:  # nothing is promised of what a damaged file leads to
        raise UserError(f"{path}: {_what_is_wrong(error)}") from None
    if isinstance(content, StandIn):
        return {"model": content}
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, expected a checkpoint or a state dict")
    return content


def _absent(path: Path) -> str:
    """A name of published weights is how others ask for a download, which is never begun unasked here."""
    near = likely_name(path.name)
    return "no such checkpoint" + (f"; 'yolov9k download {near}' fetches published weights" if near else "")


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(b"PK\x03\x04"):
        return read_archive(path)
    if head.startswith(OLD_START):
        return read_row(path)
    if is_safetensors(head):
        return _read_safetensors(path)
    if told := what_it_is(head):
        raise UserError(f"{path}: {told}")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    raise Damaged("its beginning is that of no checkpoint")


def _what_is_wrong(error: Exception) -> str:
    """An error in a few words: those that are meant for people."""
    library = isinstance(error, RuntimeError | OSError | SafetensorError)  # torch's and safetensors' own are no MemoryError
    if isinstance(error, MemoryError) or (library and "alloc" in str(error)):
        return "does not fit into memory, or is damaged and declares more than it holds"
    said = " ".join(str(error).split()).split(". ")[0][:200]
    if isinstance(error, zipfile.BadZipFile):
        said = "its end is missing: it was cut short"
    told = isinstance(error, Damaged | RuntimeError | OSError | SafetensorError | zipfile.BadZipFile)
    return f"damaged or not a checkpoint ({said if told and said else 'no pickle of tensors'}); copy or download it again"


def _read_safetensors(path: Path) -> dict[str, Any]:
    with path.open("rb") as raw:
        if int.from_bytes(raw.read(8), "little") > MAX_TABLE:
            raise Damaged("its table of tensors is larger than any checkpoint's")
    with plain_path(path) as name, safe_open(name, "pt") as file:
        notes = file.metadata() or {}
        plain = json.loads(notes.get("yolov9k", "{}"))
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no dict
    if not isinstance(plain, dict):
        raise Damaged("its plain values are no table")
    if "crc32" in notes and notes["crc32"] != checksum(tensors, notes.get("yolov9k", "")):
        raise Damaged("it is not what its checksum says")
    return {**plain, "model": tensors}


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """CRC-32 of tensors with their names, dtypes and shapes, and of a text: safetensors has none of its own."""
    value = zlib.crc32(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        value = zlib.crc32(f"{key} {tensor.dtype} {list(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
