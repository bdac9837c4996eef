"""The loss kernels against the reference, on a GPU or in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loss_cases import LEVELS as STRIDES
from tests.loss_cases import assert_class_gradient_is_exact, results, sample
from tests.support import shared
from tests.tiers import BY_DAY, examples
from tests.tolerances import BFLOAT16_MAPS, LOSS_FLOAT32, LOSS_GRADIENT, LOSS_KERNEL_GRADIENT, LOSS_VALUE
from yolov9k.losses import DetectionLoss
from yolov9k.ops import detection_loss, detection_loss_and_gradient

pytest.importorskip("triton")

pytestmark = pytest.mark.interpret

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@settings(deadline=None, max_examples=examples(60 if DEVICE == "cuda" else 12), derandomize=BY_DAY)
@given(
    st.integers(0, 999), st.integers(1, 3), st.integers(0, 4), st.sampled_from([1, 3, 17]), st.sampled_from([4, 16]),
    st.integers(1, 7), st.booleans(), st.sampled_from([0.0, 0.1]), st.sampled_from([1.0, 2.0]),
)  # fmt: skip
def test_equals_the_reference(
    seed: int, batch: int, boxes: int, classes: int, bins: int, side: int, last: bool, smoothing: float, pos_weight: float
) -> None:
    """Values and gradients; the single pass gives both too, and every run is the same."""
    maps, *operands = sample(seed, batch, boxes, classes, bins, side, last, torch.float32, DEVICE)
    options = {"label_smoothing": smoothing, "pos_weight": pos_weight}
    parts, grads = results("triton", maps, *operands, bins=bins, **options)
    wanted, others = results("reference", maps, *operands, bins=bins, **options)
    torch.testing.assert_close(parts, wanted, **LOSS_FLOAT32)
    for mine, other, level in zip(grads, others, maps, strict=True):
        torch.testing.assert_close(mine, other, **LOSS_KERNEL_GRADIENT)
        assert mine.stride() == level.stride()
    factors = torch.tensor([7.5, 0.5, 1.5], device=DEVICE)
    again, once = detection_loss_and_gradient(maps, *operands, STRIDES, factors, bins, backend="triton", **options)
    exact = {"rtol": 0.0, "atol": 0.0} if DEVICE == "cpu" else LOSS_FLOAT32  # compilers may fuse each kernel in its own way
    torch.testing.assert_close(again, parts, **exact)
    torch.testing.assert_close(once, grads, **exact)
    plain = detection_loss_and_gradient(maps, *operands, STRIDES, factors, bins, backend="reference", **options)
    torch.testing.assert_close(plain[0], wanted)
    torch.testing.assert_close(plain[1], others)


@pytest.mark.twin
def test_low_precision_maps_are_computed_in_float32() -> None:
    maps, *operands = sample(5, 2, 3, 5, 16, 6, True, torch.bfloat16, DEVICE)
    parts, grads = results("triton", maps, *operands, bins=16)
    wanted, others = results("reference", [level.float() for level in maps], *operands, bins=16)
    torch.testing.assert_close(parts, wanted, **LOSS_FLOAT32)
    for mine, other in zip(grads, others, strict=True):
        assert mine.dtype == torch.bfloat16
        # The interpreter cuts off where a GPU rounds: a whole unit in the last place instead of half of one.
        torch.testing.assert_close(mine.float(), other, rtol=2 * BFLOAT16_MAPS["rtol"], atol=LOSS_KERNEL_GRADIENT["atol"])


@pytest.mark.twin
def test_the_gradient_keeps_its_digits_where_a_class_is_improbable() -> None:
    assert_class_gradient_is_exact("triton", DEVICE)


@pytest.mark.twin
def test_extreme_logits_stay_finite() -> None:
    maps, *operands = sample(6, 2, 3, 5, 16, 6, False, torch.float32, DEVICE)
    parts, grads = results("triton", [level.sign() * 1e4 for level in maps], *operands, bins=16)
    assert parts.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("case", ["dense", "sparse_empty_image", "tiny_boxes", "no_targets"])
def test_both_branches_equal_the_published_loss(case: str) -> None:
    golden = np.load(shared(f"golden/ops/loss_{case}.npz"))
    names = ("aux", "main")
    branches = [[torch.from_numpy(golden[f"{n}_level{i}"]).to(DEVICE).requires_grad_() for i in range(3)] for n in names]
    criterion = DetectionLoss(int(golden["nc"]), backend="triton")
    parts = criterion.backward(branches, torch.from_numpy(golden["targets"]).to(DEVICE))
    wanted = torch.from_numpy(golden["dual_items_box_cls_dfl"])
    torch.testing.assert_close(parts.cpu(), wanted, rtol=LOSS_VALUE, atol=1e-9)
    for name, levels in zip(names, branches, strict=True):
        for i, level in enumerate(levels):
            gradient = torch.from_numpy(golden[f"dual_grad_{name}_level{i}"])
            assert level.grad is not None
            assert (level.grad.cpu() - gradient).norm() <= LOSS_GRADIENT * gradient.norm()


def test_the_registration_is_sound() -> None:
    maps, *operands = sample(7, 2, 2, 3, 4, 3, True, torch.float32, DEVICE)
    leaves = [level.requires_grad_() for level in maps]
    torch.library.opcheck(
        torch.ops.yolov9k.detection_loss_fused.default,
        (leaves, *operands, STRIDES, 4, 10, 0.5, 6.0, False, 0.0, 0.0, 0.0, 0.0, 1.0, "triton"),
    )


def test_compiles_into_one_graph() -> None:
    maps, *operands = sample(8, 2, 2, 3, 4, 3, True, torch.float32, DEVICE)
    run = torch.compile(
        lambda m: detection_loss(m, *operands, STRIDES, 4, backend="triton"), fullgraph=True, backend="aot_eager"
    )
    leaves = [level.detach().requires_grad_() for level in maps]
    run(leaves).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)


@pytest.mark.twin
def test_the_training_loss_goes_back_in_one_pass() -> None:
    branches = [sample(seed, 2, 3, 4, 16, 5, True, torch.float32, DEVICE)[0] for seed in (1, 2)]
    boxes = torch.tensor([[[1, 0.4, 0.5, 0.5, 0.6]], [[2, 0.6, 0.5, 0.4, 0.4]]], device=DEVICE)
    counts = torch.ones(2, dtype=torch.int64, device=DEVICE)
    scale = torch.tensor(128.0, device=DEVICE)
    criterion = DetectionLoss(4, backend="triton")
    once = [[level.detach().requires_grad_() for level in branch] for branch in branches]
    twice = [[level.detach().requires_grad_() for level in branch] for branch in branches]
    parts = criterion.backward(once, (boxes, counts), scale)
    total, wanted = criterion(twice, (boxes, counts))
    (total * scale).backward()
    torch.testing.assert_close(parts, wanted, **LOSS_FLOAT32)
    for mine, other in zip(once, twice, strict=True):
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a.grad, b.grad, **LOSS_FLOAT32)
