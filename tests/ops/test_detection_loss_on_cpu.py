"""The compiled loss against the definition: values, gradients, precisions, threads, what it leaves to plain torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loss_cases import (
    BINS,
    LEVELS,
    STRIDES,
    assert_class_gradient_is_exact,
    branch,
    operands,
    results,
    sample,
)
from tests.support import shared
from tests.tiers import BY_DAY, examples
from tests.tolerances import BFLOAT16_MAPS, LOSS_FLOAT32, LOSS_GRADIENT, LOSS_KERNEL_GRADIENT, LOSS_VALUE
from yolov9k import native
from yolov9k.losses import DetectionLoss
from yolov9k.ops import detection_loss, detection_loss_and_gradient

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_missing() or "built")


@settings(deadline=None, max_examples=examples(40), derandomize=BY_DAY)
@given(
    st.integers(0, 999), st.integers(1, 3), st.integers(0, 4), st.sampled_from([1, 3, 17, 80]), st.sampled_from([2, 4, 16]),
    st.integers(1, 13), st.booleans(), st.sampled_from([0.0, 0.1]), st.sampled_from([1.0, 2.0]),
)  # fmt: skip
def test_the_compiled_loss_is_the_definition(
    seed: int, batch: int, boxes: int, classes: int, bins: int, side: int, last: bool, smoothing: float, pos_weight: float
) -> None:
    """Values and gradients; the single pass gives both too, to the last bit."""
    maps, *targets = sample(seed, batch, boxes, classes, bins, side, last, torch.float32)
    options = {"label_smoothing": smoothing, "pos_weight": pos_weight}
    parts, grads = results("cpu", maps, *targets, bins=bins, **options)
    wanted, others = results("reference", maps, *targets, bins=bins, **options)
    torch.testing.assert_close(parts, wanted, **LOSS_FLOAT32)
    torch.testing.assert_close(grads, others, **LOSS_KERNEL_GRADIENT)
    factors = torch.tensor([7.5, 0.5, 1.5])
    again, once = detection_loss_and_gradient(maps, *targets, LEVELS, factors, bins, backend="cpu", **options)
    assert torch.equal(again, parts)
    assert all(torch.equal(mine, other) for mine, other in zip(once, grads, strict=True))


def test_the_compiled_loss_does_not_depend_on_the_number_of_threads() -> None:
    maps, *targets = sample(4, 3, 4, 80, 16, 40, True, torch.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(results("cpu", maps, *targets, bins=16))
    finally:
        torch.set_num_threads(threads)
    (parts, grads), (other, others) = found
    assert torch.equal(parts, other)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(grads, others, strict=True))


def test_the_compiled_loss_computes_bfloat16_maps_in_float32() -> None:
    maps, *targets = sample(5, 2, 3, 5, 16, 6, True, torch.bfloat16)
    parts, grads = results("cpu", maps, *targets, bins=16)
    wanted, others = results("reference", [level.float() for level in maps], *targets, bins=16)
    torch.testing.assert_close(parts, wanted, **LOSS_FLOAT32)
    for mine, other in zip(grads, others, strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.float(), other, rtol=BFLOAT16_MAPS["rtol"], atol=LOSS_KERNEL_GRADIENT["atol"])


def test_the_compiled_gradient_keeps_its_digits_where_a_class_is_improbable() -> None:
    assert_class_gradient_is_exact("cpu")


def test_the_compiled_loss_of_extreme_logits_stays_finite_and_nan_stays_nan() -> None:
    maps, *targets = sample(6, 2, 3, 5, 16, 6, False, torch.float32)
    parts, grads = results("cpu", [level.sign() * 1e4 for level in maps], *targets, bins=16)
    assert parts.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)
    maps[0][0, 67, 0, 0] = math.nan
    assert results("cpu", maps, *targets, bins=16)[0][1].isnan()


@pytest.mark.parametrize("case", ["dense", "sparse_empty_image", "tiny_boxes", "no_targets"])
def test_both_branches_of_the_compiled_loss_equal_the_published_one(case: str) -> None:
    golden = np.load(shared(f"golden/ops/loss_{case}.npz"))
    branches = [[torch.from_numpy(golden[f"{n}_level{i}"]).requires_grad_() for i in range(3)] for n in ("aux", "main")]
    parts = DetectionLoss(int(golden["nc"]), backend="cpu").backward(branches, torch.from_numpy(golden["targets"]))
    torch.testing.assert_close(parts, torch.from_numpy(golden["dual_items_box_cls_dfl"]), rtol=LOSS_VALUE, atol=1e-9)
    for name, levels in zip(("aux", "main"), branches, strict=True):
        for i, level in enumerate(levels):
            gradient = torch.from_numpy(golden[f"dual_grad_{name}_level{i}"])
            assert level.grad is not None
            assert (level.grad - gradient).norm() <= LOSS_GRADIENT * gradient.norm()


def test_the_compiled_registration_is_sound() -> None:
    maps, *targets = sample(7, 2, 2, 3, 4, 3, True, torch.float32)
    leaves = [level.requires_grad_() for level in maps]
    arguments = (leaves, *targets, LEVELS, 4, 10, 0.5, 6.0, False, 0.0, 0.0, 14.99, 0.0, 1.0, "cpu")
    torch.library.opcheck(torch.ops.yolov9k.detection_loss_fused.default, arguments)


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float16), (torch.float32, torch.bfloat16)])
def test_maps_that_the_compiled_loss_does_not_read_go_to_the_definition(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    maps = [level.to(dtype) for level, dtype in zip(branch(0), dtypes, strict=True)]
    given = (maps, *operands(), STRIDES, BINS)
    assert torch.equal(detection_loss(*given), detection_loss(*given, backend="reference"))
    with pytest.raises(TypeError, match="maps"):
        detection_loss(*given, backend="cpu")
