"""The decode: against numpy written from the paper, gradients, layouts, precisions, registration, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.backend_checks import BackendChecks
from tests.tiers import BY_DAY, examples
from tests.tolerances import FLOAT64_LOOPS
from yolov9k.ops import available, dfl_decode
from yolov9k.ops.reference.dfl_decode import dfl_decode as reference

BACKENDS = [name for name in available("dfl_decode") if name != "triton"]  # that one: tests/test_triton.py


def random_maps(
    seed: int, batch: int, sizes: list[tuple[int, int]], classes: int, bins: int = 16, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 4 * bins + classes)
    return [(3 * torch.randn(*shape, h, w, generator=generator, dtype=torch.float64)).to(dtype) for h, w in sizes]


def by_hand(maps: list[np.ndarray], strides: list[int], bins: int) -> np.ndarray:
    """Boxes and probabilities [B, 4 + nc, A], a cell at a time (arXiv 2006.04388, eq. 6)."""
    columns = []
    for level, stride in zip(maps, strides, strict=True):
        batch, channels, height, width = level.shape
        for row in range(height):
            for column in range(width):
                cell = np.zeros((batch, channels - 4 * bins + 4))
                sides = np.exp(level[:, : 4 * bins, row, column].reshape(batch, 4, bins))
                left, top, right, bottom = ((sides * np.arange(bins)).sum(-1) / sides.sum(-1)).T
                cell[:, 0], cell[:, 1] = column + 0.5 + (right - left) / 2, row + 0.5 + (bottom - top) / 2
                cell[:, 2], cell[:, 3] = left + right, top + bottom
                cell[:, :4] *= stride
                cell[:, 4:] = 1 / (1 + np.exp(-level[:, 4 * bins :, row, column]))
                columns.append(cell)
    return np.stack(columns, -1)


sizes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3)


@settings(deadline=None, max_examples=examples(40), derandomize=BY_DAY)
@given(st.integers(0, 2**31), st.integers(1, 3), sizes, st.integers(1, 5), st.sampled_from([1, 2, 7, 16]))
def test_equals_the_definition(seed: int, batch: int, shapes: list[tuple[int, int]], classes: int, bins: int) -> None:
    maps, strides = random_maps(seed, batch, shapes, classes, bins), [8, 16, 32][: len(shapes)]
    wanted = torch.from_numpy(by_hand([level.numpy() for level in maps], strides, bins))
    for backend in BACKENDS:
        torch.testing.assert_close(dfl_decode(maps, strides, bins, backend=backend), wanted, **FLOAT64_LOOPS)


def test_empty_batch_gives_an_empty_result() -> None:
    assert dfl_decode(random_maps(0, 0, [(3, 2)], 4), [8]).shape == (0, 8, 6)


def test_gradients_are_the_references() -> None:
    maps = [level.requires_grad_() for level in random_maps(1, 2, [(3, 4), (2, 1)], 3)]
    twins = [level.detach().clone().requires_grad_() for level in maps]
    weight = torch.randn(2, 7, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (dfl_decode(maps, [8, 16]) * weight).sum().backward()
    (reference(twins, [8, 16]) * weight).sum().backward()
    for ours, wanted in zip(maps, twins, strict=True):
        torch.testing.assert_close(ours.grad, wanted.grad, **FLOAT64_LOOPS)
    small = [level.requires_grad_() for level in random_maps(3, 1, [(1, 2)], 1, 4)]
    assert torch.autograd.gradcheck(lambda *levels: reference(levels, [8], 4), small)


def test_a_second_derivative_is_refused() -> None:
    maps = [level.requires_grad_() for level in random_maps(9, 1, [(2, 2)], 1)]
    with pytest.raises(RuntimeError, match="dfl_decode: has no second derivative"):
        torch.autograd.grad(dfl_decode(maps, [8]).square().sum(), maps, create_graph=True)


def test_large_logits_do_not_overflow() -> None:
    maps = random_maps(4, 1, [(2, 2)], 2, dtype=torch.float32)
    maps[0][:, ::3] = 80.0 * maps[0][:, ::3].sign()
    assert dfl_decode([maps[0] * 1e30], [8]).isfinite().all()


def test_layout_changes_nothing() -> None:
    maps = random_maps(5, 2, [(3, 4), (2, 2)], 3, dtype=torch.float32)
    plain = dfl_decode(maps, [8, 16])
    assert torch.equal(dfl_decode([level.contiguous(memory_format=torch.channels_last) for level in maps], [8, 16]), plain)
    assert torch.equal(dfl_decode([level.transpose(2, 3).contiguous().transpose(2, 3) for level in maps], [8, 16]), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_good_as_torchs_own(dtype: torch.dtype) -> None:
    """Against float64 of the same inputs; torch's own softmax and matrix product set the measure."""
    maps = random_maps(6, 1, [(4, 4)], 3, dtype=dtype)
    exact = reference([level.double() for level in maps], [8])[:, :4]
    own = maps[0][:, :64].reshape(1, 4, 16, 16).softmax(2)
    own = (own * torch.arange(16, dtype=dtype)[:, None]).sum(2).double() * 8
    distances = reference([level.double() for level in maps], [8])
    truth = maps[0][:, :64].double().reshape(1, 4, 16, 16).softmax(2).mul(torch.arange(16)[:, None]).sum(2) * 8
    measure = (own - truth).abs().max()
    found = dfl_decode(maps, [8])[:, :4].double()
    rounding = distances[:, :4].abs().max() * torch.finfo(dtype).eps  # a coordinate is stored in the same 16 bits
    assert (found - exact).abs().max() <= 2 * (measure + rounding)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_registration_is_sound(backend: str) -> None:
    maps = [level.requires_grad_() for level in random_maps(7, 1, [(2, 3), (1, 2)], 2, dtype=torch.float32)]
    torch.library.opcheck(torch.ops.yolov9k.dfl_decode.default, (maps, [8, 16], 16, "reference"))
    real = dfl_decode(maps, [8, 16], backend=backend)
    with FakeTensorMode() as mode:
        fake = dfl_decode([mode.from_tensor(level) for level in maps], [8, 16])
    assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
    compiled = torch.compile(lambda *levels: dfl_decode(list(levels), [8, 16]), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*maps), real)


@pytest.mark.parametrize(
    ("maps", "strides", "error", "message"),
    [
        ([], [], ValueError, "maps must be at least one level, got 0"),
        ([torch.zeros(1, 65, 2, 2)], [8, 16], ValueError, r"strides must be 1 values, got \[8, 16\]"),
        ([torch.zeros(1, 65, 2, 2)], [0], ValueError, r"strides must be above 0, got \[0\]"),
        ([torch.zeros(1, 64, 2, 2)], [8], ValueError, r"maps\[0\] must be more than 4\*reg_max=64 channels wide, got 64"),
        ([torch.zeros(65, 2, 2)], [8], ValueError, r"maps\[0\] must have shape"),
        (
            [torch.zeros(1, 65, 2, 2), torch.zeros(2, 65, 1, 1)],
            [8, 16],
            ValueError,
            r"maps\[1\] must have shape \[1, 65, \*, \*\]",
        ),
        ([torch.zeros(1, 65, 2, 2), torch.zeros(1, 65, 1, 1).bfloat16()], [8, 16], ValueError, r"maps\[1\] must be of dtype"),
        ([torch.zeros(1, 65, 2, 2).int()], [8], TypeError, r"maps\[0\] must be of a floating-point dtype, got torch.int32"),
        ([torch.zeros(1, 65, 2, 2), torch.zeros(1, 65, 1, 1, device="meta")], [8, 16], ValueError, r"maps\[1\] must be on cpu"),
    ],
)
def test_wrong_arguments_are_named(maps: list[Tensor], strides: list[int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"dfl_decode: {message}"):
        dfl_decode(maps, strides)


def test_bins_must_be_some() -> None:
    with pytest.raises(ValueError, match="reg_max must be at least 1, got 0"):
        dfl_decode([torch.zeros(1, 65, 2, 2)], [8], 0)


def test_wide_range_of_values_keeps_probabilities_in_range() -> None:
    found: Any = dfl_decode(random_maps(8, 1, [(2, 2)], 5, dtype=torch.float32), [8])
    assert ((found[:, 4:] >= 0) & (found[:, 4:] <= 1)).all()


class TestBackends(BackendChecks):
    operator = "dfl_decode"

    def call(self, backend: str) -> Tensor:
        return dfl_decode([torch.zeros(1, 66, 2, 2)], [8], backend=backend)
