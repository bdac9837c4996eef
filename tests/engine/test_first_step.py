"""The first step of a whole network at a real size: float32 gradients against float64, in every layout and backend."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tolerances import FIRST_STEP_MEDIAN, FIRST_STEP_NORM
from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine import TrainStep
from yolov9k.losses import DetectionLoss
from yolov9k.models.block import Block

pytestmark = pytest.mark.big

BATCH, SIZE, CLASSES = 4, 320, 3


@functools.cache
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Smooth images with some noise, eight boxes each."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(BATCH, 3, 20, 20, generator=generator), size=(SIZE, SIZE), mode="bilinear")
    images = 0.8 * smooth + 0.2 * torch.rand(smooth.shape, generator=generator)
    classes = torch.randint(CLASSES, (BATCH, 8, 1), generator=generator).float()
    centers, sizes = (torch.rand(BATCH, 8, 2, generator=generator) for _ in range(2))
    return images, torch.cat((classes, 0.2 + 0.6 * centers, 0.02 + 0.3 * sizes), -1), torch.full((BATCH,), 8)


def first_step(dtype: torch.dtype, channels_last: bool, backend: str) -> tuple[dict[str, Tensor], float]:
    """The gradient of every parameter, and their length as the step itself finds it."""
    torch.manual_seed(0)
    model = create_model("yolov9-t", num_classes=CLASSES).train().to(dtype)
    for module in model.modules():
        if isinstance(module, Block):
            module.backend = backend
    step = TrainStep(model, DetectionLoss(CLASSES), TrainRecipe(), mode="eager", channels_last=channels_last)
    images, boxes, counts = batch()
    gradients: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: gradients.update({name: p.grad.double()}))
    step(images.to(dtype), boxes.to(dtype), counts)
    return gradients, float(step.grad_norm)


@functools.cache
def exact() -> tuple[dict[str, Tensor], float]:
    return first_step(torch.float64, False, "reference")


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_gradients_of_the_first_step_are_those_of_float64(channels_last: bool, backend: str) -> None:
    gradients, norm = first_step(torch.float32, channels_last, backend)
    wanted, wanted_norm = exact()
    assert gradients.keys() == wanted.keys()
    errors = [float((gradients[key] - wanted[key]).norm() / wanted[key].norm()) for key in wanted if wanted[key].any()]
    assert len(errors) > 0.9 * len(wanted)
    assert norm == pytest.approx(wanted_norm, rel=FIRST_STEP_NORM)
    assert float(torch.tensor(errors).median()) < FIRST_STEP_MEDIAN
