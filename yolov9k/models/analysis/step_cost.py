"""What a training step of the network launches and moves, counted on shapes alone."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from yolov9k.common.console import literal
from yolov9k.models.block import Block
from yolov9k.models.yolov9 import DetectionModel
from yolov9k.ops.plan.planned import counting

# What torch itself runs for one operator of ours on its reference path: name of the part, passes over its largest map.
_COMPOSED = {
    "conv_bn_silu": {"convolution": 2, "batch_norm": 3, "silu": 2},
    "conv_bn_silu_backward": {
        "batch_norm": 3, "silu gradient": 3, "batch_norm gradient": 5, "input gradient": 2, "weight gradient": 2,
    },
}  # fmt: skip


class Cost(NamedTuple):
    """Launches and bytes by the name of what is launched."""

    launches: Counter[str]
    bytes: Counter[str]


class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts torch's own operators that launch something: all but views and allocations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = Cost(Counter(), Counter())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if func.namespace == "yolov9k":
            self._ours(name, result)
        elif not func.is_view and not name.startswith(("empty", "new_empty", "detach", "_unsafe_view")):
            reads, writes = maps_of((args, kwargs)), maps_of(result)
            launches = max(len(writes), 1) if name == "convolution_backward" else 1
            moved = sum(t.numel() * t.element_size() for t in (*reads, *writes))
            self.note(name, launches, moved, functools.partial(func, *args, **(kwargs or {})), result)
        return result

    def _ours(self, name: str, result: Any) -> None:
        largest = max((t.numel() * t.element_size() for t in maps_of(result)), default=0)
        for part, passes in _COMPOSED.get(name, {}).items():
            self.cost.launches[part] += 1 + (part.startswith("batch_norm"))  # a pass of sums, then one of values
            self.cost.bytes[part] += passes * largest

    def note(self, name: str, launches: int, moved: int, again: functools.partial[Any], result: Any) -> None:
        """Note one operator of torch's; `again` is the call."""
        self.cost.launches[name] += launches
        self.cost.bytes[name] += moved


def maps_of(tree: Any) -> list[Tensor]:
    """Tensors among nested arguments or results."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def step_cost(model: DetectionModel, batch: int = 16, img_size: int = 640, backend: str = "triton") -> dict[str, Cost]:
    """Launches and bytes of the network's forward and backward in training, in bfloat16: {"forward": ..., "backward": ...}.

    backend: "triton" for planned blocks, "reference" for torch's own operators. The loss and the optimizer are not in it.
    """
    twin = DetectionModel(model.spec, model.num_classes, class_widths=model.class_widths).to("meta", torch.bfloat16).train()
    twin.use(backend).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.zeros(batch, 3, img_size, img_size, device="meta", dtype=torch.bfloat16)
    maps: list[Tensor] = []

    def forward() -> None:
        maps.extend(level for branch in twin.branches(image) for level in branch)

    def backward() -> None:
        torch.autograd.backward(maps, [torch.empty_like(level) for level in maps])

    return {name: _counted(part) for name, part in (("forward", forward), ("backward", backward))}


def _counted(part: Any) -> Cost:
    with counting() as ours, Count() as torchs:
        part()
    return Cost(ours.launches + torchs.cost.launches, ours.bytes + torchs.cost.bytes)


def cost_table(model: DetectionModel, batch: int = 16, img_size: int = 640) -> Table:
    """Launches and gigabytes of a step, planned and as torch's own operators, as `yolov9k info --plan` prints them."""
    costs = {backend: step_cost(model, batch, img_size, backend) for backend in ("triton", "reference")}
    view = Table(title=literal(f"{model.spec.name}: a training step's network, batch {batch}, {img_size} px, bfloat16"))
    view.add_column("part")
    for backend in ("planned", "torch"):
        view.add_column(f"{backend}: launches", justify="right")
        view.add_column(f"{backend}: GB", justify="right")
    for part in ("forward", "backward"):
        cells = [cell for cost in costs.values() for cell in _cells(cost[part])]
        view.add_row(part, *cells)
    for name in sorted({key for part in costs["triton"].values() for key in part.launches}):
        cells = [cell for cost in costs.values() for cell in _cells(*_only(cost, name))]
        view.add_row(f"  {name}", *cells)
    return view


def _only(cost: dict[str, Cost], name: str) -> list[Cost]:
    return [Cost(Counter({name: part.launches[name]}), Counter({name: part.bytes[name]})) for part in cost.values()]


def _cells(*costs: Cost) -> tuple[str, str]:
    launches = sum(sum(cost.launches.values()) for cost in costs)
    moved = sum(sum(cost.bytes.values()) for cost in costs)
    return f"{launches:,}", f"{moved / 1e9:.2f}"


def plan_lines(model: DetectionModel, img_size: int = 640) -> Iterator[str]:
    """Every layer's plan, a step a line; layers without one are named alone."""
    widths: dict[int, int] = {}
    twin = DetectionModel(model.spec, model.num_classes, class_widths=model.class_widths).to("meta").train()
    blocks = {module: name for name, module in twin.named_modules() if isinstance(module, Block)}
    outer = [block for block in blocks if not any(block in other.children() for other in blocks)]
    hooks = [block.register_forward_pre_hook(_note_width(widths)) for block in outer]
    with torch.no_grad():
        twin.branches(torch.zeros(1, 3, img_size, img_size, device="meta"))
    for hook in hooks:
        hook.remove()
    for block in outer:
        if id(block) not in widths:
            continue
        plan = block.prepare(widths[id(block)])
        yield f"{blocks[block]} {type(block).__name__}" + ("" if plan else ": no plan, module by module")
        yield from (f"    {line}" for line in (plan.lines() if plan else ()))


def _note_width(widths: dict[int, int]) -> Any:
    def note(module: Block, inputs: tuple[Tensor, ...]) -> None:
        widths[id(module)] = inputs[0].shape[1]

    return note
