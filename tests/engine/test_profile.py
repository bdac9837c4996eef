"""The profile of a training step: parts that add up, files that open, counted roofline bounds, wrong wishes refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.autograd import DeviceType

from tests.engine_cases import TINY
from yolov9k import create_model
from yolov9k.common.errors import UserError
from yolov9k.config import ProfileOptions
from yolov9k.data.synthetic import generate
from yolov9k.engine.profile import roofline
from yolov9k.engine.profile.profiler import ASSIGNER, PARTS, Report, _parts, run_profile
from yolov9k.engine.profile.roofline import RooflineBounds
from yolov9k.models.analysis.step_cost import step_cost

pytestmark = pytest.mark.tools

CPU = torch.device("cpu")


@pytest.fixture
def cfg(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def measured(cfg: str, project: Path, console: Console | None = None, **changes: Any) -> Report:
    options = {"batch": 2, "img": 64, "nc": 2, "device": "cpu", "steps": 2, "project": str(project), **changes}
    return run_profile(ProfileOptions(cfg, **options), console or Console(quiet=True))


def test_parts_add_up_and_files_open(cfg: str, tmp_path: Path) -> None:
    console = Console(record=True, width=120, quiet=False, file=(tmp_path / "out.txt").open("w"))
    report = measured(cfg, tmp_path / "runs", console)
    run = tmp_path / "runs" / "exp"
    assert set(report.parts) == {*PARTS, "idle"}
    assert min(report.parts.values()) >= 0
    assert all(report.parts[part] > 0 for part in PARTS)
    assert sum(report.stages.values()) <= report.parts["forward"]
    assert {"backbone 2", "backbone 32", "head"} <= set(report.stages)
    assert (report.data, report.mode, report.synchronizations) == (None, "eager", 0)
    assert report.launches > 100
    assert json.loads((run / "profile.json").read_text())["parts"] == report.parts
    names = {event.get("name") for event in json.loads((run / "trace.json").read_text())["traceEvents"]}
    assert {f"step/{part}" for part in PARTS} <= names
    with Image.open(run / "profile.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
    text = console.export_text()
    assert all(word in text for word in (*PARTS, "idle", "backbone 8", "bound, ms", "images/s", "peak memory", str(run)))


def test_the_assigners_kernels_are_not_the_losses() -> None:
    """The profiler puts what an operator launches down to it, whatever label is within it."""

    def event(name: str, kind: DeviceType, time: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, device_type=kind, device_time_total=time, cpu_time_total=0.0)

    names = re.findall(r"__global__ void (\w+)", (Path(__file__).parents[2] / "csrc" / "task_aligned_assign.cuh").read_text())
    assert set(names) == set(ASSIGNER)
    labels = [event("step/loss", DeviceType.CPU, 900.0), event("step/assignment", DeviceType.CPU, 10.0)]
    kernels = [event(f"void {name}(in, out)", DeviceType.CUDA, 100.0) for name in names]
    others = [event("_loss", DeviceType.CUDA, 600.0), event("gemm", DeviceType.CUDA, 1000.0)]
    parts, _ = _parts([*labels, *kernels, *others], True, 2)
    assert (parts["assignment"], parts["loss"], parts["backward"]) == pytest.approx((0.15, 0.3, 0.5))


def test_a_data_sets_loader_is_measured(cfg: str, tmp_path: Path) -> None:
    data = generate(tmp_path / "data", train=4, val=2, size=64)
    report = measured(cfg, tmp_path / "runs", data=str(data), workers=0)
    assert report.data is not None
    assert report.data > 0


def test_roofline_bounds_are_the_counts_over_the_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SIDE", 64)  # the rates are not looked at, and bfloat16 is slow on a CPU
    model = create_model("yolov9-t", 80)
    bounds = RooflineBounds(model, 2, 64, CPU, torch.bfloat16)
    bounds.rates = {"copy": 1e12, "matrix": 1e30}
    costs = step_cost(model, 2, 64, "reference")
    times = bounds.times()
    for part in ("forward", "backward"):
        assert times[part] == pytest.approx(1000 * sum(costs[part].bytes.values()) / 1e12)
    assert bounds.network_bytes == sum(sum(cost.bytes.values()) for cost in costs.values())
    anchors = 2 * 2 * (8 * 8 + 4 * 4 + 2 * 2)  # images, branches
    assert times["loss"] == pytest.approx(1000 * 2 * anchors * 144 * 2 / 1e12)
    bounds.rates = {"copy": 1e30, "matrix": 1e12}
    flops = 16.3e9 * 2 * (64 / 640) ** 2  # FLOPs of the forward pass at 640 pixels, scaled to 64
    assert bounds.times()["forward"] == pytest.approx(1000 * flops / 1e12, rel=0.005)
    assert bounds.times()["backward"] == pytest.approx(2 * bounds.times()["forward"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "--batch 0: expected at least 1"),
        ({"steps": 0}, "--steps 0: expected at least 1"),
        ({"nc": 0}, "--nc 0: expected at least 1"),
        ({"mode": "fast"}, "--mode fast: expected one of"),
        ({"device": "cuda:9"}, "--device cuda:9"),
        ({"data": "nowhere.yaml"}, "nowhere.yaml"),
        ({"amp": "fp8"}, "--amp fp8: expected"),
    ],
)
def test_wrong_wishes_are_one_line(cfg: str, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        measured(cfg, tmp_path / "runs", **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_batch_beyond_the_data_is_refused(cfg: str, tmp_path: Path) -> None:
    data = generate(tmp_path / "data", train=2, val=2, size=64)
    with pytest.raises(UserError, match=r"--batch 4: .* has only 2 training images"):
        measured(cfg, tmp_path / "runs", data=str(data), batch=4, workers=0)
