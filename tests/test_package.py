"""What is imported from `yolov9k` alone."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import yolov9k


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
