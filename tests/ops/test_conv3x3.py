"""The compiled 3x3 convolutions against float64: forward and both gradients, slices, groups, threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tiers import BY_DAY, examples
from tests.tolerances import MINIMAL_FILTERING
from yolov9k import native

pytestmark = pytest.mark.skipif(
    not native.conv3x3_serves(), reason="compiled for processors with AVX2 and FMA, without AVX-512"
)
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def channels_last_slice(shape: tuple[int, int, int, int], before: int, after: int) -> Tensor:
    """Random values with other channels beside them."""
    batch, channels, height, width = shape
    whole = torch.randn(batch, before + channels + after, height, width).contiguous(memory_format=torch.channels_last)
    return whole[:, before : before + channels]


def exact(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> list[Tensor]:
    """Result and both gradients in float64, and the sums of their terms' magnitudes."""
    form = ([1, 1], [1, 1], [1, 1], False, [0, 0], groups)
    found = []
    for g, a, w in (
        (grad.double(), x.double(), weight.double()),
        (grad.double().abs(), x.double().abs(), weight.double().abs()),
    ):
        y = torch.ops.aten.convolution(a, w, None, *form)
        back = torch.ops.aten.convolution_backward(g, a, w, None, *form, [True, True, False])
        found += [y, back[0], back[1]]
    return found


def shared(magnitudes: list[Tensor]) -> list[Tensor]:
    """The largest magnitude of those that share products: pixels of a tile, of which this sees all neighbors, and nine taps."""
    pooled = [F.max_pool2d(magnitude, 3, 1, 1) for magnitude in magnitudes[:2]]
    return [*pooled, magnitudes[2].amax((2, 3), keepdim=True)]


def assert_convolves(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> None:
    found = (
        native.conv3x3(x, weight, groups),
        native.conv3x3_input_gradient(grad, weight, groups),
        native.conv3x3_weight_gradient(grad, x, weight, groups),
    )
    results = exact(grad, x, weight, groups)
    for mine, value, magnitude in zip(found, results[:3], shared(results[3:]), strict=True):
        assert mine.shape == value.shape
        assert ((mine.double() - value).abs() <= MINIMAL_FILTERING * magnitude + 1e-30).all()
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert found[2].stride() == torch.empty_like(weight).stride()


@settings(deadline=None, max_examples=examples(60), derandomize=BY_DAY)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 27), st.sampled_from([1, 2, 3]),
    st.integers(0, 9), st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_any_size_and_slice(
    batch: int, eights_in: int, eights_out: int, height: int, width: int, groups: int, beside: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(batch * 1000 + width)
    x = channels_last_slice((batch, 8 * eights_in * groups, height, width), beside, 3)
    grad = channels_last_slice((batch, 8 * eights_out * groups, height, width), 0, beside)
    weight = torch.randn(8 * eights_out * groups, 8 * eights_in, 3, 3).contiguous(memory_format=layout)
    assert_convolves(grad, x, weight, groups)


@pytest.mark.parametrize(("channels", "side", "groups"), [(16, 80, 1), (64, 40, 1), (64, 40, 4), (96, 20, 1)])
def test_sizes_of_the_network(channels: int, side: int, groups: int) -> None:
    x, grad = (channels_last_slice((4, channels, side, side), 0, 0) for _ in range(2))
    assert_convolves(grad, x, torch.randn(channels, channels // groups, 3, 3), groups)


@pytest.mark.parametrize("spread", [1e2, 1e4])
def test_large_values_beside_small_ones(spread: float) -> None:
    torch.manual_seed(1)
    x, grad = (channels_last_slice((2, 32, 21, 19), 0, 8) for _ in range(2))
    for values in (x, grad):
        values.mul_(spread ** torch.rand(2, 1, 21, 19))
    assert_convolves(grad, x + 1000, torch.randn(32, 32, 3, 3) * spread ** torch.rand(32, 32, 1, 1), 1)


def test_channels_of_many_sizes() -> None:
    """Blocks of one, two and three vectors of channels, tiles that fill no block, and blocks of tiles across images."""
    torch.manual_seed(2)
    for wide in (8, 24, 40, 56, 136):
        x, grad = channels_last_slice((3, 264, 7, 9), 0, 0), channels_last_slice((3, wide, 7, 9), 8, 0)
        assert_convolves(grad, x, torch.randn(wide, 264, 3, 3), 1)


def test_the_number_of_threads_changes_no_bit() -> None:
    x, grad = (channels_last_slice((2, 32, 33, 31), 8, 0) for _ in range(2))
    weight, before, found = torch.randn(32, 32, 3, 3), torch.get_num_threads(), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append([native.conv3x3(x, weight), native.conv3x3_weight_gradient(grad, x, weight)])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_the_neighbors_alone(value: float) -> None:
    x, weight = channels_last_slice((1, 8, 9, 9), 0, 0), torch.randn(8, 8, 3, 3)
    x[0, 3, 4, 5] = value
    finite = native.conv3x3(x, weight).isfinite().all(1)[0]
    near = torch.zeros(9, 9, dtype=torch.bool)
    near[3:6, 4:7] = True
    assert torch.equal(finite, ~near)


def test_channels_that_are_no_multiple_of_8_are_refused() -> None:
    with pytest.raises(ValueError, match="conv3x3: channels of a group are no multiple of 8"):
        native.conv3x3(channels_last_slice((1, 12, 4, 4), 0, 0), torch.randn(8, 12, 3, 3))
