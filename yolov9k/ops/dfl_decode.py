"""From raw head maps to boxes in pixels and class probabilities (Generalized Focal Loss, arXiv 2006.04388, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.ops.backends import choose
from yolov9k.ops.library import define, differentiate
from yolov9k.ops.reference import dfl_decode as reference
from yolov9k.ops.registry import Operator, register


def dfl_decode(maps: Sequence[Tensor], strides: Sequence[int], reg_max: int = 16, backend: str = "auto") -> Tensor:
    """Decode all levels of one branch.

    maps: [B, 4*reg_max + nc, h, w] a level, one floating dtype and device; strides: pixels a cell, a level.
    Returns [B, 4 + nc, A]: center x, center y, width, height in pixels, then probabilities; A anchors, level by level,
    row by row. Raises ValueError or TypeError naming the argument.
    """
    check_maps("dfl_decode", maps, strides, reg_max)
    if backend == "auto" and len(maps) > 3:  # more than the kernel takes
        backend = "reference"
    backend = choose("dfl_decode", backend, maps[0].device, maps[0].dtype == torch.float64)
    return torch.ops.yolov9k.dfl_decode(list(maps), list(strides), reg_max, backend)  # type: ignore[no-any-return]


def check_maps(op: str, maps: Sequence[Tensor], strides: Sequence[int], reg_max: int) -> None:
    """Raise ValueError or TypeError naming the argument of operator `op`."""
    expect(len(maps) > 0, op, "maps", "at least one level", len(maps))
    expect(len(maps) == len(strides), op, "strides", f"{len(maps)} values", list(strides))
    expect(all(stride > 0 for stride in strides), op, "strides", "above 0", list(strides))
    expect(reg_max >= 1, op, "reg_max", "at least 1", reg_max)
    expect_shape(maps[0], (None, None, None, None), op, "maps[0]")
    batch, channels = maps[0].shape[:2]
    expect(channels > 4 * reg_max, op, "maps[0]", f"more than 4*reg_max={4 * reg_max} channels wide", channels)
    for i, level in enumerate(maps):
        expect_float(level, op, f"maps[{i}]")
        expect_shape(level, (batch, channels, None, None), op, f"maps[{i}]")
        expect_device(level, maps[0], op, f"maps[{i}]")
        expect(level.dtype == maps[0].dtype, op, f"maps[{i}]", f"of dtype {maps[0].dtype}", level.dtype)


def _forward(maps: list[Tensor], strides: list[int], reg_max: int, backend: str) -> Tensor:
    if backend == "triton":
        from yolov9k.kernels.dfl_decode import dfl_decode as kernel  # Triton takes a second to import

        return kernel(maps, strides, reg_max)
    return reference.dfl_decode(maps, strides, reg_max).contiguous()


def _backward(grad: Tensor, maps: list[Tensor], strides: list[int], reg_max: int, backend: str) -> list[Tensor]:
    """d expectation / d logit_k = p_k (k - expectation); d sigmoid = s (1 - s)."""
    if backend == "triton":
        from yolov9k.kernels.dfl_decode import dfl_decode_backward

        return dfl_decode_backward(grad, maps, strides, reg_max)
    _, scales = reference.make_anchors(maps, strides)
    flat = reference.flatten_levels(maps)
    center, size = (grad[:, :4].transpose(1, 2) * scales).chunk(2, -1)
    grad_distances = torch.cat((size - center / 2, size + center / 2), -1)
    probabilities = flat[..., : 4 * reg_max].reshape(*flat.shape[:2], 4, reg_max).softmax(-1)
    bins = torch.arange(reg_max, device=grad.device, dtype=flat.dtype)
    spread = bins - (probabilities @ bins).unsqueeze(-1)
    grad_bins = (grad_distances.unsqueeze(-1) * probabilities * spread).flatten(-2)
    scores = flat[..., 4 * reg_max :].sigmoid()
    grad_flat = torch.cat((grad_bins, grad[:, 4:].transpose(1, 2) * scores * (1 - scores)), -1).transpose(1, 2)
    parts = torch.split(grad_flat, [level.shape[2] * level.shape[3] for level in maps], 2)
    return [part.reshape(level.shape).contiguous() for part, level in zip(parts, maps, strict=True)]


def _fake_forward(maps: list[Tensor], strides: list[int], reg_max: int, backend: str) -> Tensor:
    batch, channels = maps[0].shape[:2]
    anchors = sum(level.shape[2] * level.shape[3] for level in maps)
    return maps[0].new_empty((batch, channels - 4 * reg_max + 4, anchors))


def _fake_backward(grad: Tensor, maps: list[Tensor], strides: list[int], reg_max: int, backend: str) -> list[Tensor]:
    if backend == "triton":
        return [torch.empty_like(level) for level in maps]
    return [level.new_empty(level.shape) for level in maps]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, ctx.strides, ctx.reg_max, ctx.backend = inputs
    ctx.save_for_backward(*maps)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    if torch.is_grad_enabled():  # autograd would stop at the backward's own operator, and be wrong
        raise RuntimeError("dfl_decode: has no second derivative; use the reference for create_graph=True")
    maps = list(ctx.saved_tensors)
    return torch.ops.yolov9k.dfl_decode_backward(grad, maps, ctx.strides, ctx.reg_max, ctx.backend), None, None, None


define("dfl_decode(Tensor[] maps, int[] strides, int reg_max, str backend) -> Tensor", _forward, _fake_forward)
define(
    "dfl_decode_backward(Tensor grad, Tensor[] maps, int[] strides, int reg_max, str backend) -> Tensor[]",
    _backward,
    _fake_backward,
)
differentiate("dfl_decode", _differentiate, _save)
register(
    Operator(
        "dfl_decode",
        dfl_decode,
        "raw maps to boxes and probabilities",
        {"triton": "forward and backward"},
        kernels=("dfl_decode",),
    )
)
