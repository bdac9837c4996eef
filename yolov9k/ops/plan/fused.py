"""A fused block's plan, in inference: every convolution writes its activation straight into its slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k.ops.plan.forward import Maps
from yolov9k.ops.plan.ir import Plan, Step
from yolov9k.ops.plan.launches import Kernels

PER_LAYER = 2  # weight, bias


class Fused(Maps):
    """Runs the steps in order; nothing is kept."""

    def __init__(self, plan: Plan, kernels: Kernels, x: Tensor, parameters: Sequence[Tensor]) -> None:
        super().__init__(plan, kernels, x)
        self.parameters = parameters

    def run(self) -> Tensor:
        """The block's output."""
        for number, step in enumerate(self.plan.steps):
            getattr(self, f"_{step.kind}")(step)
            self._release(number)
        return self.maps[self.plan.result]

    def _conv(self, step: Step) -> None:
        x = self.view(step.source)
        weight, bias = (self._joined(step, part).to(x.dtype) for part in range(PER_LAYER))
        residual = None if step.residual is None else self.view(step.residual)
        options = (step.stride, step.padding, step.groups, step.activation)
        self.k.conv_silu(x, weight, bias, *options, self.target(step), residual)

    def _joined(self, step: Step, part: int) -> Tensor:
        tensors = [self.parameters[PER_LAYER * layer + part] for layer in step.layers]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def _avg_pool(self, step: Step) -> None:
        self.k.avg_pool(self.view(step.source), self.target(step))

    def _max_pool(self, step: Step) -> None:
        self.k.max_pool(self.view(step.source), step.kernel, step.stride, step.padding, self.target(step))

    def _release(self, number: int) -> None:
        """Let go of maps that nothing reads any more."""
        later = {0} | {part.map for step in self.plan.steps[number + 1 :] for part in (*step.reads(), step.target)}
        for name in [name for name in self.maps if name not in later and name != self.plan.result]:
            del self.maps[name]
