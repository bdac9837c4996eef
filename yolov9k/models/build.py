"""From a layer table to modules: each layer's input width follows from what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from yolov9k.common.errors import UserError, one_line, shown
from yolov9k.models.activations import make_activation
from yolov9k.models.block import Block
from yolov9k.models.registry import HeadKind, Width, find
from yolov9k.models.spec import ModelSpec
from yolov9k.models.tables import IMAGE, LayerSpec

MAX_MODULES = 5_000  # yolov9-e has 1,761
MAX_WEIGHTS = 4_000_000_000  # yolov9-e has 70 million


def build_layers(spec: ModelSpec, num_classes: int, class_widths: Sequence[int] | None) -> list[nn.Module]:
    """Modules of all layers, the head last. Raises UserError naming the table, layer and arguments."""
    modules: list[nn.Module] = []
    widths: dict[int, Width] = {IMAGE: 3}
    for number, layer in enumerate(spec.layers):
        try:
            module, widths[number] = _build_layer(layer, [widths[s] for s in layer.sources], num_classes, class_widths)
        except (TypeError, ValueError, IndexError, RuntimeError, ArithmeticError) as error:
            raise UserError(
                f"{spec.where}: layer {number} {layer.module} {shown(list(layer.args), 100)}: {said(error)}"
            ) from None
        modules.append(module)
    if spec.activation != "SiLU":
        for module in modules:
            _set_activation(module, spec.activation)
    return modules


@contextmanager
def bounded() -> Iterator[None]:
    """Raise ValueError inside from what makes more modules or weights than any model has: a number in a file may ask for it."""
    modules = weights = 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MAX_MODULES:
            raise ValueError(f"more than {MAX_MODULES:,} modules")

    def count_weights(_: nn.Module, __: str, parameter: nn.Parameter) -> None:
        nonlocal weights
        weights += parameter.numel()
        if weights > MAX_WEIGHTS:
            raise ValueError(f"more than {MAX_WEIGHTS:,} weights")

    with register_module_module_registration_hook(count_module), register_module_parameter_registration_hook(count_weights):
        yield


def said(error: Exception) -> str:
    """An error's message on one line."""
    return one_line(str(error)) or type(error).__name__


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
