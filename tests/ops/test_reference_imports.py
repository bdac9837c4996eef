"""The references define the operators: they depend on torch, on each other, and on what common says of arrays and devices."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from yolov9k.ops import reference

FILES = sorted(Path(reference.__path__[0]).glob("*.py"))
ALLOWED = ("torch", "yolov9k.ops.reference", "yolov9k.common.arrays", "yolov9k.common.device", *sys.stdlib_module_names)


def imported(source: str) -> list[str]:
    """Modules that a source imports, wherever the import stands in it."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + ["." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)]


def foreign(source: str) -> list[str]:
    """Those of the modules that a reference may not import."""
    return [name for name in imported(source) if not any(f"{name}.".startswith(f"{root}.") for root in ALLOWED)]


def test_there_are_references() -> None:
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_reference_imports_references_alone(path: Path) -> None:
    assert foreign(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from yolov9k.ops.task_aligned_assign import task_aligned_assign", "yolov9k.ops.task_aligned_assign"),
        ("def f():\n    import yolov9k.native", "yolov9k.native"),
        ("from yolov9k.common.errors import UserError", "yolov9k.common.errors"),
        ("from ..library import label", "..library"),
        ("import yolov9k.ops.references", "yolov9k.ops.references"),
    ],
)
def test_an_import_of_anything_else_is_found(line: str, name: str) -> None:
    assert foreign(line) == [name]
