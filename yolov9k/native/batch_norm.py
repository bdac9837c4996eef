"""BatchNorm and SiLU of csrc/ on the CPU, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov9k.common.checks import expect
from yolov9k.native.module import DTYPES, call, check


def bn_statistics(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(biased variance + eps) by channel, float64 [C], of z [B, C, H, W] on the CPU.

    z: float32 or bfloat16, channels-last. Sums are kept in double and do not depend on the number of threads. Raises
    ValueError or TypeError naming the argument.
    """
    arguments = _bn_map("bn_statistics", z)
    mean, invstd = (torch.empty(z.shape[1], dtype=torch.float64) for _ in range(2))
    outputs = {"mean": mean.data_ptr(), "invstd": invstd.data_ptr()}
    call("bn_statistics", z.device, {**arguments, "eps": eps, **outputs})
    return mean, invstd


def bn_silu(z: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, invstd: Tensor, activation: bool) -> Tensor:
    """SiLU((z - mean) * invstd * gamma + beta), or that without SiLU, as z [B, C, H, W], on the CPU.

    z: float32 or bfloat16, channels-last. The vectors [C]: any floating dtype, mean and invstd are read in float64. Raises
    ValueError or TypeError naming the argument.
    """
    arguments = _bn_map("bn_silu", z)
    held = _bn_vectors("bn_silu", z, gamma=gamma, beta=beta, mean=mean, invstd=invstd)
    y = torch.empty_like(z)
    vectors = {name: vector.data_ptr() for name, vector in held.items()}
    call("bn_silu", z.device, {**arguments, **vectors, "activation": activation, "y": y.data_ptr()})
    return y


def bn_silu_backward(
    grad: Tensor, z: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, invstd: Tensor, activation: bool, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z (as z), gamma and beta (float32 [C]) from that of `bn_silu`'s result; arguments as there.

    grad: as z, in any layout. training: whether mean and invstd are z's own, through which the gradient goes too.
    """
    op = "bn_silu_backward"
    arguments = _bn_map(op, z)
    held = _bn_vectors(op, z, gamma=gamma, beta=beta, mean=mean, invstd=invstd)
    check(op, z, {"grad": (grad, z.shape)}, grad=(z.dtype,))
    grad = grad.contiguous(memory_format=torch.channels_last)
    grad_z = torch.empty_like(z)
    grad_gamma, grad_beta = (torch.empty(z.shape[1], dtype=torch.float32) for _ in range(2))
    outputs = {"grad_z": grad_z.data_ptr(), "grad_gamma": grad_gamma.data_ptr(), "grad_beta": grad_beta.data_ptr()}
    form = {"activation": activation, "training": training, "grad": grad.data_ptr()}
    vectors = {name: vector.data_ptr() for name, vector in held.items()}
    call(op, z.device, {**arguments, **vectors, **form, **outputs})
    return grad_z, grad_gamma, grad_beta


def _bn_map(operator: str, z: Tensor) -> dict[str, object]:
    """What the compiled functions are told of a map. Raises ValueError or TypeError for one that they cannot read."""
    check(operator, torch.empty(0), {"z": (z, (None,) * 4)}, z=(torch.float32, torch.bfloat16))
    expect(z.is_contiguous(memory_format=torch.channels_last), operator, "z", "channels-last", f"strides {z.stride()}")
    batch, channels, height, width = z.shape
    expect(z.numel() > 0, operator, "z", "not empty", list(z.shape))
    return {"z": z.data_ptr(), "dtype": DTYPES[z.dtype], "rows": batch * height * width, "channels": channels}


def _bn_vectors(operator: str, z: Tensor, **vectors: Tensor) -> dict[str, Tensor]:
    """gamma and beta in float32, mean and invstd in float64. Raises ValueError for another length or device."""
    check(operator, z, {name: (vector, (z.shape[1],)) for name, vector in vectors.items()})
    dtypes = (torch.float32, torch.float32, torch.float64, torch.float64)
    return {name: vector.detach().to(dtype).contiguous() for (name, vector), dtype in zip(vectors.items(), dtypes, strict=True)}
