"""The MIT rewrite (MultimediaTechLab/YOLO): layers in an order of its own, the main head in the middle.

Its layer 22 is the main head. What the published networks have before that is numbered from 0, what follows is the auxiliary
branch, its head last. The names are facts of its released files.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from yolov9k.common.errors import UserError
from yolov9k.common.files import write_atomically
from yolov9k.compat.layouts import Layout, Row, classes, grouped, sized
from yolov9k.compat.variants import find_variant
from yolov9k.compat.weights import BINS, Held, Weights, assemble
from yolov9k.models import DetectionModel
from yolov9k.models.spec import ModelSpec

MAIN = 22  # its main head, and ours where there is no auxiliary branch
_AUXILIARY = {38: 38, 30: 29}  # its auxiliary head: our head of two branches
_HEAD = re.compile(r"(\d+)\.heads\.(\d+)\.(anchor_conv|class_conv|anc2vec)\.(.+)")


class MitLayout(Layout):
    """Keys of the MIT rewrite."""

    name = "mit"

    def recognizes(self, held: Held) -> bool:
        return any(_HEAD.fullmatch(key) for key in held.tensors)

    def read(self, held: Held) -> Weights | None:
        heads = {int(match[1]) for key in held.tensors if (match := _HEAD.fullmatch(key))}
        auxiliary = max(heads - {MAIN}, default=None)
        if MAIN not in heads or len(heads) > 2 or (auxiliary is not None and auxiliary not in _AUXILIARY):
            raise UserError(
                f"{held.path}: has the MIT rewrite's names and heads at layers {sorted(heads)}, expected them as in v9-t, "
                "-s, -m or -c"
            )
        state = {ours(key, auxiliary): _bins(key, tensor) for key, tensor in held.tensors.items()}
        spec = find_variant(state, MAIN if auxiliary is None else _AUXILIARY[auxiliary])
        return None if spec is None else assemble(held, self.name, state, spec)

    def limits(self, model: DetectionModel) -> list[Row]:
        first = [int(model.head.towers(b)[1][0][0].conv.in_channels) for b in range(model.head.num_branches)]  # type: ignore
        widths = [max(width, min(2 * model.num_classes, 128)) for width in first]
        rows = [
            *sized(model, "tsmc"),
            *grouped(model),
            *classes(model, widths),
            Row("class names", "in the file", "in its config"),
        ]
        if model.head.num_branches == 1:
            rows.append(Row("auxiliary branch", "none", "none; its own code starts one afresh and says so"))
        return [*rows, *super().limits(model)]

    def write(self, model: DetectionModel, path: Path) -> None:
        state = dict[str, Tensor]()
        for key, value in model.state_dict().items():
            their = theirs(key, model.spec)
            state |= {their: value.contiguous()} if their else _bins_of_levels(key, model.spec)
        write_atomically(path, lambda temporary: torch.save(state, temporary))


def _bins(key: str, tensor: Tensor) -> Tensor:
    """Their distances [1, 16, 1, 1, 1] as ours [1, 16, 1, 1]; anything else as it is."""
    return tensor[..., 0] if ".anc2vec." in key and tensor.dim() == 5 else tensor


def _bins_of_levels(key: str, spec: ModelSpec) -> dict[str, Tensor]:
    """Distances as each of their levels has them."""
    auxiliary = _auxiliary_head(spec)
    layer = auxiliary if auxiliary is not None and key.endswith(".dfl.conv.weight") else MAIN
    return {f"{layer}.heads.{level}.anc2vec.anc2vec.weight": BINS.view(1, 16, 1, 1, 1).clone() for level in range(3)}


def _auxiliary_head(spec: ModelSpec) -> int | None:
    """Their layer of the auxiliary head, None where the network has none."""
    head = len(spec.layers) - 1
    return next((layer for layer, mine in _AUXILIARY.items() if mine == head), None) if spec.branches == 2 else None


def ours(key: str, auxiliary: int | None) -> str:
    """Our key of one of theirs. auxiliary: the layer of their auxiliary head, None where the file has none."""
    if match := _HEAD.fullmatch(key):
        return _our_head_key(int(match[1]), match[2], match[3], match[4], auxiliary)
    number, _, rest = key.partition(".")
    if not number.isdecimal():
        return key
    return f"model.{_our_layer(int(number), auxiliary)}.{_our_names(rest)}"


def _our_layer(number: int, auxiliary: int | None) -> int:
    """c and m count the image as a layer as soon as an auxiliary branch reads it; t and s have one head fewer before theirs."""
    if auxiliary == 38:
        return number + 1 if number < MAIN else number
    return number - 1 if auxiliary == 30 and number > MAIN else number


def _our_head_key(layer: int, level: str, part: str, rest: str, auxiliary: int | None) -> str:
    branch = 1 if auxiliary is not None and layer == MAIN else 0
    head = MAIN if auxiliary is None else _AUXILIARY[auxiliary]
    if part == "anc2vec":  # the same in every level: the last one stays
        return f"model.{head}.dfl{branch + 1 if branch else ''}.conv.weight"
    return f"model.{head}.cv{2 * branch + (2 if part == 'anchor_conv' else 3)}.{level}.{rest}"


def _our_names(rest: str) -> str:
    """Names within a layer."""
    if rest.startswith(("conv.conv.", "conv.bn.")):  # AConv
        return f"cv1.{rest.removeprefix('conv.')}"
    rest = re.sub(r"\bconv([1-5])(?=\.)", r"cv\1", rest)
    rest = rest.replace(".bottleneck.", ".m.")
    return re.sub(r"(\.m\.\d+\.cv1\.)cv([12])\.", r"\1conv\2.", rest)  # the two branches of RepConv keep their names


def theirs(key: str, spec: ModelSpec) -> str | None:
    """Their key of one of ours, of a network of the published tables; None for the bins, which each level has there."""
    _, number, rest = key.split(".", 2)
    layer, auxiliary = int(number), _auxiliary_head(spec)
    if layer == len(spec.layers) - 1:
        return _their_head_key(rest, auxiliary)
    module = spec.layers[layer].module
    return f"{_their_layer(layer, auxiliary)}.{_their_names(rest, module)}"


def _their_layer(layer: int, auxiliary: int | None) -> int:
    if auxiliary == 38:
        return layer - 1 if layer <= MAIN else layer
    return layer + 1 if auxiliary == 30 and layer >= MAIN else layer


def _their_head_key(rest: str, auxiliary: int | None) -> str | None:
    tower, _, tail = rest.partition(".")
    if tower.startswith("dfl"):
        return None
    branch, box = divmod(int(tower.removeprefix("cv")) - 2, 2)
    level, _, tail = tail.partition(".")
    layer = MAIN if auxiliary is None or branch else auxiliary
    return f"{layer}.heads.{level}.{'class_conv' if box else 'anchor_conv'}.{tail}"


def _their_names(rest: str, module: str) -> str:
    if module == "AConv":
        return f"conv.{rest.removeprefix('cv1.')}"
    rest = re.sub(r"\bcv([1-5])(?=\.)", r"conv\1", rest)
    return rest.replace(".m.", ".bottleneck.")
