"""Sums at real sizes, float32 against float64: the loss over all anchors, the gradient's length."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from tests.tolerances import LOSS_AT_SIZE, NORM_AT_SIZE
from tests.triton_cases import DEVICE
from yolov9k.ops import available, detection_loss
from yolov9k.ops.reference.detection_loss import LossOptions
from yolov9k.ops.sgd_ema import NORM, SCALE, SETTINGS, STATE, sgd_ema

pytestmark = pytest.mark.big

STRIDES = (8, 16, 32)
IMAGES, SIZE, CLASSES, BOXES = 8, 640, 80, 40
PARAMETERS = 25_000_000  # about yolov9-c's


def by_triton(operator: str) -> object:
    """The kernel, interpreted by night alone: that takes minutes."""
    missing = pytest.mark.skipif("triton" not in available(operator), reason="Triton is not here")
    return pytest.param("triton", marks=[missing, pytest.mark.nightly] if DEVICE == "cpu" else missing)


def loss_and_gradients(dtype: torch.dtype, backend: str) -> list[Tensor]:
    """Box, class and distribution loss of untrained maps, and the gradient of their weighted sum in each level."""
    generator = torch.Generator().manual_seed(0)
    sides = [SIZE // stride for stride in STRIDES]
    maps = [torch.randn(IMAGES, 64 + CLASSES, side, side, generator=generator) for side in sides]
    for level in maps:
        level[:, 64:] -= 4  # as at the start: scores near 0
    labels = torch.randint(CLASSES, (IMAGES, BOXES), generator=generator)
    centers = torch.rand(IMAGES, BOXES, 2, generator=generator) * SIZE
    extent = 10 + torch.rand(IMAGES, BOXES, 2, generator=generator) * 200
    boxes = torch.cat((centers - extent / 2, centers + extent / 2), -1)
    given = [level.to(DEVICE, dtype).requires_grad_() for level in maps]
    counts = torch.full((IMAGES,), BOXES, device=DEVICE)
    parts = detection_loss(
        given, labels.to(DEVICE), boxes.to(DEVICE, dtype), counts, STRIDES, backend=backend, options=LossOptions()
    )
    gradients = torch.autograd.grad((parts * parts.new_tensor([7.5, 0.5, 1.5])).sum(), given)
    return [parts.detach().cpu(), *(gradient.cpu() for gradient in gradients)]


@functools.cache
def exact_loss() -> list[Tensor]:
    return loss_and_gradients(torch.float64, "reference")


@pytest.mark.parametrize("backend", ["auto", "reference", by_triton("detection_loss")])
def test_the_loss_over_all_anchors_is_that_of_float64(backend: str) -> None:
    for found, wanted in zip(loss_and_gradients(torch.float32, backend), exact_loss(), strict=True):
        error = (found.double() - wanted).abs().max() / wanted.abs().max()
        assert float(error) < LOSS_AT_SIZE


def gradient_length(dtype: torch.dtype, backend: str) -> float:
    """As the optimizer step finds it, of gradients with a mean, as few weights have that matter most."""
    generator = torch.Generator().manual_seed(1)
    grads = (torch.randn(PARAMETERS, generator=generator) * 1e-3 + 1e-3).to(DEVICE, dtype)
    values, momentum, ema = (torch.zeros_like(grads) for _ in range(3))
    settings, state = grads.new_ones(SETTINGS), grads.new_zeros(STATE)
    state[SCALE] = 1
    ends = [PARAMETERS // 3, PARAMETERS // 2, PARAMETERS]
    sgd_ema(values, grads, momentum, ema, None, settings, ends, state, backend)
    return float(state[NORM])


@pytest.mark.parametrize("backend", ["auto", "reference", by_triton("sgd_ema")])
def test_the_gradients_length_over_all_parameters_is_that_of_float64(backend: str) -> None:
    wanted = gradient_length(torch.float64, "reference")
    assert gradient_length(torch.float32, backend) == pytest.approx(wanted, rel=NORM_AT_SIZE)
