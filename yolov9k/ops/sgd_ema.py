"""The optimizer step over flat storage: clip, weight decay, Nesterov SGD (Sutskever et al. 2013) and moving average at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from yolov9k.common.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.common.device import is_cpu
from yolov9k.native import sgd_ema as run_native
from yolov9k.native.optimizer import LOW_DTYPES
from yolov9k.ops.backends import choose
from yolov9k.ops.library import define
from yolov9k.ops.reference import sgd_ema as reference
from yolov9k.ops.reference.sgd_ema import GROUPS, NORM, SCALE, SETTINGS, SKIPPED, STATE, TRACKER, UPDATES
from yolov9k.ops.registry import Operator, register

__all__ = ["GROUPS", "NORM", "SCALE", "SETTINGS", "SKIPPED", "STATE", "TRACKER", "UPDATES", "Settings", "sgd_ema"]


class Settings(NamedTuple):
    """What a step is told; `values` are what stands in device memory, so that a captured graph obeys a schedule."""

    lr: tuple[float, float, float]  # a group
    decay: tuple[float, float, float]  # weight decay, a group
    momentum: float
    clip_norm: float = math.inf  # longest gradient that is not shortened
    ema_decay: float = 0.0  # times 1 - exp(-updates / ema_tau)
    ema_tau: float = 1.0
    growth: float = 1.0  # of the loss scale after `interval` finite steps
    backoff: float = 1.0  # of the loss scale after a step that is not finite
    interval: float = 1.0

    def values(self) -> list[float]:
        """[SETTINGS] floats; 1 - ema_decay stands there too, because a float32 cannot subtract what matters of it."""
        average = (self.ema_decay, 1 - self.ema_decay, self.ema_tau)
        return [*self.lr, *self.decay, self.momentum, self.clip_norm, *average, self.growth, self.backoff, self.interval]


def sgd_ema(
    values: Tensor, grads: Tensor, momentum: Tensor, ema: Tensor, low: Tensor | None, settings: Tensor,
    group_ends: Sequence[int], state: Tensor, backend: str = "auto",
) -> None:  # fmt: skip
    """One step of torch.optim.SGD with Nesterov momentum, after torch's clip_grad_norm_, then of the average; in place.

    values: [M] trained values, then those that the average alone follows; grads, momentum: [N], N = group_ends[-1] <= M;
    ema: [M]; low: [N] a copy of the trained values in any floating dtype, or None; settings: [SETTINGS] as
    `Settings.values`; group_ends: where each of the three groups ends; state: [STATE] norm of the gradient (written),
    steps skipped, updates of the average, loss scale by which grads are divided, steps since it changed. All but low of one
    floating dtype, contiguous, on one device, none overlapping another. A gradient whose norm is not finite changes
    nothing but state; grads become zero either way. Nothing is read on the host. Without gradient of its own. Raises
    ValueError or TypeError naming the argument.
    """
    op = "sgd_ema"
    ends = list(group_ends)
    expect_float(values, op, "values")
    expect_shape(values, (None,), op, "values")
    expect(len(ends) == GROUPS, op, "group_ends", f"{GROUPS} values", ends)
    rising = all(a <= b for a, b in zip([0, *ends], [*ends, values.numel()], strict=True))
    expect(rising, op, "group_ends", f"rising from 0 to at most {values.numel()}", ends)
    sizes = {"values": len(values), "grads": ends[-1], "momentum": ends[-1], "ema": len(values), "low": ends[-1]}
    tensors = {"values": values, "grads": grads, "momentum": momentum, "ema": ema, "settings": settings, "state": state}
    for name, tensor in {**tensors, **({} if low is None else {"low": low})}.items():
        expect_shape(tensor, (sizes.get(name, SETTINGS if name == "settings" else STATE),), op, name)
        expect_device(tensor, values, op, name)
        expect_float(tensor, op, name)
        expect(name == "low" or tensor.dtype == values.dtype, op, name, f"of dtype {values.dtype}", tensor.dtype)
        expect(tensor.is_contiguous(), op, name, "contiguous", f"stride {tensor.stride()}")
        expect(not tensor.requires_grad, op, name, "without requires_grad", "a tensor that requires it")
    written = low is None or low.dtype in LOW_DTYPES or not is_cpu(values.device)
    if backend == "auto" and not (values.dtype == torch.float32 and written):  # the kernels' alone
        backend = "reference"
    backend = choose(op, backend, values.device, values.dtype == torch.float64)
    expect(backend == "reference" or values.dtype == torch.float32, op, "values", f"float32 for {backend}", values.dtype)
    torch.ops.yolov9k.sgd_ema(values, grads, momentum, ema, low, settings, ends, state, backend)


def _step(
    values: Tensor, grads: Tensor, momentum: Tensor, ema: Tensor, low: Tensor | None, settings: Tensor,
    group_ends: list[int], state: Tensor, backend: str,
) -> None:  # fmt: skip
    if backend == "triton":
        from yolov9k.kernels.sgd_ema import sgd_ema as kernel  # Triton takes a second to import

        kernel(values, grads, momentum, ema, low, settings, group_ends, state)
    elif backend == "cpu":
        run_native(values, grads, momentum, ema, low, settings, group_ends, state)
    else:
        reference.sgd_ema(values, grads, momentum, ema, low, settings, group_ends, state)


def _fake(
    values: Tensor, grads: Tensor, momentum: Tensor, ema: Tensor, low: Tensor | None, settings: Tensor,
    group_ends: list[int], state: Tensor, backend: str,
) -> None:  # fmt: skip
    """Results are the arguments themselves."""


define(
    "sgd_ema(Tensor(a!) values, Tensor(b!) grads, Tensor(c!) momentum, Tensor(d!) ema, Tensor(e!)? low, Tensor settings, "
    "int[] group_ends, Tensor(f!) state, str backend) -> ()",
    _step,
    _fake,
)
register(
    Operator(
        "sgd_ema",
        sgd_ema,
        "clipping, weight decay, Nesterov SGD and moving average",
        {"cpu": "default on CPU", "triton": "two launches for all parameters"},
        kernels=("sgd_ema",),
    )
)
