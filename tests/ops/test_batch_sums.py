"""BatchNorm's sums on a CPU at real sizes, against float64: every backend, layout and number of threads.

torch's own sums over a channels-last map are naive float32 ones there: at 1.6 million values a channel the variance came out
too small by 1e-3. Small maps, contiguous ones and float64 do not show it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support import wide_tiles
from tests.tolerances import FUSED_RELATIVE, LOW_PRECISION, TILE_ROUNDING
from yolov9k.ops import conv_bn_silu

CHANNELS = 4
SHAPE = (16, CHANNELS, 320, 320)  # 1.6 million values a channel
EPS = 1e-3
NAMES = ("value", "gradient of z", "gradient of gamma", "gradient of beta", "mean", "variance + eps")
KINDS = ("mean 3", "mean 1000", "flat", "tiny", "skewed")
Results = list[Tensor]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.long)])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@functools.cache
def sample(kind: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A map, the gradient of its result, gamma and beta, float32."""
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    z, grad = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    gamma, beta = torch.randn((2, CHANNELS), generator=generator) + 0.5
    makers = {"mean 3": z + 3, "mean 1000": z + 1000, "flat": torch.full(SHAPE, 0.1), "tiny": z * 1e-4, "skewed": z.exp()}
    return makers[kind], grad + 0.1, gamma, beta


def by_torch(kind: str, dtype: torch.dtype) -> Results:
    """Contiguous, in a dtype, by torch's modules."""
    z, grad, gamma, beta = (tensor.to(dtype) for tensor in sample(kind))
    z, gamma, beta = z.requires_grad_(), gamma.requires_grad_(), beta.requires_grad_()
    mean, variance = torch.zeros(CHANNELS, dtype=dtype), torch.ones(CHANNELS, dtype=dtype)
    y = F.silu(F.batch_norm(z, mean, variance, gamma, beta, training=True, momentum=1.0, eps=EPS))
    return [y.detach(), *torch.autograd.grad(y, (z, gamma, beta), grad), mean, variance + EPS]


@functools.cache
def measures(kind: str) -> tuple[Results, list[float]]:
    """Exact results, and the largest errors of torch's contiguous float32."""
    exact = by_torch(kind, torch.float64)
    return exact, errors(by_torch(kind, torch.float32), exact)


def errors(found: Results, exact: Results) -> list[float]:
    """The largest error of each result, as a part of its largest value."""
    return [
        float((f.double() - e).abs().max() / e.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
        for f, e in zip(found, exact, strict=True)
    ]


def ours(kind: str, backend: str, layout: torch.memory_format) -> Results:
    """By the operator, whose convolution is the identity."""
    z, grad, gamma, beta = sample(kind)
    conv, bn = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS, eps=EPS, momentum=1.0)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(CHANNELS)[:, :, None, None])
        bn.weight.copy_(gamma)
        bn.bias.copy_(beta)
    z = z.contiguous(memory_format=layout).requires_grad_()
    y = conv_bn_silu(z, conv, bn, backend=backend)
    gradients = torch.autograd.grad(y, (z, bn.weight, bn.bias), grad)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    return [y.detach(), *gradients, bn.running_mean, bn.running_var + EPS]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_over_a_large_map_are_as_good_as_torchs_contiguous_ones(
    kind: str, backend: str, layout: torch.memory_format, threads: int
) -> None:
    exact, own = measures(kind)
    found = errors(ours(kind, backend, layout), exact)
    for name, error, measure in zip(NAMES, found, own, strict=True):
        assert error <= LOW_PRECISION * measure + FUSED_RELATIVE, f"{name}: {error:.1e}, torch {measure:.1e}"


@pytest.mark.nightly  # interpreted: minutes
@pytest.mark.skipif(not INTERPRETED, reason="TRITON_INTERPRET=1 alone: a GPU has tests of its own")
@pytest.mark.parametrize("kind", ["mean 3", "mean 1000", "skewed"])
def test_tritons_sums_over_a_large_map_are_as_good(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels keep a mean in float32, as torch does on a GPU: what it loses of a large one is a part of the spread."""
    wide_tiles(monkeypatch)
    exact, own = measures(kind)
    found = errors(ours(kind, "triton", torch.channels_last), exact)
    lost = TILE_ROUNDING * float(exact[NAMES.index("mean")].abs().max()) / float(exact[-1].min().sqrt())
    for name, error, measure in zip(NAMES, found, own, strict=True):
        assert error <= LOW_PRECISION * measure + FUSED_RELATIVE + lost, f"{name}: {error:.1e}, torch {measure:.1e}"


def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    found = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(ours("mean 3", "cpu", torch.channels_last))
    torch.set_num_threads(before)
    for one, two, three in zip(*found, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
