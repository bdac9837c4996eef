"""A block's plan, forward: an activation is written once, into its slice; where 1x1 convolutions read it, not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from yolov9k.kernels._operands import Affine, Deferred, Norm, Running
from yolov9k.ops.plan.ir import Plan, Slice, Step
from yolov9k.ops.plan.launches import Kernels, new_map

PER_LAYER = 3  # weight, gamma, beta; running mean, running variance, number of batches


class Maps:
    """The maps of one pass over a plan, allocated when they are first written to."""

    def __init__(self, plan: Plan, kernels: Kernels, x: Tensor) -> None:
        self.plan, self.k = plan, kernels
        self.maps: dict[int, Tensor] = {0: x}
        self.sizes = plan.sizes((x.shape[2], x.shape[3]))

    def view(self, part: Slice) -> Tensor:
        """The tensor of a slice."""
        whole = self.maps[part.map]
        return whole if part.width == whole.shape[1] else whole[:, part.start : part.stop]

    def target(self, step: Step) -> Tensor:
        """Where a step writes to."""
        part = step.target
        if part.map not in self.maps:
            self.maps[part.map] = new_map(self.maps[0], self.plan.widths[part.map], *self.sizes[part.map])
        return self.view(part)


class Run(Maps):
    """Statistics and pending normalizations beside the maps."""

    def __init__(
        self, plan: Plan, kernels: Kernels, x: Tensor, parameters: Sequence[Tensor], training: bool, group: str
    ) -> None:
        super().__init__(plan, kernels, x)
        self.parameters, self.training, self.group = parameters, training, group
        self.statistics: dict[int, Tensor] = {}  # by layer: mean and 1 / standard deviation, float32 [2, C]
        self.tables: dict[int, Tensor] = {}  # by map: center, scale, shift, activation of its channels, float32 [4, C]
        self.places: dict[int, Tensor] = {}  # by map: where its max_pool found the maxima

    def weight(self, step: Step, like: Tensor) -> Tensor:
        """A convolution's weights in the maps' dtype."""
        return self.k.weights([self.parameters[PER_LAYER * layer] for layer in step.layers], like)

    def norm(self, layer: int, start: int = 0, stop: int | None = None) -> Norm:
        """BatchNorm's vectors, or a range of their channels."""
        gamma, beta = self.parameters[PER_LAYER * layer + 1 : PER_LAYER * layer + 3]
        whole = Norm(gamma, beta, *self.statistics[layer])
        return whole if start == 0 and stop in (None, len(gamma)) else Norm(*(vector[start:stop] for vector in whole))

    def prologue(self, part: Slice) -> Affine | None:
        """How a reader normalizes a slice on the way in, None where there is nothing to do."""
        table = self.tables.get(part.map)
        return None if table is None else Affine(*table[:, part.start : part.stop])

    def world(self) -> Any:
        """The processes that share statistics, None where this one is alone."""
        resolve: Any = dist.distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
        return resolve(self.group) if self.group and self.training else None


class Forward(Run):
    """Runs the steps in order."""

    def run(self, running: Sequence[Tensor]) -> Tensor:
        """The block's output; moves the running statistics in training."""
        self.running = running
        for step in self.plan.steps:
            getattr(self, f"_{step.kind}")(step)
        return self.maps[self.plan.result]

    def _conv(self, step: Step) -> None:
        x, pending = self.view(step.source), self.plan.pending(step)
        if step.is_matrix:
            z = self.target(step)
            parts, tile = self.k.conv1x1(x, self.weight(step, x), z, self.prologue(step.source), self.training)
            first = None
        else:
            weight = self.weight(step, x)
            z = self.maps[step.target.map] = self.k.convolve(self.k.dense(x), weight, step.stride, step.padding, step.groups)
            parts, tile, first = None, 0, None
            if self.training and z.numel() > z.shape[1]:
                parts, tile, first = self.k.statistics(z)
        rows = z.shape[0] * z.shape[2] * z.shape[3]
        if self.training and rows == 1:
            raise ValueError(f"conv_bn_silu: training needs more than one value per channel, got {list(z.shape)}")
        if pending and step.target.map not in self.tables:
            self.tables[step.target.map] = self._table(self.plan.widths[step.target.map])
        start = 0
        for layer in step.layers:
            part = step.target.part(start, start + self.plan.layers[layer].width)
            self._settle(layer, part, rows, None if parts is None else parts[:, :, start : start + part.width], tile,
                         first, step.activation if (layer, part) in pending else None)  # fmt: skip
            start += part.width

    def _settle(
        self, layer: int, part: Slice, rows: int, parts: Tensor | None, tile: int, first: Tensor | None, later: bool | None
    ) -> None:
        """A layer's statistics, and its row in the table where its readers normalize (`later`: with SiLU or without)."""
        spec, (mean, var, batches) = self.plan.layers[layer], self.running[PER_LAYER * layer : PER_LAYER * layer + 3]
        gamma, beta = self.parameters[PER_LAYER * layer + 1 : PER_LAYER * layer + 3]
        table = None if later is None else self.tables[part.map][:, part.start : part.stop]
        deferred = None if table is None else Deferred(gamma, beta, table, bool(later))
        self.statistics[layer] = found = gamma.new_empty((2, spec.width), dtype=self.k.statistics_dtype)
        alone = self.world() is None
        if parts is not None:
            running = Running(mean, var, batches, spec.momentum) if alone else None
            self.k.merge(parts, rows, tile, spec.eps, first, running, found, deferred if alone else None)
            if alone:
                return
            share_statistics(found, rows, self.world(), Running(mean, var, batches, spec.momentum), spec.eps)
        else:
            found[0], found[1] = mean, (var + spec.eps).rsqrt()
        if deferred is not None:
            deferred.table[0], deferred.table[1], deferred.table[2] = found[0], found[1] * gamma, beta
            deferred.table[3] = float(deferred.activation)

    def _table(self, width: int) -> Tensor:
        """The table of a map none of whose channels is pending: y = (x - 0) * 1 + 0, as it is."""
        table = self.maps[0].new_zeros((4, width), dtype=self.k.statistics_dtype)
        table[1] = 1
        return table

    def _norm(self, step: Step) -> None:
        residual = None if step.residual is None else self.view(step.residual)
        y = self.target(step)
        self.k.normalize([self.view(step.source)], [self.norm(step.layers[0])], step.activation, y, residual)

    def _dual(self, step: Step) -> None:
        assert step.second is not None
        maps = [self.view(step.source), self.view(step.second)]
        self.k.normalize(maps, [self.norm(layer) for layer in step.layers], step.activation, self.target(step), None)

    def _avg_pool(self, step: Step) -> None:
        self.k.avg_pool(self.view(step.source), self.target(step))

    def _max_pool(self, step: Step) -> None:
        out = self.target(step)
        places = self.k.max_pool(self.view(step.source), step.kernel, step.stride, step.padding, out)
        self.places[self.plan.steps.index(step)] = places

    def saved(self) -> list[Tensor]:
        """What the backward needs, in the order that `restore` reads."""
        return [
            *(self.maps[number] for number in saved_maps(self.plan)),
            *(self.statistics[layer] for layer in range(len(self.plan.layers))),
            *(self.places[number] for number in max_pools(self.plan)),
            *(self.tables[number] for number in tables(self.plan)),
        ]


def share_statistics(found: Tensor, rows: int, world: Any, running: Any, eps: float) -> None:
    """Merge mean and 1 / deviation [2, C] over processes, in place; move the running statistics (as SyncBatchNorm)."""
    count = torch.full_like(found[:1], float(rows))
    mine = torch.cat((found[:1], (found[1:].pow(-2) - eps).clamp(min=0) * rows, count))
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(world))]
    dist.all_gather(everyone, mine, group=world)
    means, spreads, counts = torch.stack(everyone, 1)
    total = counts.sum(0)
    mean = (means * counts).sum(0) / total
    spread = spreads.sum(0) + ((means - mean).square() * counts).sum(0)
    found[0], found[1] = mean, (spread / total + eps).rsqrt()
    running.mean.lerp_(mean.to(running.mean.dtype), running.momentum)
    running.var.lerp_((spread / (total - 1)).to(running.var.dtype), running.momentum)
    running.batches.add_(1)


def saved_maps(plan: Plan) -> list[int]:
    """Maps that the backward reads: what convolutions read, and what they wrote."""
    read = {step.source.map for step in plan.steps if step.kind == "conv"}
    return sorted((read | {step.target.map for step in plan.steps if step.kind == "conv"}) - {0})


def max_pools(plan: Plan) -> list[int]:
    """Numbers of the steps that remember where their maxima were."""
    return [number for number, step in enumerate(plan.steps) if step.kind == "max_pool"]


def tables(plan: Plan) -> list[int]:
    """Maps with pending channels."""
    return sorted({step.target.map for step in plan.steps if step.kind == "conv" and plan.pending(step)})


def saved_count(plan: Plan) -> int:
    """How many tensors `Forward.saved` gives."""
    return len(saved_maps(plan)) + len(plan.layers) + len(max_pools(plan)) + len(tables(plan))
