"""Puts beside every timing what it was measured on: processor, GPU, versions, how csrc/ was compiled, the commit."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any

import pytest
import torch

from yolov9k import native

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
