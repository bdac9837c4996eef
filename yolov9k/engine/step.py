"""One accumulation step of training: forward, loss, backward and, when its turn comes, clip, SGD and EMA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolov9k.engine.optim import ModelEMA, Phase, Schedule, make_optimizer, set_phase
from yolov9k.hyp import Hyp
from yolov9k.losses import DetectionLoss
from yolov9k.models import YOLOv9

AMP_DTYPES = {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class TrainStep:
    """Trains `model` step by step.

    Call it with images [B, 3, H, W] (uint8 or float 0..1), boxes [B, G, 5] (class, cx, cy, w, h normalised) and counts
    [B]; it returns the loss parts [3] (box, class, dfl) as a device tensor. `model` and `ema` (a model) are the weights;
    `schedule` sets learning rates, momentum and accumulation by iteration, without one they stay those of `hyp`.
    """

    def __init__(
        self,
        model: YOLOv9,
        criterion: DetectionLoss,
        hyp: Hyp,
        *,
        batch: int | None = None,
        schedule: Schedule | None = None,
        amp: str = "off",
        channels_last: bool = True,
    ) -> None:
        self.model, self.criterion, self.hyp, self.schedule = model, criterion, hyp, schedule
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        accumulate = schedule.accumulate if schedule else 1
        share = (batch or hyp.nominal_batch) * accumulate / hyp.nominal_batch
        self.optimizer = make_optimizer(model, hyp, hyp.weight_decay * share)
        self.average = ModelEMA(model, hyp)
        self.device = next(model.parameters()).device
        self.dtype = AMP_DTYPES[amp]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.iteration, self.waiting, self.skipped = 0, 0, 0
        self.grad_norm: Tensor = torch.zeros((), device=self.device)

    @property
    def ema(self) -> YOLOv9:
        """The moving average of the weights, in evaluation mode."""
        return self.average.model

    def __call__(self, images: Tensor, boxes: Tensor, counts: Tensor) -> Tensor:
        """One accumulation step."""
        phase = self.phase
        if self.schedule:
            set_phase(self.optimizer, phase)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            branches = self.model(to_float(images).contiguous(memory_format=self.memory_format))
        loss, parts = self.criterion(branches, (boxes, counts))
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.iteration += 1
        self.waiting += 1
        if self.waiting >= phase.accumulate:
            self._update()
        return parts

    @property
    def phase(self) -> Phase:
        """What the schedule prescribes now."""
        hyp = self.hyp
        return self.schedule.at(self.iteration) if self.schedule else Phase(hyp.lr0, hyp.lr0, hyp.momentum, 1)

    def _update(self) -> None:
        """Clip, step and average; a step whose gradient is not finite is skipped and counted."""
        self.waiting = 0
        self.scaler.unscale_(self.optimizer)
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hyp.clip_norm)
        if self.scaler.is_enabled() or bool(self.grad_norm.isfinite()):
            self.scaler.step(self.optimizer)
            self.average.update(self.model)
        else:
            self.skipped += 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's own weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "updates": self.average.updates,
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.average.updates, self.iteration = state["updates"], state["iteration"]


def to_float(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float 0..1; floats pass through."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
