"""Test-time augmentation: sizes, mirroring and what is left out are the published ones, boxes are the image's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tasks.tiny_task import LargestTask
from tests.tolerances import FUSED
from yolov9k import Predictor, create_model
from yolov9k.common.errors import UserError
from yolov9k.models import DetectionModel
from yolov9k.tasks import DecodeOptions, task_of
from yolov9k.tasks.detect.views import VIEWS, decode_views, maps_of_views, view


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    torch.manual_seed(0)
    return create_model("gelan-t", 3).double().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 192, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_views_of_an_image(images: Tensor) -> None:
    whole, middle, small = (view(images, *how, 32) for how in VIEWS)
    assert whole is images
    assert (list(middle.shape), list(small.shape)) == ([2, 3, 160, 128], [2, 3, 160, 96])
    high, wide = int(192 * 0.83), int(128 * 0.83)
    assert (middle[:, :, high:] == 114 / 255).all()
    assert (middle[..., wide:] == 114 / 255).all()
    expected = torch.nn.functional.interpolate(images.flip(3), (high, wide), mode="bilinear")
    assert torch.equal(middle[:, :, :high, :wide], expected)


def test_levels_that_are_left_out(model: DetectionModel, images: Tensor) -> None:
    """Cells of 8, 16 and 32 pixels: 384 + 96 + 24 of 192 x 128, 320 + 80 + 20 of 160 x 128, 240 + 60 + 15 of 160 x 96."""
    with torch.no_grad():
        found = decode_views(model, maps_of_views(model, images))
        plain = model(images)
    assert found.shape == (2, 7, (384 + 96) + (320 + 80 + 20) + (60 + 15))
    assert torch.equal(found[..., :480], plain[..., :480])


def test_boxes_are_taken_back_to_the_image(model: DetectionModel, images: Tensor) -> None:
    with torch.no_grad():
        found = decode_views(model, maps_of_views(model, images))
        mirrored, small = (model(view(images, *how, 32)) for how in VIEWS[1:])
    boxes = mirrored[:, :4] / 0.83
    boxes[:, 0] = 128 - boxes[:, 0]
    np.testing.assert_allclose(found[:, :4, 480:900], boxes, rtol=FUSED)
    np.testing.assert_allclose(found[:, :4, 900:], small[:, :4, 240:] / 0.67, rtol=FUSED)
    assert torch.equal(found[:, 4:, 480:], torch.cat((mirrored[:, 4:], small[:, 4:, 240:]), -1))


def test_a_mirrored_image_has_mirrored_predictions(model: DetectionModel, images: Tensor) -> None:
    """Of the mirrored view alone: what it says of the mirrored image is what it says of the image, mirrored."""
    with torch.no_grad():
        one, other = (decode_views(model, maps_of_views(model, x))[..., 480:900] for x in (images, images.flip(3)))
        plain = model(view(images, 0.83, False, 32))
    assert torch.equal(other[:, 4:], plain[:, 4:])
    assert not torch.equal(one[:, 4:], plain[:, 4:])


def test_predictions_and_their_suppression(model: DetectionModel, images: Tensor) -> None:
    options = DecodeOptions(0.0, 0.5, 50)
    task = task_of(model)
    with torch.no_grad():
        found, counts = task.decode_views(model, task.views(model, images), options)
    assert found.shape == (2, 50, 6)
    assert counts.min() > 3
    pixels = (images[0].movedim(0, -1).numpy() * 255).astype(np.uint8)
    plain, augmented = (
        next(Predictor(model, 192, conf=1e-4, device="cpu", augment=augment)(pixels)) for augment in (False, True)
    )
    assert len(plain) > 0
    assert len(augmented) > 0
    assert not np.array_equal(plain.boxes, augmented.boxes)
    assert augmented.boxes.min() >= 0
    assert (augmented.boxes.max(0) <= [128, 192, 128, 192]).all()


def test_a_task_without_views_says_so(model: DetectionModel, images: Tensor) -> None:
    with pytest.raises(UserError, match=r"^--augment: the task 'largest' has no test-time augmentation; leave it out$"):
        LargestTask().views(model, images)
