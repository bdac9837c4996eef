"""The whole training step, each mode against the reference step, plain and compiled: 640 pixels, batch 16, 20 boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.reference_step import reference
from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine import TrainStep
from yolov9k.engine.train.synthetic_batch import synthetic_batch
from yolov9k.engine.train.trainer import make_criterion
from yolov9k.models.analysis.step_cost import step_cost

VARIANTS = ("captured", "eager", "compiled", "reference", "reference compiled")
SCALES = {"cpu": (2, 160), "cuda": (16, 640)}  # images and their side


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["yolov9-t", "yolov9-c"])
def bench_train_step(measure: Callable[..., None], benchmark: Any, device: str, name: str, variant: str) -> None:
    """Bytes are those of the network's forward and backward, as `yolov9k info --plan` counts them."""
    if device == "cpu" and (name == "yolov9-c" or variant not in ("eager", "reference")):
        pytest.skip("a CPU captures nothing, compiles for minutes, and says it all with the small model")
    step: Callable[[Tensor, Tensor, Tensor], Tensor]
    if variant.startswith("reference"):
        step = reference(name, device, variant.endswith("compiled"))
    else:
        model = create_model(name, 80).to(device).train()
        step = TrainStep(
            model, make_criterion(model, TrainRecipe()), TrainRecipe(), variant, amp="bf16" if device == "cuda" else "off"
        )
    case = synthetic_batch(*SCALES[device], 80, torch.device(device))
    for _ in range(4 if device == "cuda" else 1):  # kernels are chosen, compiled, recorded
        step(*case)
    plans = device == "cuda" and not variant.startswith("reference")
    costs = step_cost(create_model(name, 80), *SCALES[device], "triton" if plans else "reference")
    moved = sum(sum(cost.bytes.values()) for cost in costs.values())
    measure(lambda: step(*case), device, moved, 20 if device == "cuda" else 3)
    if benchmark.stats:
        benchmark.extra_info["images_per_s"] = round(len(case[0]) / benchmark.stats.stats.median, 1)
