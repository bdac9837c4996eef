"""LibreYOLO's detectors of the family yolo9: modules by names of their own, images at the top left of their letterbox.

The names are facts of its files. Its auxiliary branch of t and s is the published one; that of m and c is another network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from yolov9k.common.errors import UserError, shown
from yolov9k.common.files import write_atomically
from yolov9k.compat.layouts import Layout, Row, classes, grouped, has, sized
from yolov9k.compat.variants import find_variant
from yolov9k.compat.weights import Held, State, Weights, assemble
from yolov9k.config.flags import PLACEMENTS
from yolov9k.models import DetectionModel

FAMILY, VERSION = "yolo9", "1.6.0"  # whose files look like this
HEAD = 22
MODULES = {
    "backbone.conv0": 0, "backbone.conv1": 1, "backbone.elan1": 2, "backbone.down2": 3, "backbone.elan2": 4,
    "backbone.down3": 5, "backbone.elan3": 6, "backbone.down4": 7, "backbone.elan4": 8, "backbone.spp": 9,
    "neck.elan_up1": 12, "neck.elan_up2": 15, "neck.down1": 16, "neck.elan_down1": 18, "neck.down2": 19, "neck.elan_down2": 21,
}  # fmt: skip
AUXILIARY = {"aux.spp": 22, "aux.elan_a4": 25, "aux.elan_a3": 28}  # layers of yolov9-t and -s, whose head is layer 29
DUAL_HEAD = 29
_KEY = re.compile(r"(backbone\.\w+|neck\.\w+|aux\.\w+|head|aux_head)\.(.+)")


class LibreLayout(Layout):
    """Keys of LibreYOLO."""

    name = "libreyolo"
    placement = ""

    def recognizes(self, held: Held) -> bool:
        named = has(held.tensors, "backbone.elan") and has(held.tensors, "neck.elan_up")
        return named and (has(held.tensors, "head.cv2.") or has(held.tensors, "detect.cv2."))

    def read(self, held: Held) -> Weights | None:
        tensors = {re.sub(r"^detect\.", "head.", key): tensor for key, tensor in held.tensors.items()}  # its early files
        auxiliary = {key: tensor for key, tensor in tensors.items() if key.startswith(("aux.", "aux_head."))}
        main = {key: tensor for key, tensor in tensors.items() if key not in auxiliary}
        state = {ours(key): tensor for key, tensor in main.items()}
        spec = find_variant(state, HEAD)
        left_out: tuple[str, ...] = ()
        if spec and auxiliary and spec.name.endswith(("-t", "-s")):
            state = {ours(key, dual=True): tensor for key, tensor in tensors.items()}
            spec = find_variant(state, DUAL_HEAD)
        elif auxiliary:
            left_out = ("aux", "aux_head")
        return None if spec is None else assemble(held, self.name, state, spec, letterbox=_placement(held), left_out=left_out)

    def is_lean(self, model: DetectionModel) -> bool:
        return model.spec.name not in ("yolov9-t", "yolov9-s")

    def limits(self, model: DetectionModel) -> list[Row]:
        first = [int(model.head.towers(b)[1][0][0].conv.in_channels) for b in range(model.head.num_branches)]  # type: ignore
        widths = [max(width, min(model.num_classes, 100)) for width in first]
        return [*sized(model, "tsmc"), *grouped(model), *classes(model, widths), *super().limits(model)]

    def write(self, model: DetectionModel, path: Path) -> None:
        state = theirs(model.state_dict(), [layer.module for layer in model.spec.layers], model.head.num_branches == 2)
        content = {
            "model": state, "schema_version": "1.0", "libreyolo_version": VERSION, "model_family": FAMILY,
            "size": model.spec.name[-1], "task": "detect", "nc": model.num_classes, "names": dict(enumerate(model.names)),
            "imgsz": 640, "letterbox_pad": model.letterbox,
        }  # fmt: skip
        write_atomically(path, lambda temporary: torch.save(content, temporary))


def _placement(held: Held) -> str:
    """Where images lie in its letterbox: at the top left unless the file says otherwise."""
    given = held.facts.get("letterbox_pad", "topleft")
    if given not in PLACEMENTS:
        raise UserError(f"{held.path}: letterbox_pad is {shown(given)}, expected {' or '.join(PLACEMENTS)}")
    return str(given)


def ours(key: str, dual: bool = False) -> str:
    """Our key of one of theirs. dual: of a network with the published auxiliary branch."""
    match = _KEY.fullmatch(key)
    if not match:
        return key
    module, rest = match[1], re.sub(r"^cv\.(?=conv\.|bn\.)", "cv1.", match[2])  # AConv's only convolution
    if module in ("head", "aux_head"):
        if dual and module == "head":
            rest = re.sub(r"^cv([23])\.", lambda tower: f"cv{int(tower[1]) + 2}.", rest)
        return f"model.{DUAL_HEAD if dual else HEAD}.{rest}"
    number = MODULES.get(module, AUXILIARY.get(module))
    return key if number is None else f"model.{number}.{rest}"


def theirs(state: Mapping[str, Tensor], modules: Sequence[str], dual: bool) -> State:
    """Our tensors under their names. modules: what each of our layers is (`ModelSpec.layers`)."""
    names = {number: name for name, number in (MODULES | (AUXILIARY if dual else {})).items()}
    head, found = (DUAL_HEAD if dual else HEAD), State()
    for key, tensor in state.items():
        _, number, rest = key.split(".", 2)
        if rest.startswith("dfl"):
            continue
        if int(number) == head:
            tower, _, tail = rest.partition(".")
            place = int(tower.removeprefix("cv"))
            main = not dual or place > 3
            found[f"{'head' if main else 'aux_head'}.cv{place - 2 if dual and main else place}.{tail}"] = tensor
            continue
        rest = re.sub(r"^cv1\.", "cv.", rest) if modules[int(number)] == "AConv" else rest
        found[f"{names[int(number)]}.{rest}"] = tensor
    return found
