"""Letterboxing, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import LETTERBOX_PIXELS, PIXEL_ROUNDING
from yolov9k.common.arrays import FILL
from yolov9k.data.letterbox import letterbox, map_to_image, rectangle_shapes

sides = st.integers(1, 300)


@settings(max_examples=80, deadline=None)
@given(sides, sides, st.sampled_from([64, 96, 160]), st.sampled_from([64, 128]), st.booleans())
def test_a_letterboxed_image_lies_centerd_in_gray(h: int, w: int, height: int, width: int, scaleup: bool) -> None:
    image = np.full((h, w, 3), 255, np.uint8)
    boxed, gain, (left, top) = letterbox(image, (height, width), scaleup=scaleup)
    assert boxed.shape == (height, width, 3)
    rows, columns = np.nonzero(boxed[..., 0] == 255)
    assert (columns.min(), rows.min()) == (left, top)
    inner_h, inner_w = rows.max() + 1 - top, columns.max() + 1 - left
    assert abs(inner_h - h * gain) <= max(LETTERBOX_PIXELS, 1 - h * gain)
    assert abs(inner_w - w * gain) <= max(LETTERBOX_PIXELS, 1 - w * gain)
    assert left in ((width - inner_w) // 2, (width - inner_w + 1) // 2)
    assert top in ((height - inner_h) // 2, (height - inner_h + 1) // 2)
    assert (boxed[..., 0] == FILL).sum() == height * width - inner_h * inner_w
    if scaleup or h > height or w > width:
        assert inner_h == height or inner_w == width
    else:
        assert gain == 1.0


@settings(max_examples=80, deadline=None)
@given(sides, sides, st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_come_back_to_the_original_image(h: int, w: int, corners: list[float]) -> None:
    x1, x2, y1, y2 = (*sorted(corners[:2]), *sorted(corners[2:]))
    box = torch.tensor([[x1 * w, y1 * h, x2 * w, y2 * h]], dtype=torch.float64)
    _, gain, pad = letterbox(np.zeros((h, w, 3), np.uint8), (128, 160))
    there = box * gain + torch.tensor([*pad, *pad])
    assert torch.allclose(map_to_image(there, gain, pad, (h, w)), box, atol=PIXEL_ROUNDING)
    batched = map_to_image(there.float(), torch.tensor(gain), torch.tensor(pad, dtype=torch.float32), (h, w))
    assert torch.allclose(batched.double(), box, atol=PIXEL_ROUNDING)


def test_several_images_at_once_are_each_alone() -> None:
    boxes, scale = torch.rand(3, 5, 4) * 200 - 20, torch.tensor([0.5, 1.3, 2.0])
    pad, sizes = torch.rand(3, 2) * 9, [(50, 100), (120, 31), (64, 64)]
    padding, size = (torch.as_tensor(t, dtype=torch.float32).T.reshape(2, 3, 1, 1) for t in (pad, sizes))
    together = map_to_image(boxes, scale.reshape(3, 1, 1), padding, size)
    for i in range(3):
        assert torch.equal(together[i], map_to_image(boxes[i], scale[i], pad[i], sizes[i]))


def test_the_drawn_object_comes_back_to_its_place() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[120:240, 320:480] = 255
    boxed, gain, pad = letterbox(image, (320, 320))
    rows, columns = np.nonzero(boxed[..., 0] > 127)
    seen = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32)
    assert map_to_image(seen, gain, pad, (480, 640)).tolist() == [[320, 120, 480, 240]]


def test_boxes_are_clipped_to_the_original_image() -> None:
    boxes = torch.tensor([[-10.0, 5.0, 500.0, 400.0]])
    assert map_to_image(boxes, 2.0, (4, 7), (50, 100)).tolist() == [[0, 0, 100, 50]]
    assert boxes.tolist() == [[-10, 5, 500, 400]]  # the input is left alone


def test_a_image_that_fits_is_not_copied() -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    boxed, gain, pad = letterbox(image, (64, 96))
    assert boxed is image
    assert (gain, pad) == (1.0, (0, 0))


def test_with_a_stride_only_as_much_is_padded_as_needed() -> None:
    boxed, gain, (left, top) = letterbox(np.zeros((480, 600, 3), np.uint8), (640, 640), stride=32)
    assert boxed.shape == (512, 640, 3)
    assert gain == pytest.approx(640 / 600)
    assert (left, top) == (0, 0)
    assert letterbox(np.zeros((30, 20, 3), np.uint8), (640, 640), scaleup=False, stride=32)[0].shape == (32, 32, 3)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        letterbox(np.zeros((0, 5, 3), np.uint8), (64, 64))


def test_rectangles_have_half_a_stride_of_room() -> None:
    aspects = np.array([0.5, 0.75, 0.75, 1.0, 1.0, 1.25, 2.0])
    assert rectangle_shapes(aspects, 2, 640, 32) == [(512, 672), (672, 672), (672, 672), (672, 352)]
    assert rectangle_shapes(aspects[5:], 2, 640, 32) == [(672, 544)]
    assert rectangle_shapes(aspects[1:4], 3, 320, 32) == [(352, 352)]
