"""What the optimiser is told at each iteration (facts: training recipe)."""

from __future__ import annotations

from typing import NamedTuple

from yolov9k.hyp import Hyp
from yolov9k.ops.sgd_ema import Settings

FIRST_SCALE = 2.0**16  # of the loss in fp16, and how it moves: torch.amp.GradScaler's own values
SCALING = (2.0, 0.5, 2000.0)  # growth, backoff, steps between growths


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


def settings(phase: Phase, hyp: Hyp, weight_decay: float, fp16: bool) -> Settings:
    """What the optimiser step is told in a phase; the loss scale moves in fp16 alone."""
    scaling = SCALING if fp16 else (1.0, 1.0, 1.0)
    rates, decays = (phase.bias_lr, phase.lr, phase.lr), (0.0, weight_decay, 0.0)
    return Settings(rates, decays, phase.momentum, hyp.clip_norm, hyp.ema_decay, hyp.ema_tau, *scaling)
