"""The training step in plain torch: the definition that TrainStep, over flat storage, is proven against."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.schedule import Phase, Schedule
from yolov9k.losses import DetectionLoss
from yolov9k.models import DetectionModel


class ReferenceStep:
    """Forward, loss, backward and, when its turn comes, clip, SGD and EMA; arguments as TrainStep's.

    dtype: the network's by autocast, bfloat16 or None. `network` is what is called in place of the model, the model compiled
    for instance.
    """

    def __init__(
        self,
        model: DetectionModel,
        criterion: DetectionLoss,
        recipe: TrainRecipe,
        *,
        batch: int | None = None,
        schedule: Schedule | None = None,
        dtype: torch.dtype | None = None,
        optimizer: str = "SGD",
    ) -> None:
        self.model, self.criterion, self.recipe, self.schedule, self.dtype = model, criterion, recipe, schedule, dtype
        self.network: Callable[[Tensor], Any] = model
        share = (batch or recipe.nominal_batch) * (schedule.accumulate if schedule else 1) / recipe.nominal_batch
        self.optimizer = make_optimizer(model, recipe, recipe.weight_decay * share, optimizer)
        self.average = ModelEMA(model, recipe)
        self.iteration = self.waiting = 0
        self.grad_norm = torch.zeros(())

    def __call__(self, images: Tensor, boxes: Tensor, counts: Tensor) -> Tensor:
        """One accumulation step; returns the loss parts, one value for each of the task's losses."""
        if self.schedule:
            set_phase(self.optimizer, self.schedule.at(self.iteration))
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            branches = self.network(images)
        loss, parts = self.criterion(branches, (boxes, counts))
        loss.backward()  # type: ignore[no-untyped-call]
        accumulate = self.schedule.at(self.iteration).accumulate if self.schedule else 1
        self.iteration, self.waiting = self.iteration + 1, self.waiting + 1
        if self.waiting >= accumulate:
            self.waiting = 0
            self.grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.update(self.model)
        return parts


def make_optimizer(model: nn.Module, recipe: TrainRecipe, weight_decay: float, kind: str = "SGD") -> torch.optim.Optimizer:
    """SGD with Nesterov momentum over three groups: biases, decayed weights, BatchNorm weights. Frozen parameters stay out.

    kind: "Adam" or "AdamW" in its place, with the momentum as beta1 and 0.999 as beta2.
    """
    groups: dict[str, list[nn.Parameter]] = {"bias": [], "weight": [], "norm": []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                norm = isinstance(module, nn.modules.batchnorm._NormBase)
                groups["bias" if name == "bias" else "norm" if norm else "weight"].append(parameter)
    decay = {"weight": weight_decay}
    settings: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay.get(name, 0.0), "name": name} for name, parameters in groups.items()
    ]
    if kind != "SGD":
        made = torch.optim.AdamW if kind == "AdamW" else torch.optim.Adam
        return made(settings, lr=recipe.lr0, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(settings, lr=recipe.lr0, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


def set_phase(optimizer: torch.optim.Optimizer, phase: Phase) -> None:
    """Put a phase's learning rates and momentum into the optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = phase.bias_lr if group["name"] == "bias" else phase.lr
        if "momentum" in group:
            group["momentum"] = phase.momentum


class ModelEMA:
    """Moving average of parameters and float buffers, decay * (1 - exp(-updates / tau)) once an optimizer step."""

    def __init__(self, model: DetectionModel, recipe: TrainRecipe, updates: int = 0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.tau, self.updates = recipe.ema_decay, recipe.ema_tau, updates

    @torch.no_grad()
    def update(self, model: DetectionModel) -> None:
        """Move the average towards `model`."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.tau))
        mine: list[Tensor] = []
        theirs: list[Tensor] = []
        source = model.state_dict()
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                mine.append(value)
                theirs.append(source[key])
            else:
                value.copy_(source[key])
        torch._foreach_lerp_(mine, theirs, 1 - decay)
