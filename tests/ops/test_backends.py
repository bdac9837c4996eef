"""Which backend runs an operator, what is said of one that is not there, and what `yolov9k info` prints of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolov9k import native
from yolov9k.cli import main
from yolov9k.ops import (
    augment,
    augment_boxes,
    available,
    batched_nms,
    conv_bn_silu,
    conv_silu,
    detection_loss,
    dfl_candidates,
    dfl_decode,
    operators,
    sgd_ema,
    task_aligned_assign,
)
from yolov9k.ops.backends import BACKENDS, choose

CPU = torch.device("cpu")
MAPS = [torch.zeros(1, 66, 2, 2)]
NATIVE = {  # operators that csrc/ computes, and where
    "task_aligned_assign": ("cpu", "cuda"), "batched_nms": ("cpu", "cuda"), "augment": ("cpu",), "augment_boxes": ("cpu",),
}  # fmt: skip


def _convolve(backend: str) -> Tensor:
    return conv_bn_silu(torch.zeros(2, 3, 4, 4), nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), backend=backend)


def _convolve_fused(backend: str) -> Tensor:
    return conv_silu(torch.zeros(2, 3, 4, 4), torch.zeros(4, 3, 3, 3), torch.ones(4), 1, 1, backend=backend)


def _decode(backend: str) -> Tensor:
    return dfl_decode(MAPS, [8], backend=backend)


def _choose(backend: str) -> Tensor:
    return dfl_candidates(MAPS, [8], backend=backend).prediction


def _lose(backend: str) -> Tensor:
    return detection_loss(MAPS, torch.zeros(1, 1), torch.ones(1, 1, 4), torch.zeros(1), [8], backend=backend)


def _assign(backend: str) -> Tensor:
    boxes = torch.tensor([[[0.0, 0.0, 9.0, 9.0]]])
    one = torch.ones(1, 1)
    return task_aligned_assign(one[..., None], boxes, torch.ones(1, 2), one * 0, boxes, one, backend=backend).weight


def _suppress(backend: str) -> Tensor:
    return batched_nms(torch.zeros(1, 6, 3), 0.1, 0.5, backend=backend).detections


def _optimize(backend: str) -> Tensor:
    values, grads, momentum, ema = torch.ones(4, 3)
    sgd_ema(values, grads, momentum, ema, None, torch.ones(14), [1, 2, 3], torch.ones(5), backend=backend)
    return values


_STILL = torch.eye(3).expand(1, 2, 3, 3)


def _augment(backend: str) -> Tensor:
    pixels, layers = torch.full((12,), 200, dtype=torch.uint8), torch.tensor([[0, 2, 2, 0, 0, -1, 6, 0]])
    spans, ones = torch.tensor([[[0, 1], [0, 0]]]), torch.ones(1, 3)
    return augment(pixels, layers, spans, _STILL, ones[:, 0], ones * 0.9, (3, 3), backend=backend)


def _augment_boxes(backend: str) -> Tensor:
    points, spans = torch.tensor([[1.0, 1.0], [9.0, 1.0], [9.0, 20.0]]), torch.tensor([[[0, 1], [0, 0]]])
    one = torch.ones(1)
    return augment_boxes(points, torch.tensor([3]), one.long(), one * 0.1, spans, _STILL, (8, 8), 2, backend=backend).boxes


CALLS: dict[str, Callable[[str], Tensor]] = {
    "conv_bn_silu": _convolve, "conv_silu": _convolve_fused, "dfl_decode": _decode,
    "dfl_candidates": _choose, "detection_loss": _lose,
    "task_aligned_assign": _assign, "batched_nms": _suppress, "sgd_ema": _optimize,
    "augment": _augment, "augment_boxes": _augment_boxes,
}  # fmt: skip


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout whose compiled module was never built."""
    monkeypatch.setattr(native, "_load", lambda: (None, "yolov9k._native is not built"))


def test_every_operator_is_listed_with_its_reference_first() -> None:
    assert set(operators()) == set(CALLS)
    for operator in operators():
        assert available(operator)[0] == "reference"
        assert set(available(operator)) <= set(BACKENDS)


@pytest.mark.parametrize("operator", CALLS)
def test_an_unknown_backend_is_refused_with_the_names_there_are(operator: str) -> None:
    with pytest.raises(ValueError, match=f"{operator}: backend must be one of auto, reference, cpu, cuda, triton; got 'tpu'"):
        CALLS[operator]("tpu")


@pytest.mark.parametrize("operator", CALLS)
def test_a_backend_that_is_not_written_is_refused_with_what_is(operator: str) -> None:
    for backend in {"cpu", "cuda", "triton"} - set(available(operator)):
        with pytest.raises(
            RuntimeError, match=f"{operator}: backend '{backend}' is not (implemented; available: refer|here: )"
        ):
            CALLS[operator](backend)


@pytest.mark.parametrize("operator", CALLS)
def test_every_backend_of_this_machines_processor_runs_and_agrees_on_trivial_input(operator: str) -> None:
    elsewhere = ("cuda", "triton") if torch.cuda.is_available() else ("cuda",)  # Triton is interpreted where no GPU is
    results = [CALLS[operator](backend) for backend in ("auto", *available(operator)) if backend not in elsewhere]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_auto_takes_the_devices_own_where_it_is_there() -> None:
    for operator in operators():
        wanted = "cpu" if "cpu" in available(operator) else "reference"
        assert choose(operator, "auto", CPU) == wanted
        assert choose(operator, "auto", CPU, float64=True) == "reference"
        assert choose(operator, "auto", torch.device("meta")) == "reference"
        assert choose(operator, "reference", CPU) == "reference"


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize("operator", NATIVE)
def test_without_the_compiled_module_the_reference_runs_and_the_others_say_why_not(operator: str) -> None:
    assert not set(available(operator)) & {"cpu", "cuda"}
    assert choose(operator, "auto", CPU) == "reference"
    for backend in NATIVE[operator]:
        with pytest.raises(RuntimeError, match=f"{operator}: backend '{backend}' is not here: yolov9k._native is not built"):
            CALLS[operator](backend)


@pytest.mark.skipif(not native.available(), reason=native.why_missing() or "built")
@pytest.mark.parametrize("operator", NATIVE)
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
