"""Inside a subject's process: one way of timing and counting, whoever's code runs between two ticks."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from yolov9k.engine.train.memory import is_out_of_memory
from yolov9k.engine.train.synthetic_batch import synthetic_batch

CLASSES = 80
CONF, IOU = 0.001, 0.7  # thresholds of every validation
OUT_OF_MEMORY = "out of memory"
TRACED = 5  # steps under the profiler, after those that are timed
WARM_UP = {"cuda": 10, "cpu": 1}  # kernels are chosen and compiled, graphs recorded
# Names in a trace: what makes the host wait, and what it launches; on a CPU what would wait for a GPU.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaLaunchCooperativeKernel")
GRAPHS = ("cudaGraphLaunch",)
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero")
Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What a driver is asked for. `data`: a data.yaml of drawn images; `folder`: where a subject may write."""

    what: str
    model: str
    batch: int
    img: int
    device: str
    repeats: int
    data: str
    folder: str
    workers: int = 8
    options: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None  # torch's, whatever a subject sets itself; None leaves it alone

    @property
    def number(self) -> str:
        """The device as the baselines name it."""
        return self.device.removeprefix("cuda:").replace("cuda", "0")

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


def say(row: Row) -> None:
    """The one line that the parent reads: the last of the output that is JSON."""
    print("\n" + json.dumps(row), flush=True)


def main(drivers: dict[str, Callable[[Task], None]]) -> None:
    """Run the task named on the command line."""
    task = Task(**json.loads(sys.argv[1]))
    sys.argv = sys.argv[:1]  # baselines read it too
    try:
        drivers[task.what](task)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        say({"error": OUT_OF_MEMORY})


def drawn_batch(task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """On the host, page-locked for a GPU: uint8 [B, 3, S, S], boxes [B, 20, 5] (class, cx, cy, w, h), counts [B]."""
    drawn = synthetic_batch(task.batch, task.img, CLASSES, torch.device("cpu"))
    images, boxes, counts = (tensor.pin_memory() for tensor in drawn) if task.cuda else drawn
    return images, boxes, counts


class RepeatedBatch:
    """Stands where a trainer has its loader: gives one batch again and again, and times what is done between two.

    All else that a trainer asks of its loader it gets from `own`, the loader that it made itself. The process ends when
    enough has been seen. first: called before the first batch; extra: what the row says beside the measurement.
    """

    def __init__(
        self,
        task: Task,
        batch: Any,
        own: Any = None,
        first: Callable[[], object] = lambda: None,
        extra: Callable[[], Row] = dict,
    ) -> None:
        self._task, self._batch, self._own, self._first, self._extra = task, batch, own, first, extra

    def __len__(self) -> int:
        return 1000  # an epoch that does not end, and a warm-up in which every batch is an optimizer step

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_own"], name)

    def __iter__(self) -> Iterator[Any]:
        task = self._task
        self._first()
        use_threads(task)
        for _ in range(WARM_UP["cuda" if task.cuda else "cpu"]):
            yield self._batch
        meter = Meter(task)
        for _ in range(task.repeats):
            with meter:
                yield self._batch
        peak = meter.peak_gib
        with tracing(task) as trace:
            for _ in range(TRACED):
                yield self._batch
            wait(task)
        say({**meter.row(task.batch), "peak_gib": peak, **counts(trace.events(), task, TRACED), **self._extra()})
        os._exit(0)  # trainers have no door for leaving early


def use_threads(task: Task) -> None:
    """Some implementations choose a number of their own on a CPU."""
    if task.threads:
        torch.set_num_threads(task.threads)


class Meter:
    """`with meter:` times what is inside, to the end of the device's work; the peak of memory counts from its making."""

    def __init__(self, task: Task) -> None:
        self.task, self.times, self.cpu_times = task, list[float](), list[float]()
        if task.cuda:
            torch.cuda.reset_peak_memory_stats()

    def __enter__(self) -> None:
        wait(self.task)
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wait(self.task)
        self.times.append(time.perf_counter() - self._start)
        self.cpu_times.append(time.process_time() - self._cpu_start)

    @property
    def peak_gib(self) -> float | None:
        """Most that tensors took, and all that CUDA graphs hold for themselves: their tensors are not counted at a replay."""
        if not self.task.cuda:
            return None
        held = [s for s in torch.cuda.memory_snapshot() if tuple(s.get("segment_pool_id", (0, 0))) != (0, 0)]
        graphs = sum(segment["total_size"] - segment["allocated_size"] for segment in held)
        return round((torch.cuda.max_memory_allocated() + graphs) / 2**30, 3)

    def row(self, images: int) -> Row:
        """Median and rate of runs over `images` images each; on a CPU all threads' time, and the process's peak memory."""
        median = statistics.median(self.times)
        host = {} if self.task.cuda else {"cpu_ms": round(1000 * statistics.median(self.cpu_times), 3), "peak_mib": peak_mib()}
        return host | {
            "images_per_s": round(images / median, 2),
            "median_ms": round(1000 * median, 3),
            "fastest_ms": round(1000 * min(self.times), 3),
            "slowest_ms": round(1000 * max(self.times), 3),
            "repeats": len(self.times),
        }


def peak_mib() -> int:
    """Most memory that this process has held, MiB."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(held) // (2**20 if sys.platform == "darwin" else 2**10)


def repeat(task: Task, run: Callable[[], object], images: int, **extra: Any) -> None:
    """Time a whole call, such as a validation or a prediction, and say the row."""
    use_threads(task)
    for _ in range(WARM_UP["cuda" if task.cuda else "cpu"] if images == 1 else 1):
        run()
    meter = Meter(task)
    for _ in range(task.repeats):
        with meter:
            run()
    peak = meter.peak_gib
    with tracing(task) as trace:
        run()
        wait(task)
    say({**meter.row(images), "peak_gib": peak, **counts(trace.events(), task, 1), **extra})


def tracing(task: Task) -> profile:
    """Torch's profiler over host and device."""
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if task.cuda else [])])


def counts(events: Any, task: Task, steps: int) -> Row:
    """What a step launches and waits for, the same names for every subject.

    On a GPU `launches` are the host's, a graph's one among them, and `kernels` those that ran. On a CPU, where nothing is
    launched, they are calls of operators and the reads of their results.
    """
    names = [event.name for event in events]
    if not task.cuda:
        outer = [e for e in events if "::" in e.name and (e.cpu_parent is None or "::" not in e.cpu_parent.name)]
        waits = sum(name in READS for name in names)
        return {"host_syncs": waits // steps, "launches": len(outer) // steps, "graph_launches": 0, "kernels": 0}
    waits = sum(name in WAITS for name in names) - 1  # the one that ends the trace is ours
    graphs = sum(name in GRAPHS for name in names)
    device = [e for e in events if e.device_type == DeviceType.CUDA and not e.name.startswith(("Memcpy", "Memset"))]
    kernels = sum(not e.is_user_annotation for e in device)
    return {
        "host_syncs": max(waits, 0) // steps,
        "launches": (graphs + sum(name in LAUNCHES for name in names)) // steps,
        "graph_launches": graphs // steps,
        "kernels": kernels // steps,
    }


def wait(task: Task) -> None:
    if task.cuda:
        torch.cuda.synchronize()
