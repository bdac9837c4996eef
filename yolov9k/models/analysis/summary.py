"""What a network costs: parameters and FLOPs, counted without computing anything."""

from __future__ import annotations

from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from yolov9k.common.console import literal
from yolov9k.models.blocks import Conv
from yolov9k.models.yolov9 import DetectionModel


class LayerCost(NamedTuple):
    """One layer of the table: its number, sources, module, arguments, parameters and GFLOPs."""

    number: int
    sources: tuple[int, ...]
    module: str
    args: tuple[object, ...]
    parameters: int
    gflops: float


def layer_costs(model: DetectionModel, img_size: int = 640) -> list[LayerCost]:
    """Cost of each layer for one square image; FLOPs are two for each multiply-add of the convolutions."""
    twin = DetectionModel(model.spec, model.num_classes, class_widths=model.class_widths)
    twin = _like(twin, model).to("meta").train(model.training)
    flops = [0] * len(twin.model)
    for number, layer in enumerate(twin.model):
        for module in layer.modules():
            module.register_forward_hook(_counter(flops, number))  # type: ignore[arg-type]
    with torch.no_grad():
        twin.branches(torch.zeros(1, 3, img_size, img_size, device="meta"))
    return [
        LayerCost(i, spec.sources, spec.module, spec.args, sum(p.numel() for p in layer.parameters()), flops[i] / 1e9)
        for i, (spec, layer) in enumerate(zip(model.spec.layers, twin.model, strict=True))
    ]


def _like(twin: DetectionModel, model: DetectionModel) -> DetectionModel:
    """A fused model's twin is fused too."""
    return twin.fuse() if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) else twin


def _counter(flops: list[int], number: int) -> object:
    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        # A Conv runs its convolution inside a fused operator, so that only the Conv itself sees the output.
        conv = module.conv if isinstance(module, Conv) and module.bn is not None else module
        if isinstance(conv, nn.Conv2d):
            flops[number] += 2 * conv.weight[0].numel() * output.numel()

    return count


def cost(model: DetectionModel, img_size: int = 640) -> tuple[int, float]:
    """Parameters and GFLOPs of the whole network."""
    layers = layer_costs(model, img_size)
    return sum(layer.parameters for layer in layers), sum(layer.gflops for layer in layers)


def table(model: DetectionModel, img_size: int = 640) -> Table:
    """The layer table as it is printed by `yolov9k info`."""
    view = Table(title=literal(f"{model.spec.name}, {model.num_classes} classes, {img_size} px"))
    for column in ("layer", "from", "module", "arguments", "parameters", "GFLOPs"):
        view.add_column(column, justify="left" if column in ("module", "arguments") else "right")
    for layer in layer_costs(model, img_size):
        sources = ", ".join("image" if s < 0 else str(s) for s in layer.sources)
        module, args = literal(layer.module), literal(", ".join(str(a) for a in layer.args))
        view.add_row(str(layer.number), sources, module, args, f"{layer.parameters:,}", f"{layer.gflops:.2f}")
    return view
