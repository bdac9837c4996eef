"""The optimizer step in Triton over flat float32 storage: two launches for a whole model, without a read on the host.

The first sums the squares of the gradient, a partial sum a program; whether it is finite falls out of the sum. In the second
each program adds up the partial sums, all in the same order, and updates its share of the values: 16 bytes read and 16
written a trained value, 8 and 4 of a buffer. Nothing is added atomically, so equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed

BLOCK = 1024  # values a program takes at a time
PARTIALS = 1024  # most programs, and so partial sums, of the first launch
PROGRAMS = 2048  # most programs of the second


@triton.jit
def _square_sums(grads, state, partials, trained, BLOCK: tl.constexpr):
    """Sum of squares of a program's gradients, the loss scale taken out; count and scale are set aside for `_update`.

    state: gradient norm, steps skipped, updates, loss scale, steps since it changed.
    """
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    inverse = 1.0 / tl.load(state + 3)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(program * BLOCK, trained, programs * BLOCK):
        place = start + lanes
        gradient = tl.load(grads + place, place < trained, other=0.0) * inverse
        total += gradient * gradient
    tl.store(partials + program, tl.sum(total, 0))
    if program == 0:  # `_update` changes both while its programs need the old ones
        tl.store(partials + programs, tl.load(state + 2))
        tl.store(partials + programs + 1, tl.load(state + 3))


@triton.jit
def _by_group(settings, first, place, end0, end1):
    """The setting [BLOCK] of each value's group; the three groups' settings stand one after another."""
    one, two, three = tl.load(settings + first), tl.load(settings + first + 1), tl.load(settings + first + 2)
    return tl.where(place < end0, one, tl.where(place < end1, two, three))


@triton.jit
def _advance(state, settings, norm, finite, scale, updates):
    """Count the step, and let the loss scale grow or shrink as torch.amp.GradScaler's does."""
    good = finite.to(tl.float32)
    passed = (tl.load(state + 4) + 1.0) * good
    due = passed == tl.load(settings + 13)
    grown = scale * tl.load(settings + 11)
    grown = tl.where(due & (grown < float("inf")), grown, scale)
    tl.store(state, norm)
    tl.store(state + 1, tl.load(state + 1) + (1.0 - good))
    tl.store(state + 2, updates + good)
    tl.store(state + 3, tl.where(finite, grown, scale * tl.load(settings + 12)))
    tl.store(state + 4, tl.where(due, 0.0, passed))


@triton.jit
def _update(
    values, grads, momentum, ema, low, settings, partials, state, trained, total, end0, end1, parts,
    HAS_LOW: tl.constexpr, PARTIALS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Clip, decay, Nesterov momentum, average, low-precision copy and zeroing; all but the last only of a finite gradient.

    settings: three learning rates, three weight decays, momentum, clip, EMA decay, 1 - EMA decay, tau, growth, backoff,
    growth interval.
    """
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    sums = tl.arange(0, PARTIALS)
    norm = tl.sqrt_rn(tl.sum(tl.load(partials + sums, sums < parts, other=0.0), 0))
    finite = norm < float("inf")
    updates, scale = tl.load(partials + parts), tl.load(partials + parts + 1)
    share = tl.minimum(tl.load(settings + 7) / (norm + 1e-6), 1.0) / scale
    rate = tl.load(settings + 6)
    weight = tl.load(settings + 9) + tl.load(settings + 8) * tl.exp(-(updates + 1.0) / tl.load(settings + 10))
    lanes = tl.arange(0, BLOCK)
    for start in range(program * BLOCK, total, programs * BLOCK):
        place = start + lanes
        learns, inside = place < trained, place < total
        if finite:
            value = tl.load(values + place, inside, other=0.0)
            gradient = tl.load(grads + place, learns, other=0.0) * share
            gradient += _by_group(settings, 3, place, end0, end1) * value
            buffer = rate * tl.load(momentum + place, learns, other=0.0) + gradient
            stepped = value - _by_group(settings, 0, place, end0, end1) * (gradient + rate * buffer)
            value = tl.where(learns, stepped, value)
            tl.store(momentum + place, buffer, learns)
            tl.store(values + place, value, learns)
            if HAS_LOW:
                tl.store(low + place, value.to(low.dtype.element_ty), learns)
            old = tl.load(ema + place, inside, other=0.0)
            way = value - old
            new = tl.where(weight < 0.5, old + weight * way, value - (1.0 - weight) * way)  # as torch.lerp
            tl.store(ema + place, new, inside)
        tl.store(grads + place, tl.zeros((BLOCK,), tl.float32), learns)
    if program == 0:
        _advance(state, settings, norm, finite, scale, updates)


def sgd_ema(
    values: Tensor, grads: Tensor, momentum: Tensor, ema: Tensor, low: Tensor | None, settings: Tensor,
    group_ends: Sequence[int], state: Tensor,
) -> None:  # fmt: skip
    """One optimizer step in place; arguments as in `yolov9k.ops.sgd_ema`, float32."""
    trained, total = grads.numel(), values.numel()
    parts = max(min(triton.cdiv(trained, BLOCK), PARTIALS), 1)
    partials = torch.empty(parts + 2, dtype=torch.float32, device=values.device)
    programs = max(min(triton.cdiv(total, BLOCK), PROGRAMS), 1)
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        _square_sums[(parts,)](grads, state, partials, trained, BLOCK=BLOCK)
        _update[(programs,)](
            values, grads, momentum, ema, low if low is not None else values, settings, partials, state, trained, total,
            group_ends[0], group_ends[1], parts, HAS_LOW=low is not None, PARTIALS=PARTIALS, BLOCK=BLOCK,
        )  # fmt: skip


def aot_variants() -> list[AotVariant]:
    """The norm's partial sums, and the update."""
    types = {"low": "*bf16"} | typed("trained total end0 end1 parts", "i32")
    return [
        AotVariant("_square_sums", types, {"BLOCK": 1024}),
        AotVariant("_update", types, {"HAS_LOW": True, "PARTIALS": 1024, "BLOCK": 1024}),
    ]
