"""The training step in plain torch, as benchmarks time it."""

from __future__ import annotations

import torch

from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.reference_step import ReferenceStep
from yolov9k.engine.train.trainer import make_criterion


def reference(name: str, device: str, compiled: bool) -> ReferenceStep:
    """The model and the loss in plain torch, bfloat16 by autocast on a GPU, torch's own optimizer."""
    model = create_model(name, 80, "reference").to(device, memory_format=torch.channels_last).train()
    criterion = make_criterion(model, TrainRecipe())
    criterion.backend = "reference"
    step = ReferenceStep(model, criterion, TrainRecipe(), dtype=torch.bfloat16 if device == "cuda" else None)
    if compiled:
        step.network = torch.compile(model)
    return step
