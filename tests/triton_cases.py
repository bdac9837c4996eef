"""The Triton kernels against their references, in Triton's interpreter (TRITON_INTERPRET=1) or on a GPU: run by test_triton.py.

A program of its own: Triton decides when it is imported whether it interprets or compiles.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.tolerances import DFL_FLOAT32, FUSED_RELATIVE, MEAN_ROUNDING
from yolov9k.ops import conv_bn_silu, dfl_decode
from yolov9k.ops.reference.dfl_decode import dfl_decode as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_maps(seed: int, batch: int, sizes: list[tuple[int, int]], channels: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(batch, channels, h, w, generator=generator).to(DEVICE, dtype) for h, w in sizes]


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.integers(0, 2**31), st.integers(0, 2), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    st.sampled_from([1, 5, 17]), st.sampled_from([1, 3, 16]), st.booleans(),
)  # fmt: skip
def dfl_decode_equals_the_reference(
    seed: int, batch: int, sizes: list[tuple[int, int]], classes: int, bins: int, last: bool
) -> None:
    maps = random_maps(seed, batch, sizes, 4 * bins + classes, torch.float32)
    if last:
        maps = [level.contiguous(memory_format=torch.channels_last) for level in maps]
    strides = [8, 16, 32][: len(maps)]
    found = dfl_decode(maps, strides, bins, backend="triton")
    torch.testing.assert_close(found, reference(maps, strides, bins), **DFL_FLOAT32)


def dfl_decode_in_low_precision() -> None:
    """Its error against float64 is at most twice that of torch's own operators in the same precision."""
    for dtype in (torch.bfloat16, torch.float16):
        maps = random_maps(1, 2, [(8, 8), (3, 5)], 70, dtype)
        exact = reference([level.double() for level in maps], [8, 16])
        own = (reference(maps, [8, 16]).double() - exact).abs()
        ours = (dfl_decode(maps, [8, 16], backend="triton").double() - exact).abs()
        assert ours.max() <= 2 * own.max()
        assert ours.mean() <= 2 * own.mean()


def dfl_decode_of_strange_inputs() -> None:
    maps = random_maps(2, 1, [(4, 6)], 67, torch.float32)
    wide = [torch.cat((maps[0], maps[0]), 3)[..., ::2]]
    torch.testing.assert_close(dfl_decode(wide, [8], backend="triton"), reference(wide, [8]), **DFL_FLOAT32)
    huge = [level.sign() * 1e30 for level in maps]
    assert dfl_decode(huge, [8], backend="triton").isfinite().all()
    leaf = [level.requires_grad_() for level in maps]
    dfl_decode(leaf, [8], backend="triton")[:, :4].sum().backward()
    assert leaf[0].grad is not None
    assert leaf[0].grad.isfinite().all()


def layers(seed: int, channels: int, width: int, dtype: torch.dtype, mean: float) -> tuple[Tensor, nn.Conv2d, nn.BatchNorm2d]:
    """A map with the given mean, a 1x1 convolution that keeps it, and a BatchNorm with weights and statistics of its own."""
    torch.manual_seed(seed)
    conv, bn = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width, eps=1e-3, momentum=0.03)
    nn.init.normal_(conv.weight, 1 / channels, 0.5)
    for tensor in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(bn.running_var, 0.5, 2.0)
    x = torch.randn(2, channels, 5 + seed % 3, 4 + seed % 5) + mean
    return x.to(DEVICE, dtype), conv.to(DEVICE, dtype), bn.to(DEVICE)


def results(run: Callable[..., Tensor], x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d, seed: int) -> list[Tensor]:
    """Output, gradients and running statistics of one call, with copies of everything."""
    x, conv, bn = x.detach().clone().requires_grad_(), copy.deepcopy(conv), copy.deepcopy(bn)
    y = run(x, conv, bn)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, y.dtype)
    y.backward(weight)
    parts = (y, x.grad, conv.weight.grad, bn.weight.grad, bn.bias.grad, bn.running_mean, bn.running_var)
    return [part.detach().double() for part in parts if part is not None]


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    st.integers(0, 1000), st.integers(1, 5), st.sampled_from([1, 7, 64, 65]), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from([0.0, 1e4]),
)  # fmt: skip
def conv_bn_silu_equals_the_reference(
    seed: int, channels: int, width: int, training: bool, activation: bool, last: bool, mean: float
) -> None:
    """Its error against float64 is at most twice torch's own, at a mean of 10,000 and a deviation of 1 as well."""
    x, conv, bn = layers(seed, channels, width, torch.float32, mean)
    bn.train(training)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    exact = results(lambda *a: conv_bn_silu(*a, activation, backend="reference"), x.double(), conv.double(), bn.double(), seed)
    own, ours = (
        results(lambda *a, b=backend: conv_bn_silu(*a, activation, backend=b), x, conv.float(), bn.float(), seed)
        for backend in ("reference", "triton")
    )
    for mine, theirs, truth in zip(ours, own, exact, strict=True):
        scale = truth.abs().max() * FUSED_RELATIVE + mean * MEAN_ROUNDING
        assert (mine - truth).abs().max() <= 2 * (theirs - truth).abs().max() + scale


def conv_bn_silu_in_low_precision() -> None:
    for training in (True, False):
        x, conv, bn = layers(3, 4, 70, torch.bfloat16, 0.5)
        bn.train(training)
        exact = results(
            lambda *a: conv_bn_silu(*a, backend="reference"), x.double(), copy.deepcopy(conv).double(), bn.double(), 3
        )
        own, ours = (
            results(lambda *a, b=backend: conv_bn_silu(*a, backend=b), x, conv, bn.float(), 3)
            for backend in ("reference", "triton")
        )
        for mine, theirs, truth in zip(ours, own, exact, strict=True):
            assert (mine - truth).abs().max() <= 2 * (theirs - truth).abs().max() + truth.abs().max() * FUSED_RELATIVE


def normalise_writes_into_a_slice_and_refuses_other_memory() -> None:
    from yolov9k.kernels.conv_bn_silu import normalise

    torch.manual_seed(4)
    wide = torch.full((2, 12, 3, 5), 7.0, device=DEVICE).contiguous(memory_format=torch.channels_last)
    z = torch.randn(2, 4, 3, 5, device=DEVICE).contiguous(memory_format=torch.channels_last)
    gamma, beta, mean, invstd = torch.rand(4, 4, device=DEVICE)
    normalise(z, gamma, beta, mean, invstd, True, wide[:, 4:8])
    shape = (1, 4, 1, 1)
    u = (z - mean.view(shape)) * (invstd * gamma).view(shape) + beta.view(shape)
    torch.testing.assert_close(wide[:, 4:8], nn.functional.silu(u), **DFL_FLOAT32)
    assert (wide[:, :4] == 7).all()
    assert (wide[:, 8:] == 7).all()
    with pytest.raises(ValueError, match="y must be channels-last"):
        normalise(z, gamma, beta, mean, invstd, True, torch.empty(2, 4, 3, 5, device=DEVICE))


if __name__ == "__main__":
    conv_bn_silu_equals_the_reference()
    conv_bn_silu_in_low_precision()
    normalise_writes_into_a_slice_and_refuses_other_memory()
    dfl_decode_equals_the_reference()
    dfl_decode_in_low_precision()
    dfl_decode_of_strange_inputs()
    sys.exit(print("equal"))
