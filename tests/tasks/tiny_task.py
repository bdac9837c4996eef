"""A second task, as small as one can be: the class of an image's largest box, from one pooled linear layer.

Its targets are wider than boxes: the sixth column is a box's area.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from yolov9k.common.arrays import Image
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.batch import Batch
from yolov9k.data.records import Record, Split
from yolov9k.models import DetectionModel
from yolov9k.models.registry import register_head
from yolov9k.tasks import AutogradCriterion, DecodeOptions, Metric, NamedLoss, Predictions, Task, register


@register_head()
class LargestClass(nn.Module):
    """Logits [B, nc] of the deepest level, as a branch of one map."""

    task, num_branches, strides = "largest", 1, (8, 16, 32)

    def __init__(self, num_classes: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(sum(channels), num_classes)

    def forward(self, inputs: Sequence[Tensor], main_only: bool = False) -> list[list[Tensor]]:
        return [[self.linear(torch.cat([x.mean((2, 3)) for x in inputs], 1))]]

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[0].softmax(1)


def with_area(boxes: Tensor) -> Tensor:
    """Boxes [B, G, 5] as this task's targets [B, G, 6]."""
    return torch.cat((boxes, boxes[..., 3:4] * boxes[..., 4:5]), -1)


def largest(boxes: Tensor, counts: Tensor) -> Tensor:
    """Class [B] of each image's largest box, -1 where there is none; boxes are targets [B, G, 6]."""
    valid = torch.arange(boxes.shape[1], device=boxes.device) < counts[:, None]
    index = boxes[..., 5].masked_fill(~valid, -1).argmax(1, keepdim=True)
    return boxes[..., 0].gather(1, index)[:, 0].long().masked_fill(counts == 0, -1)


class Entropy(AutogradCriterion):
    """Cross entropy and the size of the logits, for a second number."""

    def __call__(self, branches: Any, targets: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        logits = branches[-1][0].float()
        parts = torch.stack([F.cross_entropy(logits, largest(*targets), ignore_index=-1), 1e-3 * logits.square().mean()])
        return parts.sum() * len(logits), parts.detach()


@dataclass
class Accuracy:
    """Share of images whose class is right."""

    accuracy: float

    @property
    def fitness(self) -> float:
        return self.accuracy

    def columns(self) -> Mapping[str, float]:
        return {"metrics/accuracy": self.accuracy}

    def print(self, console: Console) -> None:
        console.print(f"accuracy {self.accuracy:.4f}")

    def plot(self, directory: Path) -> None:
        (directory / "accuracy.txt").write_text(str(self.accuracy))


class Count:
    """Counts images whose class is right."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records, self.right, self.rows = records, 0, list[dict[str, Any]]()

    def add(self, batch: Batch, records: Sequence[Record], predictions: Predictions) -> None:
        wanted = largest(with_area(batch.boxes.cpu()), batch.counts.cpu())
        self.right += int((predictions.found[:, 0, 0].long() == wanted).sum())
        self.rows += [
            {"image_id": r.image_id, "class": int(c)} for r, c in zip(records, predictions.found[:, 0, 0], strict=True)
        ]

    def compute(self) -> Accuracy:
        return Accuracy(self.right / len(self.records))

    def plot_batch(self, batch: Batch, predictions: Predictions, directory: Path) -> None:
        (directory / "first_batch.txt").write_text(str(len(batch)))

    def save_json(self, path: Path) -> None:
        path.write_text(json.dumps(self.rows))

    def save_text(self, folder: Path, conf: bool = False) -> None:
        folder.mkdir()
        (folder / "classes.txt").write_text(" ".join(str(row["class"]) for row in self.rows))


@dataclass
class Answer:
    """The class of one image."""

    path: Path
    image: Image
    frame: int | None
    name: str
    score: float
    speed: dict[str, float] = field(default_factory=dict)

    def found(self) -> list[str]:
        return [self.name]

    def draw(self, *, labels: bool = True, confidences: bool = True, line_width: int | None = None) -> Image:
        return np.ascontiguousarray(self.image[::-1])

    def crops(self) -> list[tuple[str, Image]]:
        return []

    def to_text(self, conf: bool = False) -> str:
        return f"{self.name} {self.score:.3f}\n" if conf else f"{self.name}\n"

    def to_record(self) -> dict[str, Any]:
        return {"path": str(self.path), "frame": self.frame, "class": self.name}


class LargestTask(Task):
    name = "largest"
    losses = (NamedLoss("entropy", "entropy"), NamedLoss("size", "logit size"))
    metrics = (Metric("metrics/accuracy", "accuracy", "accuracy"),)
    target_width = 6

    def criterion(self, model: DetectionModel, recipe: TrainRecipe) -> Entropy:
        return Entropy()

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return with_area(batch.boxes), batch.counts

    def decode(self, model: DetectionModel, maps: Sequence[Tensor], options: DecodeOptions) -> Predictions:
        score, index = maps[0].float().softmax(1).max(1)
        return Predictions(torch.stack((index, score), 1)[:, None], torch.ones_like(index))

    def nonfinite(self, model: DetectionModel, maps: Sequence[Tensor]) -> Tensor:
        return ~maps[0].isfinite().all(1)

    def evaluator(self, model: DetectionModel, split: Split | None, records: Sequence[Record], single_cls: bool) -> Count:
        return Count(records)

    def result(self, frame: Any, found: Tensor, gain: float, pad: tuple[int, int], names: Sequence[str]) -> Answer:
        return Answer(frame.path, frame.image, frame.index, names[int(found[0, 0])], float(found[0, 1]))


register(LargestTask())
