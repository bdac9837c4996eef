"""`yolov9k info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolov9k.cli.parser import console
from yolov9k.config import InfoOptions


def run(options: InfoOptions) -> None:
    """Print a model's layers, parameters and GFLOPs; without a model, the backends that are there and what is missing."""
    if options.model is None:
        _print_machine()
    else:
        options.check()
        _print_model(options.model, options)


def _print_model(name: str, options: InfoOptions) -> None:
    from yolov9k.compat import SUFFIXES, load
    from yolov9k.data.letterbox import rounded_size
    from yolov9k.models import create_model
    from yolov9k.models.analysis import step_cost, summary

    network = load(name, options.cfg) if Path(name).suffix.lower() in SUFFIXES else create_model(name, options.nc)
    size = rounded_size(options.img, "--img")
    console.print(summary.table(network, size))
    forms = {"training": network}
    if network.head.num_branches > 1:
        forms["lean"] = network.to_lean()
    forms["fused"] = network.to_lean().fuse()
    for form, twin in forms.items():
        parameters, gflops = summary.cost(twin, size)
        console.print(f"{form:>8}: {parameters:,} parameters, {gflops:.1f} GFLOPs")
    if options.plan:
        for line in step_cost.plan_lines(network, size):
            console.print(line)
        console.print(step_cost.cost_table(network, img_size=size))


def _print_machine() -> None:
    import torch

    from yolov9k import __version__, ops
    from yolov9k.common.device import cuda_device, device_name, has_cuda
    from yolov9k.ops import cudnn
    from yolov9k.ops.backends import why_missing

    gpu = device_name(cuda_device()) if has_cuda() else "none that torch sees"
    console.print(f"yolov9k {__version__}, torch {torch.__version__}, GPU: {gpu}")
    for part in ("cpu", "cuda"):
        console.print(f"native code, {part}: {_native_state(part)}")
    console.print(f"cuDNN's fused convolutions: {cudnn.describe()}")
    console.print(f"Triton: {why_missing('triton') or 'ready'}")
    for operator in sorted(ops.operators()):
        console.print(f"{operator}: {', '.join(ops.available(operator))}")


def _native_state(part: str) -> str:
    """How the compiled kernels of "cpu" or "cuda" were built, why they cannot be called here, or both."""
    from yolov9k import native

    info: dict[str, Any] = native.build_info() if native.available() else {"cuda": None}
    if part == "cuda":
        compiler = f"CUDA {info['cuda']} for {' '.join(info['archs'])}" if info["cuda"] else ""
    else:
        compiler = info.get("compiler", "")
    return "; ".join(filter(None, [compiler and f"built with {compiler}", native.why_missing(part)]))
