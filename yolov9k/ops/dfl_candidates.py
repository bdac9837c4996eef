"""From raw head maps to the candidates of suppression alone: what a threshold lets through, decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from yolov9k.common.checks import expect
from yolov9k.ops.backends import choose
from yolov9k.ops.dfl_decode import check_maps
from yolov9k.ops.library import define
from yolov9k.ops.reference import dfl_candidates as reference
from yolov9k.ops.registry import Operator, register


class Candidates(NamedTuple):
    """prediction [B, 4 + nc, A], anchors int64 [B, A]: the first counts int64 [B] columns are candidates, the rest unset."""

    prediction: Tensor
    anchors: Tensor
    counts: Tensor


def dfl_candidates(
    maps: Sequence[Tensor], strides: Sequence[int], reg_max: int = 16, threshold: float = 0.001, backend: str = "auto"
) -> Candidates:
    """Decode the anchors whose best class probability is above `threshold`, side by side in the anchors' order.

    Arguments and columns as in `dfl_decode`; `batched_nms(prediction, ..., lengths=counts)` gives what it gives for all
    anchors at that confidence. A probability that is NaN is no candidate. No gradient. Raises ValueError or TypeError naming
    the argument.
    """
    check_maps("dfl_candidates", maps, strides, reg_max)
    expect(0 <= threshold <= 1, "dfl_candidates", "threshold", "in [0, 1]", threshold)
    backend = choose("dfl_candidates", backend, maps[0].device, maps[0].dtype == torch.float64)
    maps = [level.detach() for level in maps]
    return Candidates(*torch.ops.yolov9k.dfl_candidates(list(maps), list(strides), reg_max, threshold, backend))


def _forward(
    maps: list[Tensor], strides: list[int], reg_max: int, threshold: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    if backend == "triton":
        from yolov9k.kernels.dfl_candidates import dfl_candidates as kernel  # Triton takes a second to import

        return kernel(maps, strides, reg_max, threshold)
    return reference.dfl_candidates(maps, strides, reg_max, threshold)


def _fake(
    maps: list[Tensor], strides: list[int], reg_max: int, threshold: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels = maps[0].shape[:2]
    total = sum(level.shape[2] * level.shape[3] for level in maps)
    prediction = maps[0].new_empty((batch, channels - 4 * reg_max + 4, total))
    new = prediction.new_empty
    return prediction, new((batch, total), dtype=torch.int64), new((batch,), dtype=torch.int64)


define(
    "dfl_candidates(Tensor[] maps, int[] strides, int reg_max, float threshold, str backend) -> "
    "(Tensor prediction, Tensor anchors, Tensor counts)",
    _forward,
    _fake,
)
register(
    Operator(
        "dfl_candidates",
        dfl_candidates,
        "boxes of the anchors above a threshold alone",
        {"triton": "forward"},
        kernels=("dfl_candidates",),
    )
)
