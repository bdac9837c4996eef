"""Which backend runs an operator, what is said of one that is not there, and what `yolov9k info` prints of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from yolov9k import native
from yolov9k.cli import main
from yolov9k.ops import available, operators
from yolov9k.ops.backends import BACKENDS, choose
from yolov9k.ops.registry import BACKENDS_OF

CPU = torch.device("cpu")


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout whose compiled module was never built."""
    monkeypatch.setattr(native.module, "_load", lambda: (None, "yolov9k._native is not built"))


def test_every_operator_is_listed_with_its_reference_first() -> None:
    for operator in operators():
        assert available(operator)[0] == "reference"
        assert set(available(operator)) <= set(BACKENDS)


def test_auto_takes_the_devices_own_where_it_is_there() -> None:
    for operator in operators():
        wanted = "cpu" if "cpu" in available(operator) else "reference"
        assert choose(operator, "auto", CPU) == wanted
        assert choose(operator, "auto", CPU, float64=True) == "reference"
        assert choose(operator, "auto", torch.device("meta")) == "reference"
        assert choose(operator, "reference", CPU) == "reference"


@pytest.mark.skipif(not native.available(), reason=native.why_missing() or "built")
@pytest.mark.parametrize("operator", [name for name in operators() if "cpu" in BACKENDS_OF[name]])
def test_a_backend_refuses_what_it_cannot_compute(operator: str) -> None:
    message = f"{operator}: backend 'cpu' takes float32, bfloat16 or float16 tensors on cpu, got"
    with pytest.raises(ValueError, match=f"{message} float64 on cpu"):
        choose(operator, "cpu", CPU, float64=True)
    with pytest.raises(ValueError, match=f"{message} tensors on meta"):
        choose(operator, "cpu", torch.device("meta"))


def _info(capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        main(["info"])
    assert not ended.value.code
    return capsys.readouterr().out.splitlines()


def test_info_prints_the_backends_of_each_operator(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _info(capsys)
    for operator in operators():
        assert f"{operator}: {', '.join(available(operator))}" in lines


@pytest.mark.usefixtures("unbuilt")
def test_info_of_a_machine_without_the_module_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _info(capsys)
    assert "native code, cpu: yolov9k._native is not built" in lines
    assert "batched_nms: reference" in lines


@pytest.mark.long
def test_every_kernel_can_be_turned_off() -> None:
    """Asked once a process by torch.compile, so in processes of their own."""
    code = "import torch; from yolov9k.ops.backends import choose; print(choose('batched_nms', 'auto', torch.device('cpu')))"
    for wish, chosen in (("reference", "reference"), ("auto", "cpu")):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "YOLOV9K_BACKEND": wish}, capture_output=True, text=True
        )
        assert done.stdout.strip() == chosen, done.stderr
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "YOLOV9K_BACKEND": "cpu"}, capture_output=True, text=True
    )
    assert "YOLOV9K_BACKEND must be auto or reference, got 'cpu'" in done.stderr
