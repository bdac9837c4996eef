"""The optimizer step of csrc/ over flat storage, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k.common.checks import expect
from yolov9k.native.module import DTYPES, Shapes, call, check

LOW_DTYPES = (torch.float32, torch.bfloat16)  # that the step writes a copy in
_GROUPS, _SETTINGS, _STATE = 3, 14, 5  # csrc/sgd_ema.h


def sgd_ema(
    values: Tensor, grads: Tensor, momentum: Tensor, ema: Tensor, low: Tensor | None, settings: Tensor,
    group_ends: Sequence[int], state: Tensor,
) -> None:  # fmt: skip
    """One optimizer step in place; arguments as in `yolov9k.ops.sgd_ema`, float32, low float32 or bfloat16, on the CPU.

    The result does not depend on the number of threads. Raises ValueError or TypeError naming the argument.
    """
    op, ends = "sgd_ema", list(group_ends)
    expect(len(ends) == _GROUPS, op, "group_ends", f"{_GROUPS} values", ends)
    total, trained = values.numel(), ends[-1]
    shapes: Shapes = {
        "values": (values, (total,)), "grads": (grads, (trained,)), "momentum": (momentum, (trained,)), "ema": (ema, (total,)),
        "settings": (settings, (_SETTINGS,)), "state": (state, (_STATE,)),
    }  # fmt: skip
    if low is not None:
        shapes["low"] = (low, (trained,))
    float32 = dict.fromkeys(("values", "grads", "momentum", "ema", "settings", "state"), (torch.float32,))
    check(op, torch.empty(0), shapes, low=LOW_DTYPES, **float32)
    for name, (tensor, _) in shapes.items():  # written in place: a copy would be lost
        expect(tensor.is_contiguous(), op, name, "contiguous", f"stride {tensor.stride()}")
    call(op, values.device, {
        **{name: tensor.data_ptr() for name, (tensor, _) in shapes.items()}, "low": 0 if low is None else low.data_ptr(),
        "low_dtype": DTYPES[torch.float32 if low is None else low.dtype], "group_ends": ends, "total": total,
    })  # fmt: skip
