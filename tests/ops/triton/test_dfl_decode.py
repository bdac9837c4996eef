"""The Triton kernel of dfl_decode against the reference, on a GPU or in the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

from tests.tiers import drawn
from tests.tolerances import DFL_FLOAT32
from tests.triton_cases import DEVICE, random_maps
from yolov9k.ops import dfl_decode
from yolov9k.ops.reference.dfl_decode import dfl_decode as reference

pytest.importorskip("triton")

pytestmark = pytest.mark.interpret


@drawn(
    8, 25,
    st.integers(0, 2**31), st.integers(0, 2), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    st.sampled_from([1, 5, 17]), st.sampled_from([1, 3, 16]), st.booleans(),
)  # fmt: skip
def test_dfl_decode_equals_the_reference(
    seed: int, batch: int, sizes: list[tuple[int, int]], classes: int, bins: int, last: bool
) -> None:
    maps = random_maps(seed, batch, sizes, 4 * bins + classes, torch.float32)
    if last:
        maps = [level.contiguous(memory_format=torch.channels_last) for level in maps]
    strides = [8, 16, 32][: len(maps)]
    leaves = [level.detach().requires_grad_() for level in maps]
    twins = [level.detach().requires_grad_() for level in maps]
    found, wanted = dfl_decode(leaves, strides, bins, backend="triton"), reference(twins, strides, bins)
    torch.testing.assert_close(found, wanted, **DFL_FLOAT32)
    cotangent = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    for output in (found, wanted):
        output.backward(cotangent)
    for mine, other in zip(leaves, twins, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, **DFL_FLOAT32)
        assert mine.grad is not None
        assert mine.grad.stride() == mine.stride()


@pytest.mark.twin
def test_dfl_decode_in_low_precision() -> None:
    """Its error against float64 is at most twice that of torch's own operators in the same precision."""
    for dtype in (torch.bfloat16, torch.float16):
        maps = random_maps(1, 2, [(8, 8), (3, 5)], 70, dtype)
        exact = reference([level.double() for level in maps], [8, 16])
        own = (reference(maps, [8, 16]).double() - exact).abs()
        ours = (dfl_decode(maps, [8, 16], backend="triton").double() - exact).abs()
        assert ours.max() <= 2 * own.max()
        assert ours.mean() <= 2 * own.mean()


@pytest.mark.twin
def test_dfl_decode_of_strange_inputs() -> None:
    maps = random_maps(2, 1, [(4, 6)], 67, torch.float32)
    wide = [torch.cat((maps[0], maps[0]), 3)[..., ::2]]
    torch.testing.assert_close(dfl_decode(wide, [8], backend="triton"), reference(wide, [8]), **DFL_FLOAT32)
    huge = [level.sign() * 1e30 for level in maps]
    assert dfl_decode(huge, [8], backend="triton").isfinite().all()
    leaf = [level.requires_grad_() for level in maps]
    dfl_decode(leaf, [8], backend="triton")[:, :4].sum().backward()
    assert leaf[0].grad is not None
    assert leaf[0].grad.isfinite().all()
