"""Models away from their start, and what they compute."""

from __future__ import annotations

import torch
from torch import Tensor

from yolov9k.models import DetectionModel


def randomized(model: DetectionModel, seed: int = 1) -> DetectionModel:
    """Every tensor away from its start, the bins aside."""
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and ".dfl" not in key:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + 0.5 * ("var" in key) - 0.1 * ("var" not in key))
    return model.eval()


def decoded(model: DetectionModel, x: Tensor) -> Tensor:
    """What a model gives in evaluation mode."""
    with torch.no_grad():
        return model.eval()(x)  # type: ignore[no-any-return]
