"""From a layer table to modules: each layer's input width follows from what it reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from yolov9k.common.errors import UserError
from yolov9k.models.activations import make_activation
from yolov9k.models.block import Block
from yolov9k.models.registry import HeadKind, Width, find
from yolov9k.models.spec import ModelSpec
from yolov9k.models.tables import IMAGE, LayerSpec


def build_layers(spec: ModelSpec, num_classes: int, class_widths: Sequence[int] | None) -> list[nn.Module]:
    """Modules of all layers, the head last. Raises UserError naming the table, layer and arguments."""
    modules: list[nn.Module] = []
    widths: dict[int, Width] = {IMAGE: 3}
    for number, layer in enumerate(spec.layers):
        try:
            module, widths[number] = _build_layer(layer, [widths[s] for s in layer.sources], num_classes, class_widths)
        except (TypeError, ValueError, IndexError, RuntimeError, ArithmeticError) as error:
            raise UserError(f"{spec.where}: layer {number} {layer.module} {list(layer.args)}: {one_line(error)}") from None
        modules.append(module)
    if spec.activation != "SiLU":
        for module in modules:
            _set_activation(module, spec.activation)
    return modules


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _build_layer(
    layer: LayerSpec, widths: list[Width], num_classes: int, class_widths: Sequence[int] | None
) -> tuple[nn.Module, Width]:
    """The layer's module and its output's width."""
    kind = find(layer.module)
    sources = kind.sources(layer.args, widths)
    if isinstance(kind, HeadKind):
        return kind.build_head(num_classes, sources, class_widths), 0
    if layer.repeats != 1 and not kind.repeats:
        raise ValueError(f"is asked for {layer.repeats} times, expected once")
    return kind.build(sources, layer.args, layer.repeats)


def _set_activation(module: nn.Module, text: str) -> None:
    """Replace each block's default SiLU."""
    for part in module.modules():
        if isinstance(part, Block) and isinstance(getattr(part, "act", None), nn.SiLU):
            part.act = make_activation(text)
