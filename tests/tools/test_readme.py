"""Every command in the README, run as it stands; those that take minutes are cut short by flags added at their end."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tools

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {"demo": ["--epochs", "1", "--images", "60"], "train": ["--epochs", "1", "--workers", "0", "--img", "64"]}


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, the empty one for commands."""
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in every if name == language]


def commands() -> list[list[str]]:
    return [shlex.split(line, comments=True) for block in blocks("") for line in block.splitlines()]


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.twin
def test_the_first_screen_shows_what_how_and_how_well() -> None:
    """A sentence, an image of detections, the two commands, both quick starts, the chart, in this order."""
    screen = "\n".join(README.splitlines()[:42])
    order = [
        "Apache-2.0",
        "docs/images/demo.jpg",
        "make demo",
        "make test",
        "yolov9k train",
        "```python",
        "docs/images/speed.svg",
    ]
    places = [screen.index(text) for text in order]
    assert places == sorted(places)
    assert sum(line.startswith("make ") for line in screen.splitlines()) == 2
    claims = [line for line in README.splitlines() if line.startswith("| ") and re.search("`(bench/results|tests)/", line)]
    assert len(claims) >= 8  # each with its record


def test_the_quick_start_imports_the_package_alone() -> None:
    (program,) = blocks("python")
    assert re.findall(r"^\s*(?:import|from) .*", program, re.MULTILINE) == ["import yolov9k"]


def test_every_file_the_readme_names_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    paths = re.findall(r"`((?:bench|csrc|docs|examples|kernels|tests|yolov9k)/[\w./-]+)`", README)
    assert len(links) >= 6
    assert [path for path in (*links, *paths) if not (ROOT / path).exists()] == []


@pytest.mark.twin
def test_there_is_a_rule_for_every_command() -> None:
    assert {command[0] for command in commands()} == {"make", "pip", "yolov9k"}
    assert len(commands()) >= 9


@pytest.mark.twin
@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_the_make_targets_do_what_they_say() -> None:
    for command in commands():
        if command[0] == "make":
            plan = run(["make", "-n", "-W", "setup.py", *command[1:]], ROOT)
            assert "-m venv" in plan or (ROOT / ".venv").exists()
            assert "pip install" in plan
            assert {"demo": "yolov9k demo", "test": "-m pytest -n auto"}[command[1]] in plan


def test_the_package_is_installed_as_the_readme_installs_it() -> None:
    assert ["pip", "install", "-e", "."] in commands()
    where = run([sys.executable, "-c", "import yolov9k; print(yolov9k.__file__)"], Path(sys.prefix))
    assert Path(where.strip()).is_file()


def test_the_commands_run_one_after_another(tmp_path: Path) -> None:
    for command in commands():
        if command[0] == "yolov9k":
            run([*command, *SHORTER.get(command[1], [])], tmp_path)
    assert (tmp_path / "runs/grid.png").stat().st_size > 10_000
    assert (tmp_path / "runs/train/exp/weights/best.pt").is_file()
    assert (tmp_path / "runs/train/demo/predictions.png").is_file()
    (program,) = blocks("python")
    run([sys.executable, "-c", program], tmp_path)
