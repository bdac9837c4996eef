"""Every kernel of a training step beside the roofline: python -m bench.roofline, `make roofline`.

A step of each model runs once with the launches of its planned blocks, and torch's own operators, in hand: each is counted
(bytes, FLOPs), and each shape's first is timed on the very tensors that it was given, as a replayed CUDA graph with a cold
L2. What stays below its target is timed again with stages left out. Writes roofline.json and roofline.md.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from bench import gpu_check
from bench.kernels import bench_augment, bench_augment_boxes, bench_dfl_candidates
from bench.kernels import bench_batched_nms as bench_nms
from bench.kernels import bench_detection_loss as bench_loss
from bench.kernels import bench_dfl_decode as bench_dfl
from bench.kernels import bench_sgd_ema as bench_optimizer
from bench.kernels import bench_task_aligned_assign as bench_assigner
from bench.roofline_report import markdown
from yolov9k.engine.profile.roofline import copy_rate, matrix_rate
from yolov9k.models import DetectionModel, create_model
from yolov9k.models.analysis.step_cost import Count, maps_of
from yolov9k.models.tables import NAMES
from yolov9k.ops.plan.launches import CountingKernels, Kernels
from yolov9k.ops.plan.planned import launching

REPEATS, WARM_UP = 20, 3
FLUSH = {"cuda": 2**28, "cpu": 2**22}  # bytes: more than the cache holds
H100 = (3.0e12, 790e12)  # bytes and FLOPs a second, measured: what shapes alone are held to
BELOW = 0.8  # a kernel without a target of its own is looked into below the share that is asked of dfl_decode
# Shares of the ceiling that are asked of kernels.
TARGETS = {
    "statistics": 0.85,
    "normalize": 0.85,
    "bn_silu_backward_reduce": 0.85,
    "bn_silu_backward_apply": 0.85,
    "dfl_decode": 0.8,
    "dfl_decode_backward": 0.8,
}
# Stages of a launch that can be left out: the argument, and its value without it.
WITHOUT: dict[str, dict[str, Any]] = {
    "conv1x1": {"prologue": None, "statistics": False},
    "conv1x1_input_gradient": {"addends": (), "epilogue": None},
    "conv1x1_weight_gradient": {"prologue": None},
    "normalize": {"activation": False, "residual": None},
    "bn_silu_backward_reduce": {"activation": False},
    "bn_silu_backward_apply": {"activation": False, "sums": None},
    "max_pool_backward": {"addend": None},
}
# FLOPs of those launches that multiply matrices, by their result and arguments; the last two are torch's own.
FLOPS: dict[str, Callable[..., int]] = {
    "conv1x1": lambda result, x, weight, out, *_: 2 * out.numel() * weight[0].numel(),
    "conv1x1_input_gradient": lambda result, grad, weight, *_: 2 * grad.numel() * weight[0].numel(),
    "conv1x1_weight_gradient": lambda result, grad, x, *_: 2 * grad.numel() * x.shape[1],
    "convolve": lambda result, x, weight, *_: 2 * result.numel() * weight[0].numel(),
    "convolve_backward": lambda result, grad, x, weight, *rest: 2 * grad.numel() * weight[0].numel() * (1 + rest[-1]),
    "convolution": lambda result, x, weight, *_: 2 * result.numel() * weight[0].numel(),
    "convolution_backward": lambda result, grad, x, weight, *rest: 2 * grad.numel() * weight[0].numel() * sum(rest[-1][:2]),
}
OPERATORS: dict[str, Callable[..., None]] = {
    "detection_loss with gradient": functools.partial(bench_loss.bench_loss, images=16, branches=2, variant="one pass"),
    "task_aligned_assign": functools.partial(bench_assigner.bench_assigner, backend="native", images=16, boxes=20),
    "dfl_decode": functools.partial(bench_dfl.bench_dfl_decode, variant="triton", layout="channels_last", images=16),
    "dfl_decode_backward": functools.partial(bench_dfl.bench_dfl_decode_backward, variant="triton", layout="channels_last"),
    "dfl_candidates": functools.partial(
        bench_dfl_candidates.bench_dfl_candidates, variant="triton", layout="channels_last", images=16
    ),
    "batched_nms": functools.partial(bench_nms.bench_nms, backend="native", kind="validation", images=16),
    "augment": functools.partial(bench_augment.bench_augment, dtype=torch.bfloat16, mixed=False),
    "augment_boxes": bench_augment_boxes.bench_augment_boxes,
    "sgd_ema, yolov9-t": functools.partial(bench_optimizer.bench_optimizer, name="yolov9-t", variant="triton"),
    "sgd_ema, yolov9-c": functools.partial(bench_optimizer.bench_optimizer, name="yolov9-c", variant="triton"),
}


@dataclass
class Row:
    """A kernel at one shape. bytes, flops, launches and seconds are of one call, of which a step has `calls`.

    seconds: None where it was not timed, `why` then says why. without: seconds with a stage left out, by its name.
    """

    model: str
    kernel: str
    shapes: str
    launches: int
    bytes: int
    flops: int = 0
    calls: int = 1
    seconds: float | None = None
    why: str = ""
    without: dict[str, float] = field(default_factory=dict)


class Clock:
    """Seconds of a call on a device, a median; on a GPU of a graph replayed, so that the host is not in it.

    copy, matrix: measured ceilings in bytes and FLOPs a second; launch: seconds of a kernel that does nothing.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.end = device, time.monotonic() + seconds
        (self.copy, self.matrix), self.launch = H100, 0.0
        if device.type == "meta":
            return
        self._flush = torch.empty(FLUSH[device.type], dtype=torch.uint8, device=device)
        self.copy = copy_rate(device)
        self.matrix = matrix_rate(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        self.launch = self.time(torch.zeros(1, device=device).zero_)

    def why_not(self) -> str:
        """Why nothing is timed, empty where it is."""
        if self.device.type == "meta":
            return "counted on shapes alone"
        return "" if time.monotonic() < self.end else "the time was up"

    def time(self, run: Callable[[], object]) -> float:
        """Seconds of one call."""
        return self._replayed(run) if self.device.type == "cuda" else self._called(run)

    def _replayed(self, run: Callable[[], object]) -> float:
        run()  # kernels are compiled and tiles chosen, which a recording would not bear
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        taken = []
        for _ in range(WARM_UP + REPEATS):
            self._flush.zero_()
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end) / 1000)
        return statistics.median(taken[WARM_UP:])

    def _called(self, run: Callable[[], object]) -> float:
        taken = []
        for _ in range(1 + WARM_UP):
            self._flush.zero_()
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[1:])

    def least(self, row: Row) -> float:
        """Seconds that the device needs at least for a call: whichever of its bytes or FLOPs takes longer."""
        return max(row.bytes / self.copy, row.flops / self.matrix)

    def share(self, row: Row) -> float:
        """Of the ceiling that the row reaches, NaN where it was not timed."""
        return self.least(row) / row.seconds if row.seconds else math.nan

    def bound(self, row: Row) -> str:
        """What the row cannot be faster than."""
        if self.least(row) < row.launches * self.launch:
            return "launch"
        return "compute" if row.flops / self.matrix > row.bytes / self.copy else "memory"

    def is_short(self, row: Row) -> bool:
        """Whether the row was timed and stays below its target; one that a launch bounds has none."""
        return self.bound(row) != "launch" and self.share(row) < TARGETS.get(row.kernel, BELOW)


class Table:
    """Rows of one model, by kernel and arguments."""

    def __init__(self, model: str, clock: Clock) -> None:
        self.model, self.clock = model, clock
        self.rows: dict[str, Row] = {}

    def note(self, row: Row, arguments: Any, run: Callable[..., object]) -> None:
        """Count a call; time it where it is the first of its kind. `run` takes an argument's other value by its name."""
        key = f"{row.kernel} {tree_map_only(Tensor, lambda t: (tuple(t.shape), t.dtype), arguments)}"
        if key in self.rows:
            self.rows[key].calls += 1
            return
        self.rows[key] = row
        timed(row, self.clock, run)
        if not row.why and self.clock.is_short(row):
            explain(row, self.clock, run, arguments)


def timed(row: Row, clock: Clock, run: Callable[[], object]) -> None:
    """Fill in a row's seconds, or why there are none."""
    row.why = clock.why_not()
    if not row.why:
        row.seconds = clock.time(run)


def explain(row: Row, clock: Clock, run: Callable[..., object], arguments: dict[str, Any]) -> None:
    """Time the row with each of its stages left out that it has; then once more whole, so that its results stand."""
    for name, value in WITHOUT.get(row.kernel, {}).items():
        given = arguments[name]
        if not (given is None or given is False or (isinstance(given, Sequence) and len(given) == 0)):
            row.without[name] = clock.time(functools.partial(run, **{name: value}))
    run()


class Launches:
    """What a plan's steps call (`yolov9k.ops.plan.launches`), each call noted in a table."""

    def __init__(self, kernels: Kernels, table: Table) -> None:
        self.kernels, self.table = kernels, table

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.kernels, name)
        return functools.partial(self._call, name, method) if callable(method) else method

    def _call(self, name: str, method: Callable[..., Any], *arguments: Any) -> Any:
        result, counted = method(*arguments), CountingKernels()
        shapes = tree_map_only(
            Tensor, lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"), arguments
        )
        getattr(counted, name)(*shapes)
        launches = sum(counted.launches.values())
        if launches:
            flops = FLOPS[name](result, *arguments) if name in FLOPS else 0
            row = Row(self.table.model, name, sizes(arguments), launches, sum(counted.bytes.values()), flops)
            bound = inspect.signature(method).bind(*arguments).arguments
            self.table.note(row, bound, functools.partial(method, **bound))
        return result


class Torchs(Count):
    """Torch's own operators between the planned blocks, noted in a table."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    def note(self, name: str, launches: int, moved: int, again: functools.partial[Any], result: Any) -> None:
        """Note one operator."""
        flops = FLOPS[name](result, *again.args) if name in FLOPS else 0
        row = Row(self.table.model, f"torch {name}", sizes((again.args, again.keywords)), launches, moved, flops)
        self.table.note(row, {"args": again.args, "kwargs": again.keywords}, again)


def sizes(arguments: Any) -> str:
    """Shapes of the maps and weights among arguments, once each."""
    shapes = ["x".join(map(str, tensor.shape)) for tensor in maps_of(arguments)]
    large = [shape for shape in shapes if shape.count("x") >= 2] or shapes
    return ", ".join(dict.fromkeys(large))


def network(name: str, batch: int, img: int, clock: Clock) -> list[Row]:
    """Rows of one model's forward and backward in training, bfloat16."""
    device, table = clock.device, Table(name, clock)
    model = create_model(name, 80, "triton")
    model = model.to(device, torch.bfloat16 if device.type == "meta" else None).to(memory_format=torch.channels_last).train()
    dtype = next(model.parameters()).dtype
    images = torch.rand(batch, 3, img, img, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    if device.type != "meta":
        step(model, images, Kernels())  # tiles and algorithms are chosen, kernels compiled
        model.zero_grad()  # gradients that are there would be added to
    with Torchs(table):
        step(model, images, Launches(CountingKernels() if device.type == "meta" else Kernels(), table))
    return list(table.rows.values())


def step(model: DetectionModel, images: Tensor, kernels: Any) -> None:
    """Forward and backward by `kernels`, in this thread: launches are timed where they are made."""
    amp = torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda)
    with launching(kernels, on_shapes=images.is_meta), torch.autograd.set_multithreading_enabled(False):
        with amp:
            maps = [level for branch in model.branches(images) for level in branch]
        torch.autograd.backward(maps, [torch.empty_like(level) for level in maps])


def operators(clock: Clock, chosen: dict[str, Callable[..., None]] = OPERATORS) -> list[Row]:
    """Rows of the operators beside the network, each set up as its own benchmark does."""
    rows = []
    for name, bench in chosen.items():
        row = Row("", name, "", 1, 0)

        def measure(
            run: Callable[[], object], device: str, moved: int, rounds: int = 0, flops: int = 0, row: Row = row
        ) -> None:
            row.bytes, row.flops = moved, flops
            run()
            timed(row, clock, run)

        try:
            bench(measure=measure, device=clock.device.type)
        except pytest.skip.Exception as reason:
            row.why = str(reason)
        except Exception as error:  # one that fails must not cost the others' record
            row.why = f"{type(error).__name__}: {error}"
        rows.append(row)
    return rows


def record(rows: Sequence[Row], clock: Clock, batch: int, img: int) -> dict[str, Any]:
    """All of it as JSON: seconds, shares and verdicts beside what was counted."""

    def told(row: Row) -> dict[str, Any]:
        counted = asdict(row) | {"least": clock.least(row), "target": TARGETS.get(row.kernel)}
        if row.seconds is None:
            return counted
        return counted | {"bound": clock.bound(row), "share": round(clock.share(row), 4), "short": clock.is_short(row)}

    ceilings = {"copy": clock.copy, "matrix": clock.matrix, "launch": clock.launch}
    about = {"machine": gpu_check.machine(), "commit_info": gpu_check.commit_info(), "device": clock.device.type}
    return {**about, "batch": batch, "img": img, "ceilings": ceilings, "rows": [told(row) for row in rows]}


def multiple_of(step: int) -> Callable[[str], int]:
    """What reads a flag's number."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < step or int(text) % step:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number, {step} or a multiple of it")
        return int(text)

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write both reports, print the way to them."""
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["yolov9-c", "yolov9-t"], choices=NAMES, metavar="NAME")
    parser.add_argument("--device", default="cuda", choices=["cuda", "meta"], help="meta: count on shapes alone, time nothing")
    parser.add_argument("--batch", type=multiple_of(1), default=16)
    parser.add_argument("--img", type=multiple_of(32), default=640)
    parser.add_argument("--seconds", type=float, default=420, help="after which what is left is counted, not timed")
    parser.add_argument("--out", type=Path, default=gpu_check.ROOT / "bench" / "results" / "roofline")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("roofline: torch sees no CUDA device; --device meta counts without one", file=sys.stderr)
        return 2
    clock = Clock(torch.device(given.device), given.seconds)
    rows = [] if given.device == "meta" else operators(clock)
    for name in given.models:
        rows += network(name, given.batch, given.img, clock)
    given.out.mkdir(parents=True, exist_ok=True)
    made = record(rows, clock, given.batch, given.img)
    (given.out / "roofline.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    (given.out / "roofline.md").write_text(markdown(made), encoding="utf-8")
    print(f"report: {given.out / 'roofline.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
