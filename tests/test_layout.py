"""Tests and benchmarks share helpers by modules made for that, never by importing each other's test files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for folder in ("tests", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
# bench/roofline.py times every kernel with the inputs of its own benchmark: there the benchmarks are the cases.
READS_BENCHMARKS = {"bench/roofline.py", "tests/tools/test_roofline.py"}


def imported(text: str) -> list[str]:
    """Modules and members that a text imports, wherever."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def offenses(text: str, prefixes: tuple[str, ...] = ("test_", "bench_")) -> list[str]:
    """Those that are test files or benchmarks."""
    named = [name for name in imported(text) if name.split(".")[0] in ("tests", "bench")]
    return [
        name for name in named if (ROOT / f"{name.replace('.', '/')}.py").exists() and name.split(".")[-1].startswith(prefixes)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_file_is_imported(path: Path) -> None:
    prefixes = ("test_",) if str(path.relative_to(ROOT)) in READS_BENCHMARKS else ("test_", "bench_")
    assert offenses(path.read_text(encoding="utf-8"), prefixes) == []


@pytest.mark.parametrize(
    "line", ["from tests.data.test_loader import equal", "def f():\n    from bench.kernels.bench_augment import views",
             "import tests.engine.test_step", "from bench.end_to_end.bench_input import BATCH"],
)  # fmt: skip
def test_a_planted_import_is_caught(line: str) -> None:
    assert offenses(line)


def test_a_helper_may_be_imported() -> None:
    assert offenses("from tests.engine_cases import BOXES\nfrom tests.support import shared\nimport torch") == []
