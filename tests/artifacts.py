"""What takes long to make, kept between runs under the hash of all that decides it, in $YOLOV9K_CACHE/tests or .cache/tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def digest(*parts: str | bytes) -> str:
    """A name for what these parts decide: sources, flags, the compiler's version. No two lists of parts share a name."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def texts(paths: Iterable[Path]) -> list[bytes]:
    """Names and contents of files, in an order that does not depend on the file system."""
    return [part for path in sorted(paths) for part in (path.name.encode(), path.read_bytes())]


def find(name: str) -> Path | None:
    """The artifact kept under `name`; None where there is none, or where it is not what was kept."""
    path = _folder() / name
    try:
        whole = path.with_suffix(".sha256").read_text(encoding="ascii") == digest(path.read_bytes())
    except (OSError, UnicodeDecodeError):
        return None
    return path if whole else None


def keep(name: str, made: Path) -> Path:
    """Keep a copy of a file under `name`; whoever looks at the same time sees all of it or nothing. Returns its place."""
    _folder().mkdir(parents=True, exist_ok=True)
    path = _folder() / name
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        copy = Path(shutil.copy(made, Path(folder) / "artifact"))
        checksum = Path(folder) / "checksum"
        checksum.write_text(digest(copy.read_bytes()), encoding="ascii")
        copy.replace(path)
        checksum.replace(path.with_suffix(".sha256"))
    return path


def keep_text(name: str, text: str) -> str:
    """Keep a text under `name`; returns it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "text"
        made.write_text(text, encoding="utf-8")
        keep(name, made)
    return text


def find_text(name: str) -> str | None:
    """The text kept under `name`, or None."""
    path = find(name)
    return path.read_text(encoding="utf-8") if path else None


def _folder() -> Path:
    cache = os.environ.get("YOLOV9K_CACHE")
    return (Path(cache) if cache else ROOT / ".cache") / "tests"
