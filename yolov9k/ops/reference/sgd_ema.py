"""sgd_ema in plain torch: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k.common.device import exact_dtype

# Where each value stands in `settings`; learning rates come first, a group each, then the groups' weight decays.
GROUPS = 3
LR, DECAY, MOMENTUM, CLIP, EMA_DECAY, EMA_REST, EMA_TAU, GROWTH, BACKOFF, INTERVAL = 0, 3, 6, 7, 8, 9, 10, 11, 12, 13
SETTINGS = 14
# Where each value stands in `state`.
NORM, SKIPPED, UPDATES, SCALE, TRACKER = range(5)
STATE = 5


def sgd_ema(
    values: Tensor, grads: Tensor, momentum: Tensor, ema: Tensor, low: Tensor | None, settings: Tensor,
    group_ends: Sequence[int], state: Tensor,
) -> None:  # fmt: skip
    """One optimizer step in place; arguments as in `yolov9k.ops.sgd_ema`, in any floating dtype. Never reads on the host."""
    norm, finite, share = clip(grads, settings, state)
    start, rate = 0, settings[MOMENTUM]
    for group, end in enumerate(group_ends):
        part = slice(start, end)
        step = grads[part] * share + settings[DECAY + group] * values[part]
        buffer = rate * momentum[part] + step
        values[part] = torch.where(finite, values[part] - settings[LR + group] * (step + rate * buffer), values[part])
        momentum[part] = torch.where(finite, buffer, momentum[part])
        start = end
    follow(ema, values, settings, state, finite)
    if low is not None:
        low.copy_(torch.where(finite, values[:start].to(low.dtype), low))
    grads.zero_()
    advance(state, settings, norm, finite)


def clip(grads: Tensor, settings: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Length of the gradient without its scale, whether it is finite, and what the gradient is to be multiplied by."""
    inverse = 1 / state[SCALE]
    exact = exact_dtype(grads.device)  # float32 would lose four digits
    norm = torch.linalg.vector_norm(grads * inverse, dtype=exact).to(grads.dtype)
    return norm, norm.isfinite(), (settings[CLIP] / (norm + 1e-6)).clamp(max=1) * inverse


def follow(ema: Tensor, values: Tensor, settings: Tensor, state: Tensor, finite: Tensor) -> None:
    """Move the average towards the values."""
    weight = settings[EMA_REST] + settings[EMA_DECAY] * torch.exp(-(state[UPDATES] + 1) / settings[EMA_TAU])
    ema.copy_(torch.where(finite, torch.lerp(ema, values, weight), ema))


def advance(state: Tensor, settings: Tensor, norm: Tensor, finite: Tensor) -> None:
    """Count the step, and let the loss scale grow or shrink as torch.amp.GradScaler's does."""
    passed = torch.where(finite, state[TRACKER] + 1, torch.zeros_like(norm))
    due = passed == settings[INTERVAL]
    grown = state[SCALE] * settings[GROWTH]
    scale = torch.where(due & grown.isfinite(), grown, state[SCALE])
    after = (
        norm, state[SKIPPED] + ~finite, state[UPDATES] + finite,
        torch.where(finite, scale, state[SCALE] * settings[BACKOFF]), torch.where(due, 0, passed),
    )  # fmt: skip
    state.copy_(torch.stack(after))
