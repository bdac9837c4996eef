"""conv_silu in plain torch: the definition."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, activation: bool,
    residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """SiLU(conv(x) + bias) + residual, without SiLU where `activation` is off; any floating dtype.

    x [B, C, H, W], weight [N, C / groups, k, k], bias [N], residual [B, N, H', W']. Returns [B, N, H', W'].
    """
    y = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    if activation:
        y = F.silu(y, inplace=not y.requires_grad)
    return y if residual is None else y + residual
