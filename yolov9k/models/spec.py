"""A network's plan: what its layers are and what they read, before any tensor exists."""

from __future__ import annotations

import ast
import difflib
import itertools
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from yolov9k.common.errors import UserError
from yolov9k.common.text import read_yaml
from yolov9k.models.blocks import ACTIVATIONS
from yolov9k.models.registry import find, find_head, heads, is_head
from yolov9k.models.tables import DUAL, GELAN_E, NAMES

IMAGE = -1  # the network's input, as a source
_KEYS = ("nc", "depth_multiple", "width_multiple", "activation", "anchors", "backbone", "head")  # anchors: without effect


class LayerSpec(NamedTuple):
    """One layer: the absolute numbers of what it reads (IMAGE for the input), its module's name and arguments."""

    sources: tuple[int, ...]
    module: str
    args: tuple[Any, ...]
    repeats: int = 1


class Stage(NamedTuple):
    """Consecutive layers that work at one stride, `name` says on what: "backbone 8", "neck 16", "auxiliary 32", "head"."""

    name: str
    layers: tuple[int, ...]
    reads: tuple[int, ...]  # outputs of earlier stages, IMAGE included
    gives: tuple[int, ...]  # outputs that later stages read


@dataclass(frozen=True)
class ModelSpec:
    """Layers in order, the detection head last."""

    name: str
    layers: tuple[LayerSpec, ...]
    activation: str = "SiLU"
    num_classes: int = field(default=80, compare=False)  # what the file says; a model may be built with another number
    origin: str = field(default="", compare=False)  # the file it was read from

    @property
    def where(self) -> str:
        """How messages name the plan: its file, else its name."""
        return self.origin or f"model {self.name}"

    @property
    def branches(self) -> int:
        """Number of the head's branches."""
        return find_head(self.layers[-1].module).branches

    def main_sources(self) -> tuple[int, ...]:
        """Layers that the main branch reads."""
        head = self.layers[-1]
        return head.sources[-(len(head.sources) // self.branches) :]

    def needed(self, targets: tuple[int, ...]) -> set[int]:
        """Numbers of all layers from which `targets` are computed, themselves included."""
        found: set[int] = set()
        waiting = [t for t in targets if t != IMAGE]
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                waiting += [s for s in self.layers[number].sources if s != IMAGE]
        return found

    def strides(self) -> list[float]:
        """Pixels of the image to a cell of each layer's output (of what the head reads last, for the head)."""
        found: dict[int, float] = {IMAGE: 1}
        for number, layer in enumerate(self.layers):
            found[number] = found[layer.sources[-1]] * _pace(layer)
        return [found[number] for number in range(len(self.layers))]

    def stages(self, main_only: bool = False) -> list[Stage]:
        """All layers but the head in order, cut wherever stride or part of the network changes.

        The auxiliary part is what the main branch can do without; the backbone is all else before the first upsampling,
        the neck what follows. main_only leaves the auxiliary part out.
        """
        main = self.needed(self.main_sources())
        layers = sorted(main if main_only else self.needed(self.layers[-1].sources))
        ups = [n for n in sorted(main) if _pace(self.layers[n]) < 1]
        strides, first_up = self.strides(), ups[0] if ups else len(self.layers)

        def name(number: int) -> str:
            part = "auxiliary" if number not in main else "backbone" if number < first_up else "neck"
            return f"{part} {strides[number]:g}"

        runs = [(text, tuple(run)) for text, run in itertools.groupby(layers, name)]
        head = self.main_sources() if main_only else self.layers[-1].sources
        return [self._stage(text, run, layers, head) for text, run in runs]

    def _stage(self, name: str, run: tuple[int, ...], layers: list[int], head: tuple[int, ...]) -> Stage:
        later = {s for n in layers if n > run[-1] for s in self.layers[n].sources} | set(head)
        reads = {s for n in run for s in self.layers[n].sources} - set(run)
        return Stage(name, run, tuple(sorted(reads)), tuple(n for n in run if n in later))

    def lean(self) -> tuple[ModelSpec, dict[int, int]]:
        """The main branch alone, and the new number of every layer that stays, the head included.

        A leading pass-through that only the next layer reads goes as well; one that several read (yolov9-e) stays.
        """
        if self.branches == 1:
            return self, {i: i for i in range(len(self.layers))}
        head = len(self.layers) - 1
        kept = sorted(self.needed(self.main_sources()))
        if find(self.layers[kept[0]].module).passes and sum(kept[0] in self.layers[i].sources for i in kept) == 1:
            kept = kept[1:]
        number = {old: new for new, old in enumerate([*kept, head])}
        main = self.layers[head]._replace(sources=self.main_sources(), module=find_head(self.layers[head].module).lean)
        layers = tuple(
            layer._replace(sources=tuple(number.get(s, IMAGE) for s in layer.sources))
            for layer in (*(self.layers[i] for i in kept), main)
        )
        return replace(self, layers=layers, name=self.name.replace("yolov9", "gelan")), number


def _pace(layer: LayerSpec) -> float:
    """By how much a layer's output is coarser than what it reads last; 1 for a module that is not known."""
    try:
        return find(layer.module).pace(layer.args) ** layer.repeats
    except ValueError:
        return 1.0


def _is_scaled(module: str) -> bool:
    """Whether width_multiple scales the first argument of a module; the builder refuses one that is not known."""
    try:
        return find(module).scales
    except ValueError:
        return True


def _absolute(rows: list[Any]) -> tuple[LayerSpec, ...]:
    layers = []
    for i, (sources, module, *args) in enumerate(rows):
        listed = sources if isinstance(sources, list) else [sources]
        layers.append(LayerSpec(tuple(i + s if s < 0 else s for s in listed), module, tuple(args)))
    return tuple(layers)


def load_spec(source: str | Path) -> ModelSpec:
    """The plan of a published variant ("yolov9-c", "gelan-t") or of a YAML file. Raises UserError."""
    name = Path(source).stem if str(source).endswith((".yaml", ".yml")) else str(source)
    if Path(source).suffix in (".yaml", ".yml") and (Path(source).exists() or name not in NAMES):
        return _from_yaml(Path(source))
    if name not in NAMES:
        raise UserError(f"model {source}: unknown; give a .yaml file or one of {', '.join(NAMES)}")
    if name == "gelan-e":
        return ModelSpec(name, _absolute(GELAN_E))
    dual = ModelSpec(name.replace("gelan", "yolov9"), _absolute(DUAL[name.replace("gelan", "yolov9")]))
    return dual if name in DUAL else dual.lean()[0]


def _from_yaml(path: Path) -> ModelSpec:
    """Read the published format: backbone and head lists of [from, number, module, args], multiples, activation, nc."""
    table = _read_table(path)
    depth, width = (_multiple(path, key, table.get(key, 1)) for key in ("depth_multiple", "width_multiple"))
    classes = table.get("nc", 80)
    if type(classes) is not int or classes < 1:
        raise UserError(f"{path}: nc is {classes!r}, expected a number of classes")
    rows = [*table["backbone"], *table["head"]]
    layers = tuple(_yaml_layer(path, i, row, depth, width) for i, row in enumerate(rows))
    if not layers or not is_head(layers[-1].module):
        last = f"the last layer is {layers[-1].module}" if layers else "there are no layers"
        raise UserError(f"{path}: {last}, expected one of {', '.join(heads())}")
    for i, layer in enumerate(layers):
        if is_head(layer.module) and (i < len(layers) - 1 or layer.args not in (("nc",), (classes,))):
            raise UserError(f"{path}: layer {i} {layer.module} {list(layer.args)}, expected it last and with [nc] alone")
    return ModelSpec(path.stem, layers, _activation(table.get("activation"), path), classes, str(path))


def _read_table(path: Path) -> dict[str, Any]:
    table = read_yaml(path)
    if not isinstance(table, dict) or not all(isinstance(table.get(k), list) for k in ("backbone", "head")):
        raise UserError(f"{path}: a model file needs the lists 'backbone' and 'head'")
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(_KEYS)}"
            raise UserError(f"{path}: unknown key {str(key)!r}; {hint}")
    return table


def _multiple(path: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100:
        raise UserError(f"{path}: {key} is {value!r}, expected a number above 0")
    return float(value)


def _yaml_layer(path: Path, i: int, row: Any, depth: float, width: float) -> LayerSpec:
    if not isinstance(row, list) or len(row) != 4 or not isinstance(row[2], str) or not isinstance(row[3], list):
        raise UserError(f"{path}: layer {i} is {row!r}, expected [from, number, module, args]")
    sources, repeats, module, args = row
    listed = sources if isinstance(sources, list) else [sources]
    if not listed or any(type(s) is not int or not IMAGE <= (i + s if s < 0 else s) < i for s in listed):
        raise UserError(f"{path}: layer {i} {module} reads {sources}, expected layers before it")
    if type(repeats) is not int or repeats < 1:
        raise UserError(f"{path}: layer {i} {module} has the number {repeats!r}, expected 1 or more")
    values = [_literal(arg) for arg in args]
    if width != 1 and values and type(values[0]) is int and _is_scaled(module):
        values[0] = values[0] * width  # the output's width alone is scaled; the builder rounds it
    absolute = tuple(i + s if s < 0 else s for s in listed)
    return LayerSpec(absolute, module, tuple(values), max(round(repeats * depth), 1) if repeats > 1 else repeats)


def _literal(value: Any) -> Any:
    """Arguments are literals, or text that reads as one ("None"); any other text ("nc", "nearest") stays text."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _activation(text: Any, path: Path) -> str:
    if text is None:
        return "SiLU"
    try:
        make_activation(text)
    except (TypeError, ValueError):
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"{path}: activation {text!r} is unknown; known: {known}, with plain values as arguments") from None
    return str(text)


def make_activation(text: str) -> nn.Module:
    """The module that a text like "nn.LeakyReLU(0.1)" names. The text is parsed, never executed. Raises ValueError."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body if isinstance(text, str) else None
        call = tree if isinstance(tree, ast.Call) else ast.Call(func=tree, args=[], keywords=[])
        name = re.fullmatch(r"(?:torch\.)?(?:nn\.)?(\w+)", ast.unparse(call.func))
        args = [ast.literal_eval(arg) for arg in call.args]
        options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, AttributeError, MemoryError, RecursionError):
        name = None
    if name is None or name[1] not in ACTIVATIONS:
        raise ValueError(f"unknown activation {text!r}")
    options.pop("inplace", None)  # a backward may need what it would overwrite
    return ACTIVATIONS[name[1]](*args, **options)
