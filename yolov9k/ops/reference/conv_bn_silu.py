"""conv_bn_silu in plain torch: the definition."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def conv_bn_silu(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    eps: float = 1e-3,
    activation: bool = True,
) -> Tensor:
    """SiLU(BatchNorm(conv(x))), differentiable by torch's own autograd.

    x [B, Cin, H, W], weight [Cout, Cin/groups, k, k], gamma and beta [Cout], any floating dtype. With mean and var [Cout]
    given they normalize (inference); with None the batch's own statistics do (training).
    """
    z = F.conv2d(x, weight, None, stride, padding, 1, groups).contiguous()  # over another layout a CPU's sums are naive
    u = F.batch_norm(z, mean, var, gamma, beta, training=mean is None, eps=eps)
    return F.silu(u) if activation else u
