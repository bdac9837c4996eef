"""The documentation builds without a warning, and what is planted in a copy of it fails the build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tools

ROOT = Path(__file__).resolve().parents[2]


def build(docs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(docs), str(docs / "_build/html")]
    environment = os.environ | {"YOLOV9K_DOCS_SOURCE": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    pytest.importorskip("sphinx", reason="needs the docs extra")
    return Path(shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_build")))


def test_the_documentation_builds_strictly(docs: Path) -> None:
    done = build(docs)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "task_aligned_assign" in (docs / "_build/html/operators/task_aligned_assign.html").read_text(encoding="utf-8")
    assert "--patience" in (docs / "_build/html/options.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "planted",
    ["[a page](nowhere.md)", "{py:func}`yolov9k.ops.nothing`", "```{eval-rst}\n.. autofunction:: yolov9k.ops.nothing\n```"],
    ids=["link", "reference", "docstring"],
)
def test_what_is_broken_fails_the_build(docs: Path, planted: str) -> None:
    page = docs / "design.md"
    page.write_text(page.read_text(encoding="utf-8") + f"\n{planted}\n", encoding="utf-8")
    done = build(docs)
    assert done.returncode != 0
    assert len(re.findall(r"(?:WARNING|ERROR): ", done.stderr)) == 1  # what was planted, and nothing else
    assert "nowhere" in done.stderr or "nothing" in done.stderr


def test_every_file_the_pages_name_exists() -> None:
    pattern = re.compile(r"`((?:bench|csrc|docs|examples|kernels|tests|yolov9k)/[\w./-]+)`")
    named = {(page.name, path) for page in (ROOT / "docs").rglob("*.md") for path in pattern.findall(page.read_text("utf-8"))}
    assert len(named) > 30
    assert sorted((page, path) for page, path in named if "NAME" not in path and not (ROOT / path).exists()) == []
