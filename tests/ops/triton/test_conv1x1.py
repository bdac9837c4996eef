"""The 1x1 convolutions' kernels against float64, on a GPU or in the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.plain_kernels import PlainKernels
from tests.tiers import BY_DAY, examples
from tests.tolerances import LARGE_MEAN, PRODUCT, RECOMPUTED

pytest.importorskip("triton")
from yolov9k.kernels import conv1x1, conv_bn_silu
from yolov9k.kernels._operands import Affine, Epilogue

pytestmark = pytest.mark.interpret

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN = PlainKernels()
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 16, 33]),
                   st.sampled_from([1, 7, 16, 40]))  # fmt: skip


def draw(channels: int, size: tuple[int, int, int], dtype: torch.dtype, wide: bool, mean: float = 0.0) -> Tensor:
    """A channels-last map, or a slice of a wider one, of values that have sixteen bits' digits."""
    batch, height, columns = size
    whole = torch.randn(batch, channels + 6 * wide, height, columns) + mean
    return whole.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)[:, 2 * wide : 2 * wide + channels]


def vectors(count: int, width: int) -> list[Tensor]:
    return list(torch.randn(count, width).to(DEVICE))


def double(operand: Affine | Epilogue) -> Affine | Epilogue:
    return type(operand)(*(part.double() if isinstance(part, Tensor) else part for part in operand))


@pytest.mark.twin
@settings(deadline=None, max_examples=examples(30), derandomize=BY_DAY)
@given(SHAPES, st.booleans(), st.booleans(), st.booleans(), st.sampled_from(DTYPES), st.integers(0, 99))
def test_forward(shape: tuple[int, ...], before: bool, statistics: bool, wide: bool, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    *size, depth, width = shape
    x, weight = draw(depth, tuple(size), dtype, wide), (torch.randn(width, depth) / depth**0.5).to(DEVICE, dtype)
    prologue = None
    if before:
        center, scale, shift = vectors(3, depth)
        prologue = Affine(center, scale, shift, (torch.arange(depth, device=DEVICE) % 3 > 0).float())
    out = draw(width, tuple(size), dtype, wide)
    _, parts, rows = conv1x1.forward(x, weight, out, prologue, statistics=statistics)
    wanted = torch.empty(out.shape, dtype=torch.float64, device=DEVICE)
    exact = None if prologue is None else double(prologue)
    PLAIN.conv1x1(x.double(), weight.double(), wanted, exact, False)
    torch.testing.assert_close(out.double(), wanted, **PRODUCT[dtype])
    if statistics and out.numel():
        found = torch.empty(2, width, device=DEVICE)
        conv_bn_silu.merge_statistics(parts, out.numel() // width, rows, 1e-3, None, None, found)
        stored = out.double().permute(1, 0, 2, 3).flatten(1)
        mean, invstd = stored.mean(1), (stored.var(1, correction=0) + 1e-3).rsqrt()
        torch.testing.assert_close(found.double(), torch.stack((mean, invstd)), **PRODUCT[torch.float32])


@pytest.mark.twin
@settings(deadline=None, max_examples=examples(15), derandomize=BY_DAY)
@given(SHAPES, st.booleans(), st.booleans(), st.sampled_from(DTYPES), st.integers(0, 99))
def test_bias_and_silu(shape: tuple[int, ...], activation: bool, wide: bool, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    *size, depth, width = shape
    x, weight = draw(depth, tuple(size), dtype, wide), (torch.randn(width, depth, 1, 1) / depth**0.5).to(DEVICE, dtype)
    (bias,) = vectors(1, width)
    found = conv1x1.forward(x, weight, bias=bias, activation=activation)[0]
    wanted = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double())
    wanted = torch.nn.functional.silu(wanted) if activation else wanted
    torch.testing.assert_close(found.double(), wanted, **PRODUCT[dtype])


@pytest.mark.twin
@settings(deadline=None, max_examples=examples(30), derandomize=BY_DAY)
@given(
    SHAPES, st.integers(0, 2), st.sampled_from([None, True, False]), st.booleans(), st.sampled_from(DTYPES), st.integers(0, 99)
)  # fmt: skip
def test_input_gradient(
    shape: tuple[int, ...], addends: int, activation: bool | None, wide: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    *size, depth, width = shape
    grad, weight = draw(width, tuple(size), dtype, wide), (torch.randn(width, depth) / width**0.5).to(DEVICE, dtype)
    others = [draw(depth, tuple(size), dtype, wide) for _ in range(addends)]
    epilogue = None
    if activation is not None:
        gamma, beta, mean, spread = vectors(4, depth)
        epilogue = Epilogue(draw(depth, tuple(size), dtype, wide), gamma, beta, mean, spread.abs() + 0.5, activation)
    out = draw(depth, tuple(size), dtype, wide)
    parts = conv1x1.input_gradient(grad, weight, out, others, epilogue)[1]
    wanted = torch.empty(out.shape, dtype=torch.float64, device=DEVICE)
    exact = None if epilogue is None else double(epilogue)
    sums = PLAIN.conv1x1_input_gradient(grad.double(), weight.double(), wanted, [o.double() for o in others], exact)
    torch.testing.assert_close(out.double(), wanted, **PRODUCT[dtype])
    if parts is not None and sums is not None:
        torch.testing.assert_close(parts.sum(1).double(), sums[:, 0], **PRODUCT[torch.float32])


@pytest.mark.twin
@settings(deadline=None, max_examples=examples(20), derandomize=BY_DAY)
@given(SHAPES, st.booleans(), st.booleans(), st.sampled_from(DTYPES), st.integers(0, 99))
def test_weight_gradient(shape: tuple[int, ...], before: bool, wide: bool, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    *size, depth, width = shape
    grad, x = draw(width, tuple(size), dtype, wide), draw(depth, tuple(size), dtype, wide)
    prologue = Affine(*vectors(3, depth), torch.ones(depth, device=DEVICE)) if before else None
    found = conv1x1.weight_gradient(grad, x, prologue)
    exact = None if prologue is None else double(prologue)
    wanted = PLAIN.conv1x1_weight_gradient(grad.double(), x.double(), exact)
    # An activation that is recomputed is rounded to the maps' dtype first, as a stored one would be.
    torch.testing.assert_close(found.double(), wanted, **(RECOMPUTED[dtype] if before else PRODUCT[torch.float32]))
    assert torch.equal(found, conv1x1.weight_gradient(grad, x, prologue))


@pytest.mark.twin
def test_statistics_lose_no_digits_at_a_mean_of_ten_thousand() -> None:
    torch.manual_seed(0)
    x = draw(4, (2, 9, 11), torch.float32, False, 1e4)
    _, parts, rows = conv1x1.forward(x, torch.eye(4, device=DEVICE), statistics=True)
    found = torch.empty(2, 4, device=DEVICE)
    conv_bn_silu.merge_statistics(parts, 198, rows, 0.0, None, None, found)
    stored = x.double().permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(found[1].double(), stored.std(1, correction=0).reciprocal(), **LARGE_MEAN)


@pytest.mark.twin
@pytest.mark.parametrize("config", conv1x1.CONFIGS)
def test_every_tile_gives_the_same_product(config: conv1x1.Config) -> None:
    torch.manual_seed(0)
    x, weight = draw(50, (2, 9, 11), torch.float32, True), torch.randn(70, 50, device=DEVICE)
    found = conv1x1.forward(x, weight, config=config)[0]
    torch.testing.assert_close(found, torch.nn.functional.conv2d(x, weight[..., None, None]), **PRODUCT[torch.float32])


@pytest.mark.twin
@pytest.mark.parametrize("config", conv1x1.WEIGHT_CONFIGS)
def test_every_tile_gives_the_same_weight_gradient(config: conv1x1.Config) -> None:
    torch.manual_seed(0)
    grad, x = draw(70, (2, 9, 11), torch.float32, True), draw(50, (2, 9, 11), torch.float32, False)
    wanted = PLAIN.conv1x1_weight_gradient(grad.double(), x.double(), None)
    torch.testing.assert_close(conv1x1.weight_gradient(grad, x, config=config).double(), wanted, **PRODUCT[torch.float32])


@pytest.mark.twin
def test_what_does_not_fit_is_refused() -> None:
    x, weight = draw(4, (1, 3, 3), torch.float32, False), torch.ones(5, 4, device=DEVICE)
    with pytest.raises(ValueError, match="out must be channels-last"):
        conv1x1.forward(x, weight, torch.empty(1, 5, 3, 3, device=DEVICE))
    with pytest.raises(ValueError, match="out must have 5 channels of 4"):
        conv1x1.forward(x, weight, draw(6, (1, 3, 3), torch.float32, False))
    with pytest.raises(ValueError, match="addends must be at most 2, got 3"):
        conv1x1.input_gradient(draw(5, (1, 3, 3), torch.float32, False), weight, addends=[x] * 3)
