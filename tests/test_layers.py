"""Imports run one way: a room of the package imports what lies below it, never what lies above or beside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import yolov9k

# From top to bottom; rooms of one row do not know each other. A module belongs to the longest name that it starts with.
ROWS = (
    ("yolov9k.__main__",),
    ("yolov9k.cli",),
    ("yolov9k", "yolov9k.engine"),  # the short names that users import: re-exports alone
    ("yolov9k.engine.demo", "yolov9k.engine.facade"),
    ("yolov9k.engine.profile",),
    ("yolov9k.engine.train",),
    ("yolov9k.engine.evaluate", "yolov9k.engine.predict"),
    ("yolov9k.engine.inference", "yolov9k.engine.events"),
    ("yolov9k.compat",),
    ("yolov9k.tasks",),
    ("yolov9k.data", "yolov9k.losses", "yolov9k.models"),
    ("yolov9k.ops",),
    ("yolov9k.native", "yolov9k.kernels", "yolov9k.ops.reference"),
    ("yolov9k.kernels._operands",),
    ("yolov9k._native",),
    ("yolov9k.config",),
    ("yolov9k.common",),
)
# Known exceptions, to be empty: a type alone, of the loss's options.
PENDING = ["yolov9k.kernels.detection_loss imports yolov9k.ops.reference.detection_loss"]
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}
FACADES = {"yolov9k", "yolov9k.engine", "yolov9k.engine.predictor"}
ROOT = Path(yolov9k.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py")) if "__pycache__" not in path.parts}
# yolov9k/kernels is a link in a checkout, and rglob does not follow links in every Python.
FILES |= {module_name(path): path for path in (*sorted((ROOT / "kernels").glob("*.py")), ROOT / "_native.pyi")}


def room(module: str) -> str:
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(name for name in names if name in RANK)


def imported(module: str, text: str) -> Iterator[str]:
    """Modules of the package that a module's text imports anywhere, inside functions and by name included."""
    package = module if module in FILES and FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            members = [f"{base}.{alias.name}" for alias in node.names]
            found = [member if member in FILES else base for member in members]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            found = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        else:
            continue
        yield from (name for name in found if name.split(".")[0] == "yolov9k")


def violations(module: str, text: str) -> list[str]:
    """Imports of a module that do not run downward, as "module imports other"."""
    own, others = room(module), imported(module, text)
    return [f"{module} imports {other}" for other in others if RANK[room(other)] <= RANK[own] and room(other) != own]


def test_imports_run_downward() -> None:
    assert len(FILES) > 100
    found = [line for module, path in FILES.items() for line in violations(module, path.read_text(encoding="utf-8"))]
    assert found == PENDING


def test_every_module_has_a_room_of_its_own() -> None:
    """A new folder has to be given its place; what lies directly in yolov9k/ or yolov9k/engine/ only re-exports."""
    assert {module for module in FILES if room(module) in ("yolov9k", "yolov9k.engine")} == FACADES
    for module in FACADES:
        body = ast.parse(FILES[module].read_text(encoding="utf-8")).body
        assert {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)} <= {"__getattr__"}, module


def test_every_room_exists() -> None:
    assert {name for name in RANK if name not in FILES} == set()


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("yolov9k.models.block", "from yolov9k.engine.train.step import TrainStep"),
        ("yolov9k.models.block", "def run():\n    import yolov9k.tasks.base as base"),
        ("yolov9k.models.block", "from yolov9k import data"),
        ("yolov9k.models.block", "from yolov9k import create_model"),
        ("yolov9k.models.block", "from ..losses import DetectionLoss"),
        ("yolov9k.ops.reference.boxes", "from yolov9k.ops import batched_nms"),
        ("yolov9k.ops.reference.boxes", "from yolov9k.ops.backends import choose"),
        ("yolov9k.ops.reference.boxes", "import yolov9k.native"),
        ("yolov9k.common.errors", "import importlib\nimportlib.import_module('yolov9k.config')"),
        ("yolov9k.config", "from yolov9k.models.spec import load_spec"),
        ("yolov9k.engine.evaluate.validator", "from yolov9k.engine.predict.predictor import Predictor"),
        ("yolov9k.engine.train.step", "from yolov9k.engine import TrainStep"),
    ],
)
def test_a_planted_import_is_caught(module: str, text: str) -> None:
    assert len(violations(module, text)) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("yolov9k.models.block", "from yolov9k.models import registry\nfrom yolov9k.ops.plan.ir import Slice\nimport torch"),
        ("yolov9k.models", "from .yolov9 import DetectionModel"),
        ("yolov9k.cli.info", "from yolov9k import __version__, native, ops"),
        ("yolov9k.engine.demo", "from yolov9k.engine.train.trainer import Trainer"),
        ("yolov9k.ops.conv_silu", "from yolov9k.kernels import conv1x1"),
    ],
)
def test_a_downward_import_is_none(module: str, text: str) -> None:
    assert violations(module, text) == []
    assert len(list(imported(module, text))) > 0
