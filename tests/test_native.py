"""The compiled module against the same definition in plain torch."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from tests.tolerances import NATIVE_IOU_CUDA
from yolov9k import native

needs_native = pytest.mark.skipif(not native.available(), reason=native.why_missing() or "built")
needs_cuda = pytest.mark.skipif(not native.available("cuda"), reason=native.why_missing("cuda") or "built")


def reference_iou(a: Tensor, b: Tensor) -> Tensor:
    """The definition: overlap over union, areas clamped at zero, 0 where the union is 0."""
    size_a, size_b = (a[:, 2:] - a[:, :2]).clamp(min=0), (b[:, 2:] - b[:, :2]).clamp(min=0)
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    union = size_a.prod(-1)[:, None] + size_b.prod(-1)[None] - overlap
    return torch.where(union == 0, torch.zeros_like(union), overlap / union)


def assert_same(ours: Tensor, expected: Tensor) -> None:
    """Equal to the bit, NaN where NaN: both sides round the same operations in the same order."""
    torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


boxes = hnp.arrays(
    "float32",
    st.tuples(st.integers(0, 9), st.just(4)),
    # Few whole numbers make ties, touching, inverted and identical boxes likely; the wide ones overflow and underflow.
    elements=st.one_of(st.integers(-3, 6).map(float), st.floats(width=32, allow_nan=True, allow_infinity=True)),
)


@needs_native
@settings(deadline=None, max_examples=200)
@given(boxes, boxes)
def test_equals_the_definition_for_any_boxes(a: Any, b: Any) -> None:
    a, b = torch.from_numpy(a), torch.from_numpy(b)
    ours = native.pairwise_iou(a, b)
    assert ours.shape == (len(a), len(b))
    assert_same(ours, reference_iou(a, b))


@needs_native
def test_known_values() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5], [float("nan"), 0, 1, 1]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [5, 5, 5, 5]])
    nan = float("nan")
    expected = torch.tensor([[1, 1 / 7, 0, 0], [0, 0, 0, 0], [nan, nan, nan, nan]])
    assert_same(native.pairwise_iou(a, b), expected)


@needs_native
def test_non_contiguous_rows_and_columns() -> None:
    pool = torch.rand(40, 7, generator=torch.Generator().manual_seed(0)) * 10
    a, b = pool[::3, 1:5], pool.T[:4].T
    assert not a.is_contiguous()
    assert not b.is_contiguous()
    assert_same(native.pairwise_iou(a, b), reference_iou(a, b))


@needs_native
def test_rows_that_are_not_16_byte_aligned() -> None:
    flat = torch.arange(41.0)
    a = flat[1:].view(10, 4)
    assert a.data_ptr() % 16
    assert_same(native.pairwise_iou(a, a), reference_iou(a, a))


@needs_native
def test_arguments_are_left_alone_and_no_gradient_flows() -> None:
    a = torch.tensor([[0.0, 0, 2, 2]], requires_grad=True)
    out = native.pairwise_iou(a, a)
    assert not out.requires_grad
    assert a.tolist() == [[0, 0, 2, 2]]


@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.float64), TypeError, "a must be float32, not torch.float64"),
        (torch.zeros(2, 4, dtype=torch.int64), TypeError, "a must be float32, not torch.int64"),
        ([[0.0, 0, 1, 1]], TypeError, "a must be a tensor, not list"),
        (torch.zeros(4), ValueError, r"a must have the shape \[n, 4\], not \[4\]"),
        (torch.zeros(2, 5), ValueError, r"a must have the shape \[n, 4\], not \[2, 5\]"),
        (torch.zeros(2, 4, device="meta"), ValueError, "a must be on the CPU or a CUDA device, not on meta"),
    ],
)
def test_wrong_arguments_are_named(a: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        native.pairwise_iou(a, torch.zeros(1, 4))
    with pytest.raises(error, match="b" + message[1:]):
        native.pairwise_iou(torch.zeros(1, 4), a)


@needs_native
def test_the_module_itself_refuses_null_and_negative() -> None:
    from yolov9k import _native

    assert _native.pairwise_iou(0, 0, 0, 5, 0) == (1, "the address of the boxes is null")
    assert _native.pairwise_iou(0, 0, 0, 0, 0) == (0, "")
    assert _native.pairwise_iou(64, 1, 64, 1, 0) == (1, "the address of the output is null")
    assert _native.pairwise_iou(64, -1, 64, 1, 64) == (1, "the number of boxes is negative")
    assert _native.pairwise_iou(64, 2**31, 64, 1, 64) == (1, "more than 2147483647 boxes")
    with pytest.raises(TypeError):
        _native.pairwise_iou(-1, 1, 64, 1, 64)


@needs_native
def test_build_info_tells_how_it_was_compiled() -> None:
    info = native.build_info()
    assert set(info) == {"version", "compiler", "cuda", "archs"}
    assert (info["cuda"] is None) == (info["archs"] == [])


@needs_native
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_launch_without_a_gpu_is_an_error_with_a_message() -> None:
    from yolov9k import _native

    if native.build_info()["cuda"] is None:
        pytest.skip("built without CUDA")
    code, message = _native.pairwise_iou_cuda(64, 1, 64, 1, 64, 0)
    assert code == 2
    assert "CUDA" in message


def test_a_missing_module_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yolov9k._native", None)  # makes the import fail as where nothing was built
    native._load.cache_clear()
    try:
        assert not native.available()
        assert "pip install -e ." in native.why_missing()
        with pytest.raises(RuntimeError, match="not built"):
            native.pairwise_iou(torch.zeros(1, 4), torch.zeros(1, 4))
    finally:
        native._load.cache_clear()


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'cpu' or 'cuda', not 'tpu'"):
        native.available("tpu")


@needs_cuda
def test_cuda_equals_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(n, 4, generator=generator) * 20 for n in (1000, 333))
    ours = native.pairwise_iou(a.cuda(), b.cuda()).cpu()
    torch.testing.assert_close(ours, reference_iou(a, b), rtol=NATIVE_IOU_CUDA, atol=0)
    assert native.pairwise_iou(a[:0].cuda(), b.cuda()).shape == (0, 333)
