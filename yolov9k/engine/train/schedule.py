"""What the optimizer is told at each iteration (arXiv 2402.13616, appendix A)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from yolov9k.config.recipe import TrainRecipe
from yolov9k.ops.sgd_ema import Settings

FIRST_SCALE = 2.0**16  # of the loss in fp16, and how it moves: torch.amp.GradScaler's own values
SCALING = (2.0, 0.5, 2000.0)  # growth, backoff, steps between growths


def _cosine(epoch: int, epochs: int) -> float:
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


# By epoch and their number: how much is left of the way from the first learning rate to the last one.
CURVES: dict[str, Callable[[int, int], float]] = {
    "linear": lambda epoch, epochs: 1 - epoch / epochs,
    "cosine": _cosine,
    "flat-cosine": lambda epoch, epochs: _cosine(max(epoch - epochs // 2, 0), max(epochs // 2, 1)),  # the first half is flat
    "constant": lambda epoch, epochs: 1.0,
}


class Phase(NamedTuple):
    """What the schedule prescribes for one iteration."""

    lr: float
    bias_lr: float
    momentum: float
    accumulate: int  # iterations to one optimizer step


class Schedule:
    """Linear warm-up, then a learning rate that falls by epoch along a curve of CURVES; a pure function of the iteration."""

    def __init__(self, recipe: TrainRecipe, batch: int, iterations_per_epoch: int, epochs: int, curve: str = "linear") -> None:
        self.recipe, self.epochs, self.per_epoch, self.left = recipe, epochs, iterations_per_epoch, CURVES[curve]
        self.warmup = max(
            round(recipe.warmup_epochs * iterations_per_epoch), recipe.warmup_iterations if recipe.warmup_epochs else 0
        )
        self.accumulate = max(round(recipe.nominal_batch / batch), 1)

    def at(self, iteration: int) -> Phase:
        """The phase of an iteration, counted from 0 over all epochs."""
        recipe = self.recipe
        epoch = iteration // self.per_epoch
        lr = recipe.lr0 * (self.left(epoch, self.epochs) * (1 - recipe.lrf) + recipe.lrf)
        if iteration >= self.warmup:
            return Phase(lr, lr, recipe.momentum, self.accumulate)
        share = iteration / self.warmup
        bias_lr = recipe.warmup_bias_lr + (lr - recipe.warmup_bias_lr) * share
        momentum = recipe.warmup_momentum + (recipe.momentum - recipe.warmup_momentum) * share
        return Phase(lr * share, bias_lr, momentum, max(1, round(1 + (self.accumulate - 1) * share)))


def settings(phase: Phase, recipe: TrainRecipe, weight_decay: float, fp16: bool) -> Settings:
    """What the optimizer step is told in a phase; the loss scale moves in fp16 alone."""
    scaling = SCALING if fp16 else (1.0, 1.0, 1.0)
    rates, decays = (phase.bias_lr, phase.lr, phase.lr), (0.0, weight_decay, 0.0)
    return Settings(rates, decays, phase.momentum, recipe.clip_norm, recipe.ema_decay, recipe.ema_tau, *scaling)
