"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolov9k.common.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that a crash or a full disk leaves the previous one whole: temporary file, fsync, rename.

    Raises UserError naming the file and the cause.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        fault = _os_error(error)
        if fault is None:
            raise
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "the disk is full" if full else fault.strerror or str(fault)
        kept = "; the previous file is kept" if os.path.exists(path) else ""  # pathlib raises where the folder is locked
        raise UserError(f"{path}: cannot be saved, {cause}{kept}; free space or choose another --project") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _os_error(error: BaseException | None) -> OSError | None:
    """The system's error behind another: torch's writer covers a failed write with RuntimeErrors of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, its folder made where it is not there; the file appears complete or not at all. Raises UserError."""
    path, text = Path(path), json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        temporary.write_text(text)

    write_atomically(path, write)
