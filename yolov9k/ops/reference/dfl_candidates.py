"""dfl_candidates in plain torch: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k.ops.reference.dfl_decode import dfl_decode


def dfl_candidates(
    maps: Sequence[Tensor], strides: Sequence[int], reg_max: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, anchors and counts; shapes as in `yolov9k.ops.dfl_candidates`. What is past counts is another anchor's."""
    whole = dfl_decode(maps, strides, reg_max)
    chosen = (whole[:, 4:] > threshold).any(1)
    anchors = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)  # candidates first, both in their order
    prediction = whole.gather(2, anchors[:, None].expand_as(whole))
    return prediction.contiguous(), anchors, chosen.sum(1)
