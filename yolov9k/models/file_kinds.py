"""What a file is that was given for a checkpoint, told by its first bytes, and what to do then."""

from __future__ import annotations

import re
from typing import NamedTuple

HEAD = 4096  # bytes that are looked at


class _Kind(NamedTuple):
    pattern: re.Pattern[bytes]
    message: str


def _starts(*starts: bytes) -> re.Pattern[bytes]:
    return re.compile(b"|".join(re.escape(start) for start in starts))


_UNPACK = "unpack it and give the checkpoint in it"
_NOT_WEIGHTS = "give a checkpoint of weights, such as a .pt file"
# The first that fits is told.
_KINDS = (
    _Kind(_starts(b"version https://git-lfs"), "is a Git LFS pointer in place of the file; fetch it with: git lfs pull"),
    _Kind(re.compile(rb"\s*<(!doctype|html|head|body)\b", re.I), "is a web page; download the file that the page links to"),
    _Kind(re.compile(rb"\s*(<\?xml|<net)\b", re.I), f"is XML, perhaps an OpenVINO model; {_NOT_WEIGHTS}"),
    _Kind(_starts(b"\x1f\x8b"), f"is packed by gzip; {_UNPACK}"),
    _Kind(_starts(b"BZh"), f"is packed by bzip2; {_UNPACK}"),
    _Kind(_starts(b"\xfd7zXZ\0"), f"is packed by xz; {_UNPACK}"),
    _Kind(_starts(b"\x28\xb5\x2f\xfd"), f"is packed by zstd; {_UNPACK}"),
    _Kind(_starts(b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07"), f"is a packed archive; {_UNPACK}"),
    _Kind(
        re.compile(rb".{257}ustar", re.S), f"is a tar archive, which torch wrote before 2018 only; {_UNPACK}, or save it anew"
    ),
    _Kind(_starts(b"\x89HDF\r\n"), f"is an HDF5 file, of Keras perhaps; {_NOT_WEIGHTS}"),
    _Kind(re.compile(rb".{4}TFL3", re.S), f"is a TensorFlow Lite model; {_NOT_WEIGHTS}"),
    _Kind(_starts(b"GGUF"), f"is a GGUF file; {_NOT_WEIGHTS}"),
    _Kind(_starts(b"\x93NUMPY"), f"is a numpy array; {_NOT_WEIGHTS}"),
    _Kind(_starts(b"ftrt", b"ptrt"), f"is a TensorRT engine; {_NOT_WEIGHTS}"),
    _Kind(_starts(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM"), f"is an image or a video; {_NOT_WEIGHTS}"),
    _Kind(re.compile(rb".{4}ftyp", re.S), f"is a video; {_NOT_WEIGHTS}"),
    _Kind(_starts(b"%PDF"), f"is a PDF; {_NOT_WEIGHTS}"),
    _Kind(_starts(b"\x7fELF", b"MZ"), f"is a program; {_NOT_WEIGHTS}"),
    _Kind(
        re.compile(rb"\x08[\x01-\x0f]\x12.(pytorch|onnx|tf2onnx|ultralytics)", re.S | re.I), f"is an ONNX model; {_NOT_WEIGHTS}"
    ),
    _Kind(re.compile(rb"\0{64}"), "begins with zeros alone: its copy or download was cut; copy or download it again"),
    _Kind(re.compile(rb"\x00{4}[\x01\x02]\0{3}[\x00-\x05]\0{3}", re.S), f"is a darknet file; {_NOT_WEIGHTS}"),
    _Kind(
        re.compile(rb"\x80[\x00-\x05]"), "is a pickle, but not one that torch.save wrote; save its state dict with torch.save"
    ),
)


def what_it_is(head: bytes) -> str:
    """A file of another kind by its first bytes, with the remedy; empty where they tell nothing."""
    if not head:
        return "is empty; copy or download it again"
    if known := next((kind.message for kind in _KINDS if kind.pattern.match(head)), ""):
        return known
    try:
        head[: HEAD - 4].decode("utf-8").encode("ascii")
    except UnicodeError:
        return ""
    readable = not re.search(rb"[\0-\x08\x0e-\x1f]", head)
    return "is a text; models from a YAML file are named by --cfg, give their weights here" if readable else ""


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors': the length of a JSON table, then the table."""
    return head[5:9] == b"\0\0\0{"
