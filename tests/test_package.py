"""What is imported from `yolov9k` alone."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import yolov9k

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = {"torchvision"}  # decodes JPEG files on a GPU


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HELP = """
import sys
from yolov9k.cli import main
for words in ("--help", "--version", "train --help", "predict --help"):
    sys.argv = ["yolov9k", *words.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code
    assert "torch" not in sys.modules, words
    print("said:", words)
"""


def test_help_needs_no_torch() -> None:
    said = [line for line in python(HELP).splitlines() if line.startswith("said:")]
    assert said == ["said: --help", "said: --version", "said: train --help", "said: predict --help"]


@pytest.mark.parametrize("name", yolov9k.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(yolov9k, name)


@pytest.fixture(scope="module")
def fresh() -> list[str]:
    """What a process says that nothing else has filled: names of two rooms, then all modules of a program that trains."""
    program = (
        "import sys, yolov9k; print(yolov9k.ops.batched_nms.__name__, yolov9k.engine.TrainStep.__name__)\n"
        "import yolov9k.cli, yolov9k.engine.train.trainer, yolov9k.tasks.detect.plots; print(*sys.modules)"
    )
    return python(program).splitlines()


def test_rooms_come_with_the_package(fresh: list[str]) -> None:
    assert fresh[0] == "batched_nms TrainStep"


def test_a_program_begins_without_the_compiler(fresh: list[str]) -> None:
    """torch._dynamo takes as long to import as all the rest."""
    assert "torch" in fresh[1].split()
    assert "torch._dynamo" not in fresh[1].split()


def test_pyplot_stays_out(fresh: list[str]) -> None:
    """It holds every figure for good and belongs to whoever plots interactively."""
    assert "yolov9k.tasks.detect.plots" in fresh[1].split()
    assert "matplotlib.pyplot" not in fresh[1].split()


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'yolov9k' has no attribute 'create_modle'"):
        _ = yolov9k.create_modle  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["yolov9k.models", "yolov9k.models.yolov9"])
def test_the_networks_earlier_name_goes_on_with_a_word(module: str) -> None:
    with pytest.warns(FutureWarning, match=rf"{module}\.YOLOv9 is called DetectionModel now; yolov9k\.YOLOv9 is the object"):
        assert importlib.import_module(module).YOLOv9 is yolov9k.DetectionModel


def imported(tree: ast.AST, guarded: bool = False) -> Iterator[tuple[str, bool]]:
    """Packages that a module imports anywhere, each with whether an ImportError is caught there."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0], guarded
        handlers = node.handlers if isinstance(node, ast.Try) else []
        caught = any(handler.type and "ImportError" in ast.unparse(handler.type) for handler in handlers)
        yield from imported(node, guarded or caught)


def test_what_is_imported_is_declared() -> None:
    """What the package can do without is imported where an import of it was tried before."""
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for several in (project["dependencies"], *project["optional-dependencies"].values()) for line in several]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in lines}
    found = {one for path in (ROOT / "yolov9k").rglob("*.py") for one in imported(ast.parse(path.read_text()))}
    tried = {name for name, guarded in found if guarded}
    third = {name for name, guarded in found if not guarded} - sys.stdlib_module_names - {"yolov9k", *(tried & OPTIONAL)}
    owners = metadata.packages_distributions()
    assert {"torch", "numpy", "PIL", "cv2", "matplotlib", "yaml"} < third
    assert [name for name in sorted(third) if not declared & {owner.lower() for owner in owners.get(name, [])}] == []
