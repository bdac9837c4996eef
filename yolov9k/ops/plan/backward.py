"""A block's plan, backward: gradients that meet are added by whoever touches them last, slices stay where they lie."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from yolov9k.kernels._operands import Epilogue
from yolov9k.ops.plan.forward import PER_LAYER, Run, max_pools, saved_maps, tables
from yolov9k.ops.plan.ir import Plan, Slice, Step
from yolov9k.ops.plan.launches import Kernels, new_map

MOST_SOURCES = 3  # gradients that one kernel adds on the way in (kernels/conv_bn_silu.py)
MOST_ADDENDS = 2  # that conv1x1 adds to the one it computes


class Backward(Run):
    """Runs the steps in reverse."""

    def __init__(
        self, plan: Plan, kernels: Kernels, x: Tensor, parameters: Sequence[Tensor], saved: Sequence[Tensor], training: bool,
        group: str, needs_x: bool,
    ) -> None:  # fmt: skip
        super().__init__(plan, kernels, x, parameters, training, group)
        rest = iter(saved)
        self.maps |= {number: next(rest) for number in saved_maps(plan)}
        self.statistics = {layer: next(rest) for layer in range(len(plan.layers))}
        self.places = {number: next(rest) for number in max_pools(plan)}
        self.tables = {number: next(rest) for number in tables(plan)}
        self.needs_x = needs_x
        self.given: list[tuple[Slice, Tensor]] = []  # gradients of activations, each of its own reader
        self.reduced: dict[Slice, tuple[Tensor, Tensor]] = {}  # gradients before the activation, and their sums
        self.raw: dict[Slice, Tensor] = {}  # of convolutions' raw outputs
        self.x_grad: Tensor | None = None  # where gradients of x's slices are put side by side
        self.beside: list[Slice] = []  # those that were
        self.results: list[Tensor] = [parameters[0]] * len(parameters)

    def run(self, grad: Tensor) -> list[Tensor]:
        """Gradients of x, empty where it is not needed, and of every parameter."""
        self.given.append((Slice(self.plan.result, 0, grad.shape[1]), grad))
        for step in reversed(self.plan.steps):
            getattr(self, f"_{step.kind}")(step)
        return [self._of_x(), *self.results]

    # Gradients that have come in.

    def sources(self, part: Slice) -> list[Tensor]:
        """Gradients of a slice, to be added."""
        return [_within(tensor, whole, part) for whole, tensor in self.given if whole.covers(part)]

    def take(self, part: Slice) -> list[Tensor]:
        """Its gradients, which whoever takes them accounts for from now on. Wider ones that only overlap it stay."""
        found = self.sources(part)
        self.given = [piece for whole, tensor in self.given for piece in _without(whole, tensor, part)]
        return found

    def segments(self, part: Slice) -> list[Slice]:
        """The slice, cut wherever one of its readers begins or ends."""
        edges = set(self.plan.edges(part))
        for whole in (*(given for given, _ in self.given), *self.reduced):
            if whole.meets(part):
                edges |= {edge for edge in (whole.start, whole.stop) if part.start < edge < part.stop}
        ordered = sorted(edges)
        return [Slice(part.map, a, b) for a, b in itertools.pairwise(ordered)]

    def _summed(self, part: Slice) -> Tensor:
        return self.k.add(self.sources(part))

    # Steps.

    def _norm(self, step: Step) -> None:
        self._through([(step.layers[0], step.source)], step.target, step.activation)
        if step.residual is not None:
            shift = step.residual.start - step.target.start
            for whole, tensor in self.given[:]:
                if whole.covers(step.target):
                    whole = Slice(step.residual.map, whole.start + shift, whole.stop + shift)
                    self.given.append((step.residual, _within(tensor, whole, step.residual)))

    def _dual(self, step: Step) -> None:
        assert step.second is not None
        pairs = list(zip(step.layers, (step.source, step.second), strict=True))
        self._through(pairs, step.target, step.activation)

    def _through(self, pairs: list[tuple[int, Slice]], value: Slice, activation: bool) -> None:
        """Back through one BatchNorm, or the sum of two, and the activation, a segment at a time."""
        sums: list[Tensor] = []
        for part in self.segments(value):
            start, stop = part.start - value.start, part.stop - value.start
            z = [self.view(raw.part(start, stop)) for _, raw in pairs]
            norms = [self.norm(layer, start, stop) for layer, _ in pairs]
            out = [self._raw(raw.part(start, stop)) for _, raw in pairs]
            grads: Sequence[Tensor]
            if part in self.reduced:
                grad, found = self.reduced.pop(part)
                grads, before = (grad,), False
            else:
                meeting = self._at_most(self.sources(part), MOST_SOURCES)
                found, grads, before = self.k.bn_silu_backward_reduce(meeting, z, norms, activation, out[0])
            sums.append(found)
            total, count = self._of_everyone(found, z[0])
            self.k.bn_silu_backward_apply(grads, z, norms, before, total if self.training else None, out, count)
        together = sums[0] if len(sums) == 1 else torch.cat(sums, 1)
        for row, (layer, _) in enumerate(pairs, 1):
            # a tensor of its own: who clips or averages gradients in place would do it twice
            beta = together[0] if row == 1 else self.k.clone(together[0])
            self._give(PER_LAYER * layer + 1, together[row])
            self._give(PER_LAYER * layer + 2, beta)

    def _of_everyone(self, sums: Tensor, z: Tensor) -> tuple[Tensor, int]:
        """Sums over all processes and the number of rows they are of."""
        rows, world = z.shape[0] * z.shape[2] * z.shape[3], self.world()
        if world is None:
            return sums, rows
        sums = torch.cat((sums, torch.full_like(sums[:1], float(rows))))
        dist.all_reduce(sums, group=world)
        return sums[:-1] * (rows / sums[-1:]), rows  # the kernel divides by this process's rows

    def _at_most(self, tensors: list[Tensor], most: int) -> list[Tensor]:
        extra = len(tensors) - most
        return tensors if extra <= 0 else [self.k.add(tensors[: extra + 1]), *tensors[extra + 1 :]]

    def _raw(self, part: Slice) -> Tensor:
        """Where the gradient of a convolution's raw output goes."""
        step = self.plan.producer(part)
        if step.target not in self.raw:
            self.raw[step.target] = new_map(self.maps[0], step.target.width, *self.sizes[step.target.map])
        return _within(self.raw[step.target], step.target, part)

    def _conv(self, step: Step) -> None:
        for layer, part in self.plan.pending(step):
            self._through([(layer, part)], part, step.activation)
        grad, x = self.raw.pop(step.target), self.view(step.source)
        needs = step.source.map != 0 or self.needs_x
        weight = self.weight(step, grad)
        if step.is_matrix:
            grad_weight = self.k.conv1x1_weight_gradient(grad, x, self.prologue(step.source))
            if needs:
                self._matrix_input(step, grad, weight)
        else:
            options = (step.stride, step.padding, step.groups)
            grad_x, grad_weight = self.k.convolve_backward(grad, self.k.dense(x), weight, *options, needs)
            if grad_x is not None and needs:
                self.given.append((step.source, grad_x))
        widths = [self.plan.layers[layer].width for layer in step.layers]
        parts = torch.split(grad_weight, widths)
        for layer, share in zip(step.layers, parts, strict=True):
            self._give(PER_LAYER * layer, share)

    def _matrix_input(self, step: Step, grad: Tensor, weight: Tensor) -> None:
        """The input's gradient; the last one of a slice adds the others and is propagated through BatchNorm and SiLU."""
        matrix = weight.flatten(1)
        for part, last in self._runs(step):
            columns = matrix[:, part.start - step.source.start : part.stop - step.source.start]
            out = new_map(grad, part.width, *self.sizes[part.map])
            addends, owner = [], None
            if last and len(self.sources(part)) <= MOST_ADDENDS:
                addends, owner = self.take(part), self._owner(part)
            parts = self.k.conv1x1_input_gradient(grad, columns, out, addends, owner)
            if parts is None:
                self.given.append((part, out))
            else:
                self.reduced[part] = (out, self.k.sum_parts(parts))

    def _runs(self, step: Step) -> list[tuple[Slice, bool]]:
        """Segments of what a step reads, and whether it is their first reader; neighbors that are not are one."""
        runs: list[tuple[Slice, bool]] = []
        for part in self.segments(step.source):
            last = self.plan.first_reader(part) is step
            if runs and not last and not runs[-1][1]:
                runs[-1] = (Slice(part.map, runs[-1][0].start, part.stop), False)
            else:
                runs.append((part, last))
        return runs

    def _owner(self, part: Slice) -> Epilogue | None:
        """The BatchNorm that made a slice, where its gradient can go on at once."""
        for step in self.plan.steps:
            if step.kind == "norm" and step.target.covers(part) and step.residual is None:
                return self._epilogue(step.layers[0], step.source, step.target, part, step.activation)
            for layer, raw in self.plan.pending(step) if step.kind == "conv" else ():
                if raw.covers(part):
                    return self._epilogue(layer, raw, raw, part, step.activation)
        return None

    def _epilogue(self, layer: int, raw: Slice, value: Slice, part: Slice, activation: bool) -> Epilogue:
        start, stop = part.start - value.start, part.stop - value.start
        return Epilogue(self.view(raw.part(start, stop)), *self.norm(layer, start, stop), activation)

    def _avg_pool(self, step: Step) -> None:
        for part in self.segments(step.target):
            start = part.start - step.target.start
            read = step.source.part(start, start + part.width)
            out = self._beside(read)
            self.k.avg_pool_backward(self._summed(part), out)
            self.given.append((read, out))

    def _max_pool(self, step: Step) -> None:
        places = self.places[self.plan.steps.index(step)]
        for part in self.segments(step.target):
            start, stop = part.start - step.target.start, part.stop - step.target.start
            grad, read = self._summed(part), step.source.part(start, stop)
            out = new_map(self.maps[0], part.width, *self.sizes[read.map])
            lone = self.plan.first_reader(read) is step and len(self.sources(read)) == 1
            addend = self.take(read)[0] if lone else None
            self.k.max_pool_backward(grad, places[:, start:stop], step.kernel, step.stride, step.padding, out, addend)
            self.given.append((read, out))

    def _beside(self, read: Slice) -> Tensor:
        """Where a slice's gradient goes: beside those of x's other slices, or into a map of its own."""
        if read.map != 0 or read.width == self.plan.widths[0]:
            return new_map(self.maps[0], read.width, *self.sizes[read.map])
        if self.x_grad is None:
            self.x_grad = new_map(self.maps[0], self.plan.widths[0], *self.sizes[0])
        self.beside.append(read)
        return _within(self.x_grad, Slice(0, 0, self.plan.widths[0]), read)

    def _of_x(self) -> Tensor:
        whole = Slice(0, 0, self.plan.widths[0])
        x = self.maps[0]
        if not self.needs_x:
            return x.new_empty(0)
        came = sorted(part for part, _ in self.given if part.map == 0)
        if self.x_grad is not None and came == sorted(self.beside) and came == self.segments(whole):
            return self.x_grad  # every part was written into its place, and nothing else came in
        return self.k.concatenate([self._summed(part) for part in self.segments(whole)])

    def _give(self, number: int, grad: Tensor) -> None:
        parameter = self.parameters[number]
        self.results[number] = grad.reshape(parameter.shape).to(parameter.dtype)


def _within(tensor: Tensor, whole: Slice, part: Slice) -> Tensor:
    """The channels of `part` of a tensor that is the gradient of `whole`."""
    return tensor if part == whole else tensor[:, part.start - whole.start : part.stop - whole.start]


def _without(whole: Slice, tensor: Tensor, part: Slice) -> list[tuple[Slice, Tensor]]:
    """What remains of a gradient when `part` is taken out of it."""
    if not whole.covers(part):
        return [(whole, tensor)]
    left, right = Slice(whole.map, whole.start, part.start), Slice(whole.map, part.stop, whole.stop)
    return [(rest, _within(tensor, whole, rest)) for rest in (left, right) if rest.width > 0]
