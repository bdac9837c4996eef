"""Where a training step's time goes, beside the least that the device could take for it."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from yolov9k.common.console import PlainConsole, literal
from yolov9k.common.device import choose_amp, device_name, is_cuda, peak_allocated, pick_device, synchronize
from yolov9k.common.errors import UserError
from yolov9k.common.figures import drawing
from yolov9k.compat import SUFFIXES, fresh, read
from yolov9k.config.command_options import ProfileOptions
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.config import load_split
from yolov9k.data.letterbox import rounded_size
from yolov9k.data.loader import make_loader
from yolov9k.engine.profile.plots import plot_profile
from yolov9k.engine.profile.roofline import RooflineBounds
from yolov9k.engine.train.check_options import refuse_single_values
from yolov9k.engine.train.cuda_graphs import WARM_UP
from yolov9k.engine.train.memory import memory_gb
from yolov9k.engine.train.prefetch import prefetch
from yolov9k.engine.train.run_dir import make_run_directory
from yolov9k.engine.train.setup import make_criterion
from yolov9k.engine.train.step import TrainStep
from yolov9k.engine.train.synthetic_batch import synthetic_batch
from yolov9k.models import DetectionModel, create_model

ASSIGNER = ("claim_anchors", "resolve_claims", "weigh_anchors")  # csrc/task_aligned_assign.cuh
PARTS = ("input", "forward", "assignment", "loss", "backward", "optimizer")
# What makes the host wait for a GPU, by the names in a trace; on a CPU, what would.
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero")
Case = tuple[Tensor, Tensor, Tensor]


@dataclass
class Report:
    """Milliseconds a step, each the mean over `steps` steps but `step`, the median of steps that nobody looked at.

    parts: of the eager step, on a GPU the time that kernels ran. "idle" is what is left of a step. bounds: the least time
    of a part where it is counted. launches: CUDA kernels, on a CPU calls of operators. bytes: moved by the network.
    """

    model: str
    device: str
    amp: str
    mode: str
    batch: int
    img: int
    steps: int
    step: float
    eager_step: float
    data: float | None
    parts: dict[str, float]
    stages: dict[str, float]
    bounds: dict[str, float]
    launches: int
    synchronizations: int
    bytes: int
    peak_memory: int
    rates: dict[str, float] = field(default_factory=dict)


def run_profile(options: ProfileOptions, console: Console | None = None) -> Report:
    """Profile training of `options.cfg` and print the report; leaves profile.json, profile.png and trace.json (Chrome's).

    options.data: images come from a data set's loader, and waiting for them is measured; None: random ones, already there.
    Raises UserError for what a user can mend.
    """
    options.check()
    batch, mode, steps, data, cfg = options.batch, options.mode, options.steps, options.data, options.cfg
    img = rounded_size(options.img, "--img")
    chosen = pick_device(options.device)
    precision = choose_amp(options.amp, chosen)
    source, classes = _source(options, img, chosen)
    step = _make_step(cfg, classes, mode, precision, chosen)
    refuse_single_values(batch, img, step.model.stride)
    directory = make_run_directory(options.project, options.name)
    given = _Timed(source(step))
    whole = _median(step, given, steps)
    waited = given.seconds / given.count if data else None
    eager = step if step.mode == "eager" else _make_step(cfg, classes, "eager", precision, chosen)
    plain = whole if eager is step else _median(eager, given, steps)
    cases = list(itertools.islice(given, steps))
    trace = _traced(eager, cases, directory / "trace.json")
    parts, stages = _parts(trace, is_cuda(chosen), steps)
    parts["idle"] = max(plain - sum(parts.values()), 0.0)
    bounds = RooflineBounds(eager.model, batch, cases[0][0].shape[-1], chosen, step.dtype)
    report = Report(
        model=step.model.spec.name, device=device_name(chosen), amp=precision, mode=step.mode, batch=batch, img=img,
        steps=steps, step=whole, eager_step=plain, data=None if waited is None else 1000 * waited, parts=parts, stages=stages,
        bounds=bounds.times(), launches=_launches(trace, chosen, steps), synchronizations=_waits(trace, chosen, steps),
        bytes=bounds.network_bytes, peak_memory=_peak(chosen), rates=bounds.rates,
    )  # fmt: skip
    (directory / "profile.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    with drawing():
        plot_profile(report.parts, report.stages, report.bounds, _title(report), directory / "profile.png")
    console = console or PlainConsole()
    _print(report, console)
    console.print(literal(f"run: {directory}"))
    return report


def _source(options: ProfileOptions, img: int, device: torch.device) -> tuple[Callable[[TrainStep], Iterator[Case]], int]:
    """What makes an endless row of batches on the device, and how many classes they have."""
    data, batch, nc, workers = options.data, options.batch, options.nc, options.workers
    if data is None:
        return lambda step: itertools.repeat(synthetic_batch(batch, img, nc, device, task=step.task)), nc
    split = load_split(data, "train", difficult=options.difficult, keep_empty_classes=options.keep_empty_classes)
    on = device if is_cuda(device) else "worker"
    loader = make_loader(split, TrainRecipe(), img_size=img, batch=batch, augment=True, workers=workers, augment_on=on)
    if len(split.records) < batch:
        raise UserError(f"--batch {batch}: {data} has only {len(split.records)} training images")

    def endless(step: TrainStep) -> Iterator[Case]:
        for epoch in itertools.count():
            loader.set_epoch(epoch)
            for moved in prefetch(loader, device, step.dtype):
                if len(moved) == batch:  # an epoch's last may be smaller
                    yield moved.images, *step.task.targets(moved)

    return endless, len(split.names)


def _network(cfg: str, classes: int) -> DetectionModel:
    """A named network or that of a checkpoint, with fresh weights: what it costs does not depend on them."""
    if Path(cfg).suffix.lower() not in SUFFIXES:
        return create_model(cfg, classes)
    return fresh(read(cfg), cfg, [str(number) for number in range(classes)])


def _make_step(cfg: str, classes: int, mode: str, amp: str, device: torch.device) -> TrainStep:
    torch.manual_seed(0)
    model = _network(cfg, classes).to(device).train()
    return TrainStep(model, make_criterion(model, TrainRecipe()), TrainRecipe(), mode, amp=amp)


class _Timed:
    """Batches one after another, and the seconds that were spent waiting for them."""

    def __init__(self, cases: Iterator[Case]) -> None:
        self._cases, self.seconds, self.count = cases, 0.0, 0

    def __iter__(self) -> Iterator[Case]:
        return self

    def __next__(self) -> Case:
        start = time.perf_counter()
        case = next(self._cases)
        self.seconds, self.count = self.seconds + time.perf_counter() - start, self.count + 1
        return case


def _median(step: TrainStep, cases: _Timed, steps: int) -> float:
    """Milliseconds of a step without its batch, after warming up: kernels chosen and compiled, the step recorded."""
    for case in itertools.islice(cases, WARM_UP + 1):
        step(*case)
    cases.seconds, cases.count, times = 0.0, 0, []
    for case in itertools.islice(cases, steps):
        synchronize(step.device)
        start = time.perf_counter()
        step(*case)
        synchronize(step.device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _traced(step: TrainStep, cases: Iterable[Case], path: Path) -> Any:
    """The profiler's events of the steps; the trace is written for Chrome's viewer."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda(step.device) else [])]
    with profile(activities=activities) as profiler:
        for case in cases:
            step(*case)
        synchronize(step.device)
    with tempfile.TemporaryDirectory() as folder:  # torch knows no names but in UTF-8
        profiler.export_chrome_trace(f"{folder}/{path.name}")
        shutil.move(f"{folder}/{path.name}", path)
    return profiler.events()


def _parts(events: Any, cuda: bool, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds a step of the parts, each once, and of the stages of the forward.

    A label's time is its own thread's. On a GPU the backward is launched by another one: it is what the others leave of the
    time that kernels ran.
    """
    found: dict[str, float] = defaultdict(float)
    for event in events:
        if event.name.startswith("step/") and event.device_type == DeviceType.CPU:
            found[event.name] += (event.device_time_total if cuda else event.cpu_time_total) / 1000 / steps
    parts = {part: found[f"step/{part}"] for part in PARTS}
    if cuda:  # launched within the loss's operator, the assigner's kernels are put down to that one, not to their label
        assigner = [e for e in _kernels(events) if any(name in e.name for name in ASSIGNER)]
        parts["assignment"] = max(parts["assignment"], sum(e.device_time_total for e in assigner) / 1000 / steps)
    parts["loss"] = max(parts["loss"] - parts["assignment"], 0.0)
    if cuda:
        busy = sum(e.device_time_total for e in _kernels(events)) / 1000 / steps
        parts["backward"] = max(busy - sum(value for part, value in parts.items() if part != "backward"), 0.0)
    prefix = "step/forward/"
    stages: dict[str, float] = {}
    for name, value in found.items():
        if name.startswith(prefix):
            stages[name.removeprefix(prefix)] = value
    return parts, stages


def _kernels(events: Any) -> list[Any]:
    return [e for e in events if e.device_type == DeviceType.CUDA and not e.name.startswith(("step/", "Memcpy", "Memset"))]


def _launches(events: Any, device: torch.device, steps: int) -> int:
    if is_cuda(device):
        return round(len(_kernels(events)) / steps)
    outer = [e for e in events if "::" in e.name and (e.cpu_parent is None or "::" not in e.cpu_parent.name)]
    return round(len(outer) / steps)


def _waits(events: Any, device: torch.device, steps: int) -> int:
    """On a GPU without the one wait at the end of all steps."""
    names = _WAITS if is_cuda(device) else _READS
    found = sum(event.name in names for event in events)
    return max(found - is_cuda(device), 0) // steps


def _peak(device: torch.device) -> int:
    peak = peak_allocated(device)
    return round(memory_gb(device) * 1e9) if peak is None else peak


def _title(report: Report) -> str:
    return f"{report.model}, batch {report.batch}, {report.img} px, amp {report.amp}, {report.device}"


def _print(report: Report, console: Console) -> None:
    cuda = not report.device.startswith("cpu")
    table = Table(title=literal(f"a training step: {_title(report)}"))
    for column in ("part", "ms", "share", "bound, ms"):
        table.add_column(column, justify="left" if column == "part" else "right")
    if report.data is not None:
        table.add_row("waiting for data", f"{report.data:.2f}", "", "", end_section=True)
    whole = sum(report.parts.values()) or 1.0  # timed with the profiler running: they take longer than the step below
    for part, value in report.parts.items():
        table.add_row(part, f"{value:.2f}", f"{value / whole:.1%}", _bound(report.bounds.get(part)))
        for stage, time_ in report.stages.items() if part == "forward" else ():
            table.add_row(f"  {stage}", f"{time_:.2f}", f"{time_ / whole:.1%}", "")
    table.add_section()
    table.add_row("step, eager, not profiled", f"{report.eager_step:.2f}", "", _bound(sum(report.bounds.values())))
    if report.mode != "eager":
        table.add_row(f"step, {report.mode}", f"{report.step:.2f}", "", "")
    console.print(table)
    kind = "kernels launched" if cuda else "operators called"
    waits = "synchronizations" if cuda else "reads on the host that would wait for a GPU"
    rates = f"{report.rates['copy'] / 1e9:.0f} GB/s copied, {report.rates['matrix'] / 1e12:.2f} TFLOP/s multiplied"
    speed = 1000 * report.batch / report.step
    console.print(
        f"{speed:.1f} images/s; {report.launches} {kind}, {report.synchronizations} {waits} a step; "
        f"{report.bytes / 1e9:.2f} GB moved by the network as counted; peak memory {report.peak_memory / 1e9:.2f} GB"
    )
    console.print(f"bounds are counted bytes and FLOPs at rates measured here: {rates}")


def _bound(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
