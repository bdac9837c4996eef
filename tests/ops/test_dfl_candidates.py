"""dfl_candidates: what the definition keeps of `dfl_decode`'s columns, registration, errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.backend_checks import BackendChecks
from yolov9k.ops import dfl_candidates, dfl_decode

STRIDES, BINS, CLASSES = (8, 16), 4, 3


def maps(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 4 * BINS + CLASSES, side, side, generator=generator, dtype=torch.float64).to(dtype) for side in (6, 3)
    ]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_what_decoding_gives_above_the_threshold_in_the_anchors_order(threshold: float, dtype: torch.dtype) -> None:
    levels = maps(dtype=dtype)
    found = dfl_candidates(levels, STRIDES, BINS, threshold, backend="reference")
    decoded = dfl_decode(levels, STRIDES, BINS, backend="reference")
    assert found.prediction.dtype == dtype
    assert found.counts.dtype == found.anchors.dtype == torch.int64
    for image in range(2):
        kept = (decoded[image, 4:].amax(0) > threshold).nonzero()[:, 0].tolist()  # compared in the maps' dtype
        count = int(found.counts[image])
        assert found.anchors[image, :count].tolist() == kept
        assert torch.equal(found.prediction[image, :, :count], decoded[image][:, kept])
    assert (int(found.counts.sum()) == 0) is (threshold == 1.0)


def test_a_probability_that_is_nan_is_no_candidate() -> None:
    levels = maps()
    levels[0][0, 4 * BINS :, 0, 0] = torch.nan
    found = dfl_candidates(levels, STRIDES, BINS, 0.0, backend="reference")
    assert found.counts.tolist() == [44, 45]
    assert 0 not in found.anchors[0, :44].tolist()


def test_its_arguments_are_checked() -> None:
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"dfl_candidates: threshold must be in \[0, 1\]"):
            dfl_candidates(maps(), STRIDES, BINS, threshold)
    with pytest.raises(ValueError, match="dfl_candidates: strides"):
        dfl_candidates(maps(), (8,), BINS)


def test_it_has_no_gradient_and_is_registered_soundly() -> None:
    levels = [level.requires_grad_() for level in maps()]
    assert not dfl_candidates(levels, STRIDES, BINS).prediction.requires_grad
    fakes = [level.detach().to("meta") for level in levels]
    shapes = [tuple(each.shape) for each in dfl_candidates(fakes, STRIDES, BINS, backend="reference")]
    assert shapes == [(2, 4 + CLASSES, 45), (2, 45), (2,)]


class TestBackends(BackendChecks):
    operator = "dfl_candidates"

    def call(self, backend: str) -> Tensor:
        return dfl_candidates([torch.zeros(1, 66, 2, 2)], [8], backend=backend).prediction
