"""How a benchmark measures, and what stands beside its timing: bytes, memory, processor, GPU, versions, the commit."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov9k import native
from yolov9k.engine.profile.roofline import copy_rate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests' random samples are used here too

_LOAD = os.getloadavg()[0]  # of the last minute, taken before the benchmarks add their own


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
    }


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add what decides a timing; leave out the host's name, which decides nothing."""
    machine_info.pop("node", None)
    machine_info["gpu"] = _gpu()
    machine_info["threads"] = {"torch": torch.get_num_threads(), "cores": os.cpu_count()}
    machine_info["load_before"] = round(_LOAD, 2)
    machine_info["versions"] = {name: _version(name) for name in ("yolov9k", "torch", "triton", "numpy")}
    machine_info["versions"]["torch_cuda"] = torch.version.cuda
    machine_info["native"] = native.build_info() if native.available() else native.why_missing()


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    """Say whether the record may be quoted: it can be traced to a commit, and nothing else was running.

    On a busy machine torch's parallel operators have been seen to take a hundred times as long as on one thread.
    """
    traced = commit_info.get("id") not in (None, "unversioned", "unknown") and not commit_info.get("dirty")
    commit_info["quotable"] = traced and _LOAD < 0.5


@functools.cache
def copy_bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes on a device, the best of ten: what memory-bound work is held to."""
    return copy_rate(torch.device(device))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Every device; those that are not here are skipped."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return str(request.param)


@pytest.fixture
def measure(benchmark: Any) -> Callable[..., None]:
    """measure(run, device, bytes_moved): times run() with a cold cache and notes bandwidth share, peak memory, operations."""

    def timed(run: Callable[[], object], device: str, bytes_moved: int, rounds: int = 20, flops: int = 0) -> None:
        flush = torch.empty(2**28 if device == "cuda" else 2**22, dtype=torch.uint8, device=device)

        def setup() -> None:
            flush.zero_()
            _wait(device)

        def once() -> None:
            run()
            _wait(device)

        if device == "cuda":
            once()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            once()
            benchmark.extra_info["peak_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 2)
        benchmark.pedantic(once, setup=setup, rounds=rounds, warmup_rounds=2)
        benchmark.extra_info["bytes"] = bytes_moved
        if flops:
            benchmark.extra_info["flops"] = flops
        if benchmark.stats:  # absent when benchmarks are only run once, as the tests do
            share = bytes_moved / benchmark.stats.stats.median / copy_bandwidth(device)
            benchmark.extra_info["copy_bandwidth_share"] = round(share, 4)
            if flops:
                benchmark.extra_info["tflops_per_second"] = round(flops / benchmark.stats.stats.median / 1e12, 3)

    return timed
