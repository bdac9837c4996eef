"""A network's plan: what its layers are and what they read, before any tensor exists."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from yolov9k.common.errors import MODEL, UserError, failing_as
from yolov9k.common.paths import given_path
from yolov9k.models.registry import find, find_head
from yolov9k.models.tables import DUAL, GELAN_E, IMAGE, NAMES, LayerSpec, absolute, likely_name
from yolov9k.models.yaml_spec import read_model_file


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

    def with_head(self, module: str) -> ModelSpec:
        """The same layers under another head that reads as many."""
        return replace(self, layers=(*self.layers[:-1], self.layers[-1]._replace(module=module)))

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


@failing_as(MODEL)
def load_spec(source: str | Path) -> ModelSpec:
    """The plan of a published variant ("yolov9-c", "gelan-t") or of a YAML file. Raises UserError."""
    path, is_file = given_path(source), Path(source).suffix in (".yaml", ".yml")
    name = path.stem if is_file else str(source)
    near = likely_name(str(source))
    if is_file and not path.exists() and near and name not in NAMES:
        raise UserError(f"{source}: no such file; did you mean '{near}'?")
    if is_file and (path.exists() or name not in NAMES):
        found = read_model_file(path)
        return ModelSpec(name, found.layers, found.activation, found.num_classes, str(path))
    if name not in NAMES:
        known = f"did you mean '{near}'?" if near else f"give a .yaml file or one of {', '.join(NAMES)}"
        raise UserError(f"model {source}: unknown; {known}")
    if name == "gelan-e":
        return ModelSpec(name, absolute(GELAN_E))
    dual = ModelSpec(name.replace("gelan", "yolov9"), absolute(DUAL[name.replace("gelan", "yolov9")]))
    return dual if name in DUAL else dual.lean()[0]
