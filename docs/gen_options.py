"""Writes the page of options, and that of other implementations' names, from what the command line is made of."""

from __future__ import annotations

import importlib
from pathlib import Path

HEAD = """# Options

Every option of every command, from the dataclasses in `yolov9k/config`: one declaration gives the flag, its
check, its help, its line in `args.yaml` and its row here. This page is written when the documentation is built.
"""


NAMES_HEAD = """# Names of other implementations

What each flag, key or path of the four stands for here; [](coming_from.md) says how to use them. The lists were made
from their documentation, configuration and, of Ultralytics 8.4.190 and LibreYOLO 1.6.0, what the installed packages list
(`tests/tools/test_peers_names.py`). This page is written when the documentation is built.
"""


def write(path: Path) -> None:
    """Write the page of options."""
    _write(path, [HEAD, *importlib.import_module("yolov9k.config.table").pages()])


def write_names(path: Path) -> None:
    """Write the page of names."""
    _write(path, [NAMES_HEAD, *importlib.import_module("yolov9k.config.table").names_pages()])


def _write(path: Path, parts: list[str]) -> None:
    """Leave a page alone where it would not change, or the build would start anew each time."""
    text = "\n".join(parts)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
