"""Ultralytics' files: a dict whose model is a pickled module of one branch, its box convolutions dense."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor

from yolov9k.compat.layouts import Layout, Row, sized
from yolov9k.compat.modules import network, yaml_of
from yolov9k.compat.numbered import as_ours, is_numbered, read_numbered
from yolov9k.compat.pickled import write_pickle
from yolov9k.compat.weights import Held, Weights
from yolov9k.models import DetectionModel
from yolov9k.models.fitting import head_form
from yolov9k.models.heads.detect import CLASS_TOWERS, head_name

VERSION = "8.4.190"  # whose files look like this
_PLACE = "ultralytics.nn.modules"
_PATHS = {
    **{name: f"{_PLACE}.conv.{name}" for name in ("Conv", "DWConv", "Concat")},
    **{name: f"{_PLACE}.block.{name}" for name in ("RepNCSPELAN4", "ELAN1", "AConv", "ADown", "SPPELAN")},
    **{name: f"{_PLACE}.block.{name}" for name in ("CBLinear", "CBFuse", "DFL")},
    "RepNBottleneck": f"{_PLACE}.block.RepBottleneck", "RepNCSP": f"{_PLACE}.block.RepCSP",
    "RepConvN": f"{_PLACE}.conv.RepConv", "Silence": "torch.nn.modules.linear.Identity",
    "model": "ultralytics.nn.tasks.DetectionModel",
}  # fmt: skip


class UltralyticsLayout(Layout):
    """The keys of our lean forms."""

    name = "ultralytics"
    towers = CLASS_TOWERS

    def recognizes(self, held: Held) -> bool:
        if str(held.facts.get("package", "")).startswith("ultralytics."):
            return is_numbered(held)
        form = head_form(as_ours(held)) if is_numbered(held) else None
        return form is not None and (form.branches, form.groups) == (1, 1)

    def read(self, held: Held) -> Weights | None:
        return read_numbered(held, self.name)

    def is_lean(self, model: DetectionModel) -> bool:
        return True

    def limits(self, model: DetectionModel) -> list[Row]:
        grouped = (
            [Row("box convolutions", "4 groups", "dense, zero outside of the four blocks")] if model.head.groups == 4 else []
        )
        return [*sized(model, "tsmce"), *grouped, *super().limits(model)]

    def write(self, model: DetectionModel, path: Path) -> None:
        name = f"{model.spec.name.replace('gelan-', 'yolov9')}.yaml"
        options = {"task": "detect", "mode": "train", "model": name, "imgsz": 640, "single_cls": False}
        model = dense(model)
        facts = {"names": dict(enumerate(model.names)), "args": options, "task": "detect"}
        facts["yaml"] = {**yaml_of(model), "yaml_file": name, "channels": 3}
        content = network(model, _PATHS, f"{_PLACE}.head.Detect", **facts)
        rest = dict.fromkeys(("best_fitness", "ema", "updates", "optimizer"))
        date = datetime.now(timezone.utc).isoformat()
        kept = {"date": date, "version": VERSION, "epoch": -1, "model": content, **rest, "train_args": options}
        write_pickle(path, kept)


def dense(model: DetectionModel) -> DetectionModel:
    """The same function with dense box convolutions: block-diagonal kernels in place of grouped ones."""
    if model.head.groups == 1:
        return model
    spec = model.spec.with_head(head_name(model.head.num_branches, 1, model.head.class_tower))
    widths = [int(model.head.towers(b)[1][0][-1].weight.shape[1]) for b in range(model.head.num_branches)]  # type: ignore[index]
    twin = DetectionModel(spec, model.num_classes, model.names, widths)
    own = twin.state_dict()
    state = {key: value if value.shape == own[key].shape else block_diagonal(value, model.head.groups)
             for key, value in model.state_dict().items()}  # fmt: skip
    twin.load_state_dict(state)
    twin.letterbox = model.letterbox
    return twin.train(model.training)


def block_diagonal(kernel: Tensor, groups: int) -> Tensor:
    """A dense kernel [N, C, k, k] that computes what a grouped one [N, C / groups, k, k] does."""
    blocks = [torch.nn.functional.pad(part, (0, 0, 0, 0, i * part.shape[1], (groups - 1 - i) * part.shape[1]))
              for i, part in enumerate(kernel.chunk(groups))]  # fmt: skip
    return torch.cat(blocks)
