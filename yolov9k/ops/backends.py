"""Which backend runs an operator: `auto` picks by device, a backend asked for by name is there or says why it is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch

BACKENDS = ("reference", "cpu", "cuda", "triton")

# Backends that each operator has today, beside the reference that every operator has.
_IMPLEMENTED: dict[str, tuple[str, ...]] = {
    "conv_bn_silu": ("reference",),
    "dfl_decode": ("reference",),
    "task_aligned_assign": ("reference",),
    "detection_loss": ("reference",),
    "batched_nms": ("reference",),
}


def choose(operator: str, backend: str, device: torch.device) -> str:
    """The backend that runs `operator` on `device`.

    backend: "auto" or one of BACKENDS. Raises ValueError for an unknown name and RuntimeError, with the reason, for one
    that is not there.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"{operator}: backend must be one of auto, {', '.join(BACKENDS)}; got {backend!r}")
    if backend in ("auto", "reference"):
        return "reference"
    if backend not in _IMPLEMENTED[operator]:
        raise RuntimeError(f"{operator}: backend {backend!r} is not implemented; available: {', '.join(available(operator))}")
    return backend


def available(operator: str) -> Sequence[str]:
    """Names of the backends that `operator` has on this machine."""
    return _IMPLEMENTED[operator]


def operators() -> Sequence[str]:
    """Names of all operators."""
    return tuple(_IMPLEMENTED)
