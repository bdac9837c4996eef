"""The decode of candidates alone: equal to the whole decode's, and all that suppression needs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

from tests.tiers import drawn
from tests.tolerances import DFL_FLOAT32
from tests.triton_cases import DEVICE, random_maps
from yolov9k.ops import batched_nms, dfl_candidates, dfl_decode

pytest.importorskip("triton")

pytestmark = pytest.mark.interpret

STRIDES = [8, 16, 32]


@drawn(
    8, 25,
    st.integers(0, 2**31), st.integers(0, 3),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3), st.sampled_from([1, 5, 17]),
    st.sampled_from([1, 3, 16]), st.booleans(), st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.sampled_from(["triton", "reference"]),
)  # fmt: skip
def test_candidates_are_the_columns_above_the_threshold_in_order(
    seed: int, batch: int, sizes: list[tuple[int, int]], classes: int, bins: int, last: bool, threshold: float, backend: str
) -> None:
    maps = random_maps(seed, batch, sizes, 4 * bins + classes, torch.float32)
    maps = [level.contiguous(memory_format=torch.channels_last) for level in maps] if last else maps
    strides = STRIDES[: len(maps)]
    whole = dfl_decode(maps, strides, bins, backend=backend)
    prediction, anchors, counts = dfl_candidates(maps, strides, bins, threshold, backend)
    for image, found, places, count in zip(whole, prediction, anchors, counts.tolist(), strict=True):
        wanted = (image[4:] > threshold).any(0).nonzero()[:, 0]
        assert torch.equal(places[:count], wanted)
        assert torch.equal(found[:, :count], image[:, wanted])


@pytest.mark.twin
@pytest.mark.parametrize("multi_label", [True, False])
def test_suppression_of_candidates_is_suppression_of_all(multi_label: bool) -> None:
    """The same boxes, scores and order, whatever lies past the counts."""
    maps = random_maps(3, 3, [(9, 9), (5, 4)], 4 * 16 + 6, torch.float32)
    maps[0][1, 64:] = -20.0
    maps[1][1, 64:] = -20.0  # an image without a candidate
    options = {"conf_threshold": 0.6, "iou_threshold": 0.5, "multi_label": multi_label}
    wanted = batched_nms(dfl_decode(maps, [8, 16], backend="triton"), **options)
    prediction, _, counts = dfl_candidates(maps, [8, 16], threshold=0.6, backend="triton")
    prediction[:, :, int(counts.max()) :] = float("nan")
    for backend in ("auto", "reference"):
        found = batched_nms(prediction, **options, lengths=counts, backend=backend)
        assert torch.equal(found.counts, wanted.counts)
        torch.testing.assert_close(found.detections, wanted.detections, **DFL_FLOAT32)


@pytest.mark.twin
def test_what_is_no_number_is_no_candidate() -> None:
    maps = random_maps(4, 1, [(3, 3)], 66, torch.float32)
    maps[0][0, 64:, 1, 1] = float("nan")
    for backend in ("triton", "reference"):
        _, anchors, counts = dfl_candidates(maps, [8], threshold=0.0, backend=backend)
        assert counts.tolist() == [8]
        assert 4 not in anchors[0, :8].tolist()


@pytest.mark.twin
def test_the_registration_is_sound_and_compiles() -> None:
    maps = random_maps(5, 2, [(3, 4)], 67, torch.float32)
    torch.library.opcheck(
        torch.ops.yolov9k.dfl_candidates.default, (maps, [8], 16, 0.5, "reference"),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip
    run = torch.compile(lambda m: dfl_candidates(m, [8], threshold=0.5, backend="triton"), fullgraph=True, backend="aot_eager")
    assert torch.equal(run(maps).counts, dfl_candidates(maps, [8], threshold=0.5, backend="triton").counts)


@pytest.mark.twin
def test_wrong_arguments_are_named() -> None:
    maps = random_maps(6, 1, [(2, 2)], 66, torch.float32)
    with pytest.raises(ValueError, match=r"dfl_candidates: threshold must be in \[0, 1\], got 2"):
        dfl_candidates(maps, [8], threshold=2)
    with pytest.raises(ValueError, match="dfl_candidates: strides must be 1 values"):
        dfl_candidates(maps, [8, 16])
    prediction = torch.zeros(2, 6, 4, device=DEVICE)
    with pytest.raises(ValueError, match=r"batched_nms: lengths must have shape \[2\], got \[3\]"):
        batched_nms(prediction, 0.1, 0.5, lengths=torch.zeros(3, dtype=torch.int64, device=DEVICE))
    with pytest.raises(ValueError, match="batched_nms: lengths must be integers"):
        batched_nms(prediction, 0.1, 0.5, lengths=torch.zeros(2, device=DEVICE))
