"""The optimiser, its schedule and the moving average (facts: training recipe)."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolov9k.hyp import Hyp
from yolov9k.models import YOLOv9


class Phase(NamedTuple):
    """What the schedule prescribes for one iteration."""

    lr: float
    bias_lr: float
    momentum: float
    accumulate: int  # iterations to one optimiser step


class Schedule:
    """Linear warm-up, then a learning rate that falls linearly by epoch; a pure function of the iteration."""

    def __init__(self, hyp: Hyp, batch: int, iterations_per_epoch: int, epochs: int) -> None:
        self.hyp, self.epochs, self.per_epoch = hyp, epochs, iterations_per_epoch
        self.warmup = max(round(hyp.warmup_epochs * iterations_per_epoch), hyp.warmup_iterations if hyp.warmup_epochs else 0)
        self.accumulate = max(round(hyp.nominal_batch / batch), 1)

    def at(self, iteration: int) -> Phase:
        """The phase of an iteration, counted from 0 over all epochs."""
        hyp = self.hyp
        epoch = iteration // self.per_epoch
        lr = hyp.lr0 * ((1 - epoch / self.epochs) * (1 - hyp.lrf) + hyp.lrf)
        if iteration >= self.warmup:
            return Phase(lr, lr, hyp.momentum, self.accumulate)
        share = iteration / self.warmup
        bias_lr = hyp.warmup_bias_lr + (lr - hyp.warmup_bias_lr) * share
        momentum = hyp.warmup_momentum + (hyp.momentum - hyp.warmup_momentum) * share
        return Phase(lr * share, bias_lr, momentum, max(1, round(1 + (self.accumulate - 1) * share)))


def make_optimizer(model: nn.Module, hyp: Hyp, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum over three groups: biases, decayed weights, BatchNorm weights. Frozen parameters stay out."""
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
    return torch.optim.SGD(settings, lr=hyp.lr0, momentum=hyp.momentum, nesterov=hyp.momentum > 0)


def set_phase(optimizer: torch.optim.Optimizer, phase: Phase) -> None:
    """Put a phase's learning rates and momentum into the optimiser."""
    for group in optimizer.param_groups:
        group["lr"] = phase.bias_lr if group["name"] == "bias" else phase.lr
        group["momentum"] = phase.momentum


class ModelEMA:
    """Moving average of parameters and float buffers, decay * (1 - exp(-updates / tau)) once an optimiser step."""

    def __init__(self, model: YOLOv9, hyp: Hyp, updates: int = 0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.tau, self.updates = hyp.ema_decay, hyp.ema_tau, updates

    @torch.no_grad()
    def update(self, model: YOLOv9) -> None:
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
