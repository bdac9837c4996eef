"""The pooling kernels against torch's, on a GPU or in the interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.tiers import BY_DAY, drawn, examples
from tests.tolerances import ROUNDED
from tests.triton_cases import DEVICE, draw

pytest.importorskip("triton")
from yolov9k.kernels import pool

pytestmark = pytest.mark.interpret

DTYPES = st.sampled_from([torch.float32, torch.float16])
SIZES = st.tuples(st.integers(0, 3), st.sampled_from([1, 3, 64, 65]), st.integers(1, 7), st.integers(1, 7))
WINDOWS = [(5, 1, 2), (3, 2, 1), (2, 2, 0), (1, 1, 0)]


@settings(deadline=None, max_examples=examples(40), derandomize=BY_DAY)
@given(SIZES, st.sampled_from(WINDOWS), DTYPES, st.booleans(), st.booleans(), st.integers(0, 99))
def test_max_pool(
    size: tuple[int, ...], window: tuple[int, int, int], dtype: torch.dtype, wide: bool, added: bool, seed: int
) -> None:
    """Equal to torch's, ties included; the gradient too, with another one added."""
    kernel, stride, padding = window
    assume(min(size[2:]) + 2 * padding >= kernel)
    x = draw(size, dtype, wide, seed)
    leaf = x.detach().clone().requires_grad_()
    wanted = F.max_pool2d(leaf, kernel, stride, padding) if size[0] else leaf.new_empty(pool.max_pool(x, *window)[0].shape)
    out = draw(tuple(wanted.shape), dtype, wide, 1)
    found, places = pool.max_pool(x, kernel, stride, padding, out)
    assert found is out
    assert torch.equal(found, wanted)
    grad, addend = draw(tuple(wanted.shape), dtype, wide, seed + 1), draw(size, dtype, wide, seed + 2) if added else None
    if size[0]:
        wanted.backward(grad)
        assert leaf.grad is not None
        total = leaf.grad.double() + (0 if addend is None else addend.double())
        mine = pool.max_pool_backward(
            grad, places, tuple(size[2:]), kernel, stride, padding, draw(size, dtype, wide, 2), addend
        )  # type: ignore[arg-type]
        torch.testing.assert_close(mine.double(), total, **ROUNDED[dtype])


@drawn(8, 25, SIZES, DTYPES, st.booleans(), st.integers(0, 99))
def test_avg_pool(size: tuple[int, ...], dtype: torch.dtype, wide: bool, seed: int) -> None:
    assume(min(size[2:]) > 1)
    x = draw(size, dtype, wide, seed)
    leaf = x.detach().double().requires_grad_()
    wanted = F.avg_pool2d(leaf, 2, 1) if size[0] else leaf[:, :, 1:, 1:]
    found = pool.avg_pool(x, draw(tuple(wanted.shape), dtype, wide, 1))
    torch.testing.assert_close(found.double(), wanted, **ROUNDED[dtype])
    grad = draw(tuple(wanted.shape), dtype, wide, seed + 1)
    if size[0]:
        wanted.backward(grad.double())
        mine = pool.avg_pool_backward(grad, draw(size, dtype, wide, 2))
        torch.testing.assert_close(mine.double(), leaf.grad, **ROUNDED[dtype])


@pytest.mark.twin
def test_not_a_number_and_infinities_as_torch_has_them() -> None:
    x = draw((1, 2, 6, 6), torch.float32, False, 0).clone()
    x[0, 0, 2, 3], x[0, 1] = float("nan"), float("-inf")
    x[0, 1, 4, 4] = float("inf")
    for window in WINDOWS:
        torch.testing.assert_close(pool.max_pool(x, *window)[0], F.max_pool2d(x, *window), equal_nan=True, rtol=0, atol=0)


def test_what_does_not_fit_is_refused() -> None:
    x = draw((1, 2, 6, 6), torch.float32, False, 0)
    with pytest.raises(ValueError, match="kernel must be 1 to 15 and padding at most half of it, got 3 and 2"):
        pool.max_pool(x, 3, 1, 2)
    with pytest.raises(ValueError, match="out must be channels-last"):
        pool.avg_pool(x, torch.empty(1, 2, 5, 5, device=DEVICE))
