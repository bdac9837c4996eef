"""The roofline: what it counts is what the step costs, what it times is what runs, and the report says both."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import roofline
from bench.kernels import bench_task_aligned_assign as bench_assigner
from bench.kernels.bench_conv_bn_silu import _torchs
from bench.roofline import Clock, Launches, Row, Table
from bench.roofline_report import markdown
from yolov9k.models import create_model
from yolov9k.models.analysis.step_cost import step_cost
from yolov9k.models.block import Block
from yolov9k.models.blocks import SPPELAN, ADown, RepNCSPELAN4
from yolov9k.ops.plan.launches import Kernels
from yolov9k.ops.plan.planned import launching

META = torch.device("meta")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sums(rows: list[Row]) -> tuple[int, int, int]:
    launches, moved, flops = (sum(row.calls * getattr(row, key) for row in rows) for key in ("launches", "bytes", "flops"))
    return launches, moved, flops


@pytest.mark.parametrize("name", ["yolov9-t", "gelan-s"])
def test_a_steps_rows_are_all_that_it_costs(name: str) -> None:
    rows = roofline.network(name, 2, 64, Clock(META, 60))
    launches, moved, flops = sums(rows)
    costs = step_cost(create_model(name, 80), 2, 64).values()
    assert launches == sum(sum(cost.launches.values()) for cost in costs)
    assert moved == sum(sum(cost.bytes.values()) for cost in costs)
    twin = _torchs(create_model(name, 80)).to("meta").train()  # whose convolutions are torch's own
    with FlopCounterMode(display=False) as counter:  # forward alone: it counts gradients of groups too often
        twin.branches(torch.zeros(2, 3, 64, 64, device="meta"))
    stems = sum(row.calls * row.flops for row in rows if row.kernel == "convolve" and row.shapes.startswith("2x3x64x64,"))
    assert stems > 0
    assert flops == 3 * counter.get_total_flops() - stems  # images need no gradient
    assert all(row.seconds is None and row.why == "counted on shapes alone" for row in rows)
    assert 20 < len(rows) < sum(row.calls for row in rows) / 3  # same shapes share a row


def run(block: Block, x: torch.Tensor, kernels: Any) -> list[torch.Tensor]:
    """Output and gradients; running statistics are moved once more each time that their kernel is timed."""
    block = copy.deepcopy(block)
    x = x.clone().requires_grad_()
    with launching(kernels), torch.autograd.set_multithreading_enabled(False):
        y = block(x)
        y.backward(torch.ones_like(y))
    return [y, x.grad, *(p.grad for p in block.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("kind", "arguments", "wanted"),
    [
        (RepNCSPELAN4, (8, 16, 16, 8, 1), {"statistics", "convolve", "conv1x1_weight_gradient", "convolve_backward"}),
        (ADown, (8, 8), {"statistics", "convolve", "avg_pool", "max_pool_backward"}),
        (SPPELAN, (8, 8, 4), {"max_pool", "conv1x1_input_gradient"}),
    ],
)
def test_every_launch_is_timed_where_it_is_made_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: type[Block], arguments: tuple[int, ...], wanted: set[str]
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(roofline, "WARM_UP", 1)
    torch.manual_seed(0)
    block = kind(*arguments).to(DEVICE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in block.modules():
        if isinstance(module, Block):
            module.backend = "triton"
    x = torch.randn(1, 8, 4, 4, device=DEVICE)
    clock = Clock(DEVICE, math.inf)
    clock.copy, clock.matrix, clock.launch = math.inf, math.inf, 0.0  # so that every launch falls short and is explained
    table = Table("block", clock)
    timed, plain = run(block, x, Launches(Kernels(), table)), run(block, x, Kernels())
    for found, expected in zip(timed, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    rows = list(table.rows.values())
    assert all(row.seconds is not None and row.seconds > 0 for row in rows)
    assert {row.kernel for row in rows} >= wanted | {"merge", "normalize", "reduce", "spread", "conv1x1"}
    for row in rows:
        assert row.without.keys() <= roofline.WITHOUT.get(row.kernel, {}).keys()
        if row.kernel == "conv1x1":
            assert "statistics" in row.without


def test_operators_are_set_up_by_their_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(measure: Callable[..., None], device: str) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(roofline, "WARM_UP", 1)
    small = functools.partial(bench_assigner.bench_assigner, backend="reference", images=1, boxes=0)
    chosen = {"assigner": small, "broken": broken, "dfl_decode": roofline.OPERATORS["dfl_decode"]}
    assigner, failed, decode = roofline.operators(Clock(torch.device("cpu"), math.inf), chosen)
    assert assigner.seconds is not None
    assert (assigner.bytes, assigner.why) == (bench_assigner.least_bytes(1, 0), "")
    assert (failed.seconds, failed.why) == (None, "RuntimeError: out of order")
    if DEVICE.type == "cpu":
        assert (decode.seconds, decode.why) == (None, "Triton's kernels run on a GPU; its interpreter is not worth timing")


@pytest.mark.skipif(DEVICE.type != "cuda", reason="torch sees no CUDA device")
def test_on_a_gpu_everything_is_timed() -> None:
    rows = roofline.operators(clock := Clock(DEVICE, math.inf)) + roofline.network("yolov9-t", 2, 64, clock)
    assert [(row.kernel, row.shapes, row.why) for row in rows if row.seconds is None] == []
    assert len(rows) > 100


def test_when_the_time_is_up_the_rest_is_counted() -> None:
    clock = Clock(torch.device("cpu"), 0)
    row = Row("", "x", "", 1, 8)
    roofline.timed(row, clock, lambda: None)
    assert (row.seconds, row.why) == (None, "the time was up")


@pytest.fixture
def clock() -> Clock:
    """Copies 1 TB/s, multiplies 100 TFLOP/s, launches in 2 us."""
    made = Clock(META, math.inf)
    made.copy, made.matrix, made.launch = 1e12, 1e14, 2e-6
    return made


ROWS = [
    Row("net", "normalize", "4x8", 1, 80_000_000, 0, 3, 1e-4),  # 80 of 100 us, under its 85 %
    Row("net", "spread", "4x8", 1, 90_000_000, 0, 1, 1e-4, without={"activation": 7e-5}),  # 90 %
    Row("net", "conv1x1", "2x2", 1, 1_000_000, 8_000_000_000, 1, 1e-4),  # 80 us of products, its own 80 % are reached
    Row("net", "merge", "2x1", 1, 1_000, 0, 5, 1e-5),  # 1 ns: a launch takes longer
    Row("net", "merge", "2x9", 1, 1_000, 0, 2, None, "the time was up"),
]


def test_verdicts_are_those_of_the_ceilings(clock: Clock) -> None:
    rows = roofline.record(ROWS, clock, 16, 640)["rows"]
    assert [row.get("bound") for row in rows] == ["memory", "memory", "compute", "launch", None]
    assert [row.get("short") for row in rows] == [True, False, False, False, None]
    assert [row.get("share") for row in rows[:3]] == [0.8, 0.9, 0.8]
    assert rows[0]["target"] == 0.85
    assert rows[4]["least"] == 1e-9


def test_the_report_can_be_read(clock: Clock) -> None:
    text = markdown(roofline.record(ROWS, clock, 16, 640))
    assert "copy 1.00 TB/s, matrices 100 TFLOP/s, a launch 2.0 us" in text
    assert "| normalize | 3 | 0.240 | 0.000 | 0.240 | 0.300 | 80% | 1 of 1 |" in text
    assert "| merge | 7 | 0.000 | 0.000 | 0.000 | 0.050 (1 not timed) | 0% | 0 of 1 |" in text
    assert "| all | 12 | 0.331 | 0.008 | 0.410 | 0.550 (1 not timed) | 75% | 1 of 4 |" in text
    first, second, *_, last = [line for line in text.splitlines() if " us " not in line and line.count("|") == 11][1:]
    assert first == "| normalize | 4x8 | 3 | 80.0 | 0.00 | 80.0 | 100.0 | 80% | memory |  |"
    assert second == "| merge | 2x1 | 5 | 0.0 | 0.00 | 0.0 | 10.0 | 0% | launch |  |"
    assert last == "| merge | 2x9 | 2 | 0.0 | 0.00 | 0.0 |  |  | the time was up |  |"
    assert "| spread | 4x8 | 1 | 90.0 | 0.00 | 90.0 | 100.0 | 90% | memory | activation 70.0 |" in text


def test_the_command_counts_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--models", "gelan-s", "--batch", "1", "--img", "64", "--out", str(tmp_path)]
    assert roofline.main(["--device", "meta", *sizes]) == 0
    made = json.loads((tmp_path / "roofline.json").read_text())
    assert (made["device"], made["batch"], made["img"]) == ("meta", 1, 64)
    assert {row["model"] for row in made["rows"]} == {"gelan-s"}
    assert f"report: {tmp_path / 'roofline.md'}" in capsys.readouterr().out
    assert "an H100's, not measured here" in (tmp_path / "roofline.md").read_text()
    if DEVICE.type == "cpu":
        assert roofline.main(sizes) == 2
        assert "torch sees no CUDA device; --device meta counts without one" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("--models", "yolov9-z"), ("--batch", "0"), ("--img", "100"), ("--img", "no")])
def test_a_wrong_flag_is_named(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        roofline.main(["--device", "meta", flag, value])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert flag in error
    assert value in error
