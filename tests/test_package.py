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


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["predict", "--help"]])
def test_help_needs_no_torch(arguments: list[str]) -> None:
    program = (
        f"import sys; sys.argv = ['yolov9k', *{arguments!r}]\nfrom yolov9k.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\nprint('torch' in sys.modules)"
    )
    assert python(program).endswith("False")


@pytest.mark.parametrize("name", yolov9k.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(yolov9k, name)


def test_rooms_come_with_the_package() -> None:
    assert python("import yolov9k; print(yolov9k.ops.batched_nms.__name__, yolov9k.engine.TrainStep.__name__)") == (
        "batched_nms TrainStep"
    )


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'yolov9k' has no attribute 'create_modle'"):
        _ = yolov9k.create_modle  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["yolov9k.models", "yolov9k.models.yolov9"])
def test_the_networks_earlier_name_goes_on_with_a_word(module: str) -> None:
    with pytest.warns(FutureWarning, match=rf"{module}\.YOLOv9 is called DetectionModel now; yolov9k\.YOLOv9 is the object"):
        assert importlib.import_module(module).YOLOv9 is yolov9k.DetectionModel
