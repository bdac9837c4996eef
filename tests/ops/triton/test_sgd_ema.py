"""The optimizer step's kernels against the definition: values, average, copy, loss scale, and what is skipped."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import strategies as st

from tests.sgd_cases import SETTINGS, Flat, assert_as_defined, assert_bad_gradient_is_skipped
from tests.tiers import drawn
from tests.triton_cases import DEVICE
from yolov9k.ops.sgd_ema import SCALE

pytest.importorskip("triton")

pytestmark = pytest.mark.interpret

SIZES = st.lists(st.sampled_from([0, 1, 7, 64, 1500]), min_size=3, max_size=3)


@drawn(
    8, 25,
    st.integers(0, 2**31), SIZES, st.sampled_from([0, 3, 1100]), st.sampled_from([0.01, 10.0, math.inf]),
    st.sampled_from([0.0, 0.937]), st.sampled_from([None, torch.float16, torch.float32]), st.sampled_from([1.0, 1024.0]),
)  # fmt: skip
def test_the_kernels_are_the_definition(
    seed: int, sizes: list[int], rest: int, clip: float, momentum: float, low: torch.dtype | None, scale: float
) -> None:
    flat = Flat(seed, sizes, rest, torch.float32, low).to(DEVICE)
    flat.state[SCALE] = scale
    told = SETTINGS._replace(clip_norm=clip, momentum=momentum, growth=2.0, backoff=0.5, interval=2)
    generator = torch.Generator().manual_seed(seed + 1)
    for _ in range(3):
        flat.grads.copy_(torch.randn(flat.ends[-1], generator=generator) * scale)
        assert_as_defined(flat, "triton", told)


@pytest.mark.twin
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e30])
def test_a_gradient_that_is_not_finite_is_skipped(bad: float) -> None:
    """3e30 is a float32, its square is not: the norm decides, as the definition's does."""
    assert_bad_gradient_is_skipped(Flat(1, [900, 1200, 70], 33, torch.float32, torch.float16).to(DEVICE), "triton", bad)


@pytest.mark.twin
def test_programs_that_take_several_blocks_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole model has more blocks than programs."""
    from yolov9k.kernels import sgd_ema as kernels

    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    monkeypatch.setattr(kernels, "PARTIALS", 2)
    assert_as_defined(Flat(2, [3000, 4100, 999], 2500, torch.float32, torch.float16).to(DEVICE), "triton")


@pytest.mark.twin
def test_the_same_step_twice_is_the_same_to_the_bit() -> None:
    one, two = (Flat(3, [3000, 100, 999], 70, torch.float32).to(DEVICE) for _ in range(2))
    one.step(backend="triton")
    two.step(backend="triton")
    for name in ("values", "grads", "momentum", "ema", "state"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name


@pytest.mark.twin
def test_a_bfloat16_copy_is_a_unit_off_at_most() -> None:
    """Triton's interpreter cuts off where a GPU rounds."""
    flat = Flat(4, [70, 80, 90], 5, torch.float32, torch.bfloat16).to(DEVICE)
    flat.step(backend="triton")
    assert flat.low is not None
    torch.testing.assert_close(flat.low.float(), flat.values[:240], rtol=2**-7, atol=0.0)
