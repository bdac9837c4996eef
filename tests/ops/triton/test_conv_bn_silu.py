"""The Triton kernels of conv_bn_silu against the reference, on a GPU or in the interpreter."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.plain_kernels import PlainKernels, column
from tests.tiers import drawn
from tests.tolerances import CUT_OFF, DFL_FLOAT32, FUSED_RELATIVE, MEAN_ROUNDING, ROUNDED
from yolov9k.ops import conv_bn_silu

pytest.importorskip("triton")
from yolov9k.kernels._operands import Norm
from yolov9k.kernels.conv_bn_silu import as_matrix, bn_silu_backward_apply, bn_silu_backward_reduce, normalize

pytestmark = pytest.mark.interpret

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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


def lost_to_rounding(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> float:
    """How far half a unit of the last place of what is centered moves a normalized value, in the worst channel."""
    z = copy.deepcopy(conv).double()(x.double()).detach()
    variance = z.var((0, 2, 3), unbiased=False) if bn.training else bn.running_var.double()
    slope = bn.weight.detach().double().abs().clamp(min=1) / (variance + bn.eps).sqrt()
    return MEAN_ROUNDING * float((z.abs().amax((0, 2, 3)) * slope).max())


@drawn(
    6, 20,
    st.integers(0, 1000), st.integers(1, 5), st.sampled_from([1, 7, 64, 65]), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from([0.0, 1e4]),
)  # fmt: skip
def test_conv_bn_silu_equals_the_reference(
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
    lost, rows = lost_to_rounding(x, conv, bn), x[:, 0].numel()
    for number, (mine, theirs, truth) in enumerate(zip(ours, own, exact, strict=True)):
        size = truth.abs().max().clamp(min=1)  # terms near 1 may cancel in sums
        moved = size.clamp(min=2 * math.sqrt(rows)) if number else 1  # gradients sum over rows that move together
        scale = size * FUSED_RELATIVE + lost * moved
        if number == 2:  # the weight's gradient: a sum over all rows of gradients, that the mean's rounding moves, times inputs
            scale += rows * (FUSED_RELATIVE + mean * lost)
        assert (mine - truth).abs().max() <= 2 * (theirs - truth).abs().max() + scale


@pytest.mark.twin
def test_conv_bn_silu_in_low_precision() -> None:
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
            unit = FUSED_RELATIVE if DEVICE == "cuda" else CUT_OFF
            assert (mine - truth).abs().max() <= 2 * (theirs - truth).abs().max() + truth.abs().max() * unit


@pytest.mark.twin
def test_normalize_writes_into_a_slice_and_refuses_other_memory() -> None:
    torch.manual_seed(4)
    wide = torch.full((2, 12, 3, 5), 7.0, device=DEVICE).contiguous(memory_format=torch.channels_last)
    z = torch.randn(2, 4, 3, 5, device=DEVICE).contiguous(memory_format=torch.channels_last)
    norm = Norm(*torch.rand(4, 4, device=DEVICE))
    normalize([z], [norm], True, wide[:, 4:8])
    u = (z - column(norm.mean)) * column(norm.invstd * norm.gamma) + column(norm.beta)
    torch.testing.assert_close(wide[:, 4:8], nn.functional.silu(u), **DFL_FLOAT32)
    assert (wide[:, :4] == 7).all()
    assert (wide[:, 8:] == 7).all()
    with pytest.raises(ValueError, match="y must be channels-last"):
        normalize([z], [norm], True, torch.empty(2, 4, 3, 5, device=DEVICE))
    with pytest.raises(ValueError, match="out must be channels-last"):
        bn_silu_backward_apply([z], [z], [norm], True, None, [torch.empty(2, 4, 3, 5, device=DEVICE)])


def random_map(channels: int, dtype: torch.dtype, mean: float = 0.0, wide: int = 0) -> Tensor:
    """A channels-last map [2, channels, 5, 7], or a slice of one that is `wide` channels wider."""
    whole = torch.randn(2, channels + wide, 5, 7) + mean
    return whole.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)[:, wide // 2 : wide // 2 + channels]


def random_norm(z: Tensor) -> Norm:
    """A BatchNorm with the batch's own statistics."""
    rows = z.double().permute(1, 0, 2, 3).flatten(1)
    mean, invstd = rows.mean(1), (rows.var(1, correction=0) + 1e-3).rsqrt()
    return Norm(torch.randn(z.shape[1]).to(DEVICE), torch.randn(z.shape[1]).to(DEVICE), mean.float(), invstd.float())


@drawn(
    8, 25,
    st.integers(0, 1000), st.sampled_from([1, 7, 64, 65]), st.booleans(), st.integers(1, 3), st.booleans(), st.booleans(),
    st.booleans(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_sums_of_two_and_of_several_gradients(
    seed: int, width: int, dual: bool, sources: int, activation: bool, training: bool, wide: bool, dtype: torch.dtype
) -> None:
    """One or two BatchNorms, a residual, one to three gradients, slices in and out: as the same sums in float64."""
    torch.manual_seed(seed)
    extra, count = 5 if wide else 0, 2 if dual else 1
    z = [random_map(width, dtype, 3.0, extra) for _ in range(count)]
    norms = [random_norm(part) for part in z]
    grads = [random_map(width, dtype, 0.0, extra) for _ in range(sources)]
    residual = random_map(width, dtype) if not dual else None
    exact_z, exact_grads = [part.double() for part in z], [part.double() for part in grads]
    exact_norms = [Norm(*(vector.double() for vector in norm)) for norm in norms]
    plain = PlainKernels()
    y, wanted = random_map(width, dtype, 0.0, extra), torch.empty(2, width, 5, 7, dtype=torch.float64, device=DEVICE)
    normalize(z, norms, activation, y, residual)
    plain.normalize(exact_z, exact_norms, activation, wanted, None if residual is None else residual.double())
    torch.testing.assert_close(y.double(), wanted, **ROUNDED[dtype])
    sums, exact_sums = (
        bn_silu_backward_reduce(grads, z, norms, activation),
        plain.bn_silu_backward_reduce(exact_grads, exact_z, exact_norms, activation)[0],
    )
    torch.testing.assert_close(sums.double(), exact_sums, **ROUNDED[torch.float32])
    out, exact_out = [random_map(width, dtype, 0.0, extra) for _ in z], [torch.empty_like(wanted) for _ in z]
    bn_silu_backward_apply(grads, z, norms, activation, sums if training else None, out)
    plain.bn_silu_backward_apply(
        exact_grads, exact_z, exact_norms, activation, exact_sums if training else None, exact_out, 2 * 5 * 7
    )
    for found, want in zip(out, exact_out, strict=True):
        torch.testing.assert_close(found.double(), want, **ROUNDED[dtype])


@pytest.mark.twin
def test_no_gradient_and_four_are_refused() -> None:
    z = random_map(4, torch.float32)
    for grads in ([], [z] * 4):
        with pytest.raises(ValueError, match="one to 3 maps"):
            bn_silu_backward_reduce(grads, [z], [random_norm(z)], True)


@pytest.mark.twin
def test_lone_rows_columns_and_images_are_matrices_as_they_lie() -> None:
    for shape in ((1, 3, 1, 1), (4, 3, 1, 1), (1, 3, 5, 1), (1, 3, 1, 5), (2, 1, 3, 4)):
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        assert as_matrix(x).data_ptr() == x.data_ptr()
        assert torch.equal(as_matrix(x), x.permute(0, 2, 3, 1).reshape(-1, shape[1]))
        assert torch.equal(as_matrix(x[:, :, ::2]), x[:, :, ::2].permute(0, 2, 3, 1).reshape(-1, shape[1]))
