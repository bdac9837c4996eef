"""Which backend runs an operator: `auto` picks by device, a backend asked for by name is there or says why it is not."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence

import torch

from yolov9k.common.device import has_cuda, is_cpu
from yolov9k.native import constant
from yolov9k.native import why_missing as why_native_missing
from yolov9k.ops.registry import BACKENDS_OF

BACKENDS = ("reference", "cpu", "cuda", "triton")
_DEVICES = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda"}  # on which each one runs


def choose(operator: str, backend: str, device: torch.device, float64: bool = False) -> str:
    """The backend that runs `operator` on `device`.

    backend: "auto" (which YOLOV9K_BACKEND=reference turns into "reference") or one of BACKENDS. float64: whether an
    argument is of that dtype, which the reference alone computes in. Raises ValueError for an unknown name or a backend
    that cannot serve the arguments, and RuntimeError, with the reason, for one that is not there.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"{operator}: backend must be one of auto, {', '.join(BACKENDS)}; got {backend!r}")
    if backend == "auto":
        if _kernels_are_off():
            return "reference"
        fit = [name for name in available(operator) if _DEVICES.get(name) == device.type and not float64]
        return fit[0] if fit else "reference"
    if backend not in ("reference", *BACKENDS_OF[operator]):
        raise RuntimeError(f"{operator}: backend {backend!r} is not implemented; available: {', '.join(available(operator))}")
    if backend == "reference":
        return backend
    if reason := why_missing(backend):
        raise RuntimeError(f"{operator}: backend {backend!r} is not here: {reason}")
    if float64 or not (device.type == _DEVICES[backend] or (_interpreted(backend) and is_cpu(device))):
        raise ValueError(
            f"{operator}: backend {backend!r} takes float32, bfloat16 or float16 tensors on {_DEVICES[backend]}, got "
            f"{'float64' if float64 else 'tensors'} on {device}"
        )
    return backend


@constant
def _kernels_are_off() -> bool:
    """Whether YOLOV9K_BACKEND=reference asks for plain torch wherever no backend is named."""
    wish = os.environ.get("YOLOV9K_BACKEND", "auto")
    if wish not in ("auto", "reference"):
        raise ValueError(f"YOLOV9K_BACKEND must be auto or reference, got {wish!r}")
    return wish == "reference"


def _interpreted(backend: str) -> bool:
    """Whether Triton's interpreter stands in for the GPU: TRITON_INTERPRET=1, which Triton reads when it is imported."""
    return backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


@constant
def why_missing(backend: str) -> str:
    """Why a backend cannot be called here, with the remedy; empty when it can."""
    if backend != "triton":
        return str(why_native_missing(backend))
    if not _has_triton():
        return "triton is not installed; `pip install triton` (Linux)"
    return "" if has_cuda() or _interpreted(backend) else "torch sees no CUDA device"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def available(operator: str) -> Sequence[str]:
    """Names of the backends that `operator` has on this machine."""
    return ("reference", *(backend for backend in BACKENDS_OF[operator] if not why_missing(backend)))


def operators() -> Sequence[str]:
    """Names of all operators."""
    return tuple(BACKENDS_OF)
