"""Writes the page of options from the dataclasses that the command line is made of."""

from __future__ import annotations

import importlib
from pathlib import Path

HEAD = """# Options

Every option of every command, from the dataclasses in `yolov9k/config`: one declaration gives the flag, its
check, its help, its line in `args.yaml` and its row here. This page is written when the documentation is built.
"""


def tables() -> list[str]:
    """A heading and a table for each command."""
    return list(importlib.import_module("yolov9k.config.table").pages())


def write(path: Path) -> None:
    """Write the page; leave it alone where it would not change, or the build would start anew each time."""
    text = "\n".join([HEAD, *tables()])
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
