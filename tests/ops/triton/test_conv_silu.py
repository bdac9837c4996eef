"""The inference convolution's kernel against torch's in float64, on a GPU or in the interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume
from hypothesis import strategies as st

from tests.tiers import drawn
from tests.tolerances import PRODUCT
from tests.triton_cases import draw

pytest.importorskip("triton")
from yolov9k.kernels import conv_silu as kernels

pytestmark = pytest.mark.interpret

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@drawn(
    12, 40,
    st.tuples(st.integers(0, 2), st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from([1, 5, 8, 33]), st.sampled_from([1, 6, 16, 17]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]),
    st.sampled_from([1, 2]), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.integers(0, 99),
)  # fmt: skip
def test_equals_torch(
    size: tuple[int, int, int], c1: int, c2: int, groups: int, kernel: int, stride: int, activation: bool, added: bool,
    wide: bool, dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    """Every size, window, stride and number of groups; slices in and out; a residual."""
    batch, height, width = size
    assume(groups * c1 * c2 < 1000)
    torch.manual_seed(seed)
    x = draw((batch, c1 * groups, height, width), dtype, wide, seed)
    weight = (torch.randn(c2 * groups, c1, kernel, kernel) / (c1 * kernel**2) ** 0.5).to(DEVICE, dtype)
    bias = torch.randn(c2 * groups, device=DEVICE)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), stride, kernel // 2, 1, groups)
    residual = draw(tuple(wanted.shape), dtype, wide, seed + 1) if added else None
    wanted = (F.silu(wanted) if activation else wanted) + (0 if residual is None else residual.double())
    out = draw(tuple(wanted.shape), dtype, wide, 2)
    found = kernels.conv_silu(x, weight, bias, stride, kernel // 2, groups, activation, out, residual)
    assert found is out
    torch.testing.assert_close(out.double(), wanted, **PRODUCT[dtype])


@pytest.mark.twin
@pytest.mark.parametrize("config", kernels.CONFIGS)
def test_every_tile_gives_the_same(config: kernels.Config) -> None:
    torch.manual_seed(0)
    x, weight = draw((2, 40, 6, 5), torch.float32, True, 0), torch.randn(70, 40, 3, 3, device=DEVICE) / 20
    bias = torch.randn(70, device=DEVICE)
    found = kernels.conv_silu(x, weight, bias, 1, 1, 1, True, config=config)
    torch.testing.assert_close(found, F.silu(F.conv2d(x, weight, bias, 1, 1)), **PRODUCT[torch.float32])


@pytest.mark.twin
def test_an_out_that_does_not_fit_is_refused() -> None:
    x, weight, bias = draw((1, 2, 4, 4), torch.float32, False, 0), torch.ones(3, 2, 3, 3), torch.ones(3)
    for out in (torch.empty(1, 3, 4, 4), draw((1, 3, 3, 4), torch.float32, False, 0)):
        with pytest.raises(ValueError, match=r"out must be channels-last \[1, 3, 4, 4\]"):
            kernels.conv_silu(x, weight.to(DEVICE), bias.to(DEVICE), 1, 1, 1, True, out.to(DEVICE))
