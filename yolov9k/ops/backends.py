"""Which backend runs an operator: `auto` picks by device, a backend asked for by name is there or says why it is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from yolov9k.native import why_missing

BACKENDS = ("reference", "cpu", "cuda", "triton")

# Backends that each operator has beside the reference, which every operator has.
_IMPLEMENTED: dict[str, tuple[str, ...]] = {
    "conv_bn_silu": (),
    "dfl_decode": (),
    "task_aligned_assign": ("cpu", "cuda"),
    "detection_loss": (),
    "batched_nms": ("cpu", "cuda"),
}


def choose(operator: str, backend: str, device: torch.device, float64: bool = False) -> str:
    """The backend that runs `operator` on `device`.

    backend: "auto" or one of BACKENDS. float64: whether an argument is of that dtype, which the reference alone computes
    in. Raises ValueError for an unknown name or a backend that cannot serve the arguments, and RuntimeError, with the
    reason, for one that is not there.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"{operator}: backend must be one of auto, {', '.join(BACKENDS)}; got {backend!r}")
    if backend == "auto":
        return device.type if device.type in available(operator) and not float64 else "reference"
    if backend not in ("reference", *_IMPLEMENTED[operator]):
        raise RuntimeError(f"{operator}: backend {backend!r} is not implemented; available: {', '.join(available(operator))}")
    if backend == "reference":
        return backend
    if reason := why_missing(backend):
        raise RuntimeError(f"{operator}: backend {backend!r} is not here: {reason}")
    if device.type != backend or float64:
        raise ValueError(
            f"{operator}: backend {backend!r} takes float32, bfloat16 or float16 tensors on {backend}, got "
            f"{'float64' if float64 else 'tensors'} on {device}"
        )
    return backend


def available(operator: str) -> Sequence[str]:
    """Names of the backends that `operator` has on this machine."""
    return ("reference", *(backend for backend in _IMPLEMENTED[operator] if not why_missing(backend)))


def operators() -> Sequence[str]:
    """Names of all operators."""
    return tuple(_IMPLEMENTED)
