"""What a model is trained for: its losses, targets, predictions, metrics and results, behind one interface.

The engine trains, validates and predicts through a `Task` alone, and knows losses and metrics by its names. A model's head
names its task (`task = "detect"`), and `task_of` finds it. A new task is a file with a subclass of `Task` and one call of
`register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from rich.console import Console
from torch import Tensor

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.batch import Batch
from yolov9k.data.records import Record, Split

if TYPE_CHECKING:
    from yolov9k.models import DetectionModel

Targets = tuple[Tensor, Tensor]


class NamedLoss(NamedTuple):
    """A part of the loss: `name` in files and columns, `label` on the screen."""

    name: str
    label: str

    def column(self, split: str) -> str:
        """Its column in results.csv: "train/box_loss"."""
        return f"{split}/{self.name}_loss"


class Metric(NamedTuple):
    """A figure of an evaluation: its column in results.csv, the panel of results.png that shows it, and its label in the
    line of an epoch, empty where it is not shown there."""

    column: str
    panel: str
    label: str = ""


class Criterion(Protocol):
    """The loss of a task: raw maps of all branches and targets in, a total and one value for each named loss out."""

    def __call__(self, branches: Any, targets: Targets) -> tuple[Tensor, Tensor]:
        """Total (scalar) and parts [len(task.losses)], detached."""

    def backward(self, branches: Any, targets: Targets, scale: Tensor | None = None) -> Tensor:
        """Propagate the total, multiplied by `scale` where given, to what the maps came from; returns the parts."""


class AutogradCriterion(ABC):
    """A criterion whose backward is autograd's."""

    @abstractmethod
    def __call__(self, branches: Any, targets: Targets) -> tuple[Tensor, Tensor]:
        """As in `Criterion`."""

    def backward(self, branches: Any, targets: Targets, scale: Tensor | None = None) -> Tensor:
        """As in `Criterion`."""
        total, parts = self(branches, targets)
        (total if scale is None else total * scale).backward()  # type: ignore[no-untyped-call]
        return parts


class Predictions(NamedTuple):
    """What a batch's raw maps decode to, as tensors of one row for each image on the model's device.

    found: [B, ...], for detection [B, max_det, 6] in pixels of the letterboxed images; counts: int64 [B].
    """

    found: Tensor
    counts: Tensor


@dataclass(frozen=True)
class DecodeOptions:
    """Thresholds of a prediction. classes: numbers to keep, None for all; single_cls: every class counts as class 0."""

    conf: float
    iou: float
    max_det: int
    classes: Sequence[int] | None = None
    agnostic: bool = False
    multi_label: bool = False
    single_cls: bool = False


class Evaluation(Protocol):
    """Metrics of a split. fitness: what the best checkpoint is chosen by, higher is better."""

    @property
    def fitness(self) -> float: ...

    def columns(self) -> Mapping[str, float]:
        """Values by the columns of `Task.metrics`."""

    def print(self, console: Console) -> None:
        """A table for people."""

    def plot(self, directory: Path) -> None:
        """Draw what there is to see into the directory."""


class Evaluator(Protocol):
    """Collects predictions of images whose ground truth it knows."""

    def add(self, batch: Batch, records: Sequence[Record], predictions: Predictions) -> None:
        """A batch's predictions, on the host; `records` are its images'."""

    def compute(self) -> Evaluation:
        """Metrics of what was added so far; images without predictions count as missed."""

    def plot_batch(self, batch: Batch, predictions: Predictions, directory: Path) -> None:
        """Draw a batch's ground truth and its predictions, on the host."""

    def save_json(self, path: Path) -> None:
        """Write the predictions. Raises UserError."""

    def save_text(self, folder: Path, conf: bool = False) -> None:
        """Write the predictions as labels, a file an image, with scores if `conf`. Raises UserError."""


class Result(Protocol):
    """What was found in one image: `path`, `image` uint8 [H, W, 3] BGR, `frame` in a video or None.

    The predictor adds `speed`: milliseconds an image of the pass that it came from, by the fields of `Speed`.
    """

    path: Path
    image: Image
    frame: int | None
    speed: dict[str, float]

    def found(self) -> Sequence[str]:
        """Class names of what was found, one for each."""

    def draw(self, *, labels: bool = True, confidences: bool = True, line_width: int | None = None) -> Image:
        """A copy of the image with what was found on it."""

    def crops(self) -> Sequence[tuple[str, Image]]:
        """Class name and part of the image of what was found, nothing where that is no part."""

    def to_text(self, conf: bool = False) -> str:
        """Lines of a label file, with scores if `conf`."""

    def to_record(self) -> dict[str, Any]:
        """Ready for json.dumps."""


class Task(ABC):
    """One interface for training, validation and prediction.

    name: as heads call it. losses: parts of the criterion, in the order of its tensor. metrics: in the order of results.csv.
    target_width: K of the targets' rows.
    """

    name: ClassVar[str]
    losses: ClassVar[tuple[NamedLoss, ...]]
    metrics: ClassVar[tuple[Metric, ...]]
    target_width: ClassVar[int] = 5

    @abstractmethod
    def criterion(self, model: DetectionModel, recipe: TrainRecipe) -> Criterion:
        """The training loss of a model under a recipe."""

    def targets(self, batch: Batch) -> Targets:
        """What the criterion is given beside raw maps: rows [B, G, K], padded, and their counts int64 [B]."""
        return batch.boxes, batch.counts

    @abstractmethod
    def decode(self, model: DetectionModel, maps: Any, options: DecodeOptions) -> Predictions:
        """The main branch's raw maps to predictions; nothing is read on the host."""

    def views(self, model: DetectionModel, images: Tensor) -> Any:
        """Raw maps of images [B, 3, H, W] at several sizes, for `decode_views`. Raises UserError for a task that has none."""
        raise UserError(f"--augment: the task '{self.name}' has no test-time augmentation; leave it out")

    def decode_views(self, model: DetectionModel, views: Any, options: DecodeOptions) -> Predictions:
        """As `decode`, of what `views` gave."""
        raise NotImplementedError

    @abstractmethod
    def nonfinite(self, model: DetectionModel, maps: Any) -> Tensor:
        """Images whose predictions are lost to NaN or infinity: bool [B]."""

    @abstractmethod
    def evaluator(self, model: DetectionModel, split: Split | None, records: Sequence[Record], single_cls: bool) -> Evaluator:
        """An evaluator of a split. Raises UserError when model and data do not fit together."""

    @abstractmethod
    def result(self, frame: Any, found: Tensor, gain: float, pad: tuple[int, int], names: Sequence[str]) -> Result:
        """One image's result from its row of `Predictions.found` up to its count, on the host.

        frame: path, image, index and source of the image; gain, pad: x in the letterboxed image = x * gain + pad.
        """

    def plot_batch(self, batch: Batch, names: Sequence[str], path: Path) -> None:  # noqa: B027 (drawing is optional)
        """Draw a training batch with its ground truth; nothing by default."""

    def plot_split(self, split: Split, path: Path) -> None:  # noqa: B027
        """Draw what a split holds; nothing by default."""

    def loss_values(self, parts: Sequence[float]) -> dict[str, float]:
        """Values of the criterion's parts by name. Raises ValueError where it gave another number of them."""
        return dict(zip((loss.name for loss in self.losses), parts, strict=True))

    def loss_text(self, values: Mapping[str, float], separator: str = "  ") -> str:
        """Losses by name as a line: "box 1.234  class 0.567"."""
        return separator.join(f"{loss.label} {values[loss.name]:.3f}" for loss in self.losses)

    def columns(self) -> tuple[str, ...]:
        """Columns of results.csv that are the task's own: losses of training, metrics, losses of validation."""
        train, val = ([loss.column(split) for loss in self.losses] for split in ("train", "val"))
        return (*train, *(metric.column for metric in self.metrics), *val)

    def panels(self) -> list[tuple[str, list[str]]]:
        """Title and columns of each panel of results.png."""
        losses = [(f"{loss.name} loss", [loss.column("train"), loss.column("val")]) for loss in self.losses]
        titles = list(dict.fromkeys(metric.panel for metric in self.metrics))
        return losses + [(title, [m.column for m in self.metrics if m.panel == title]) for title in titles]


_TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Make a task known by its name. Raises ValueError where another has that name."""
    if type(_TASKS.get(task.name, task)) is not type(task):
        raise ValueError(f"a task named {task.name!r} is registered already: {type(_TASKS[task.name]).__name__}")
    return _TASKS.setdefault(task.name, task)


def task_of(model: Any) -> Task:
    """The task of a model's head; detection where the head names none. Raises ValueError for one that nobody registered."""
    name = getattr(getattr(model, "head", None), "task", "detect")
    if name not in _TASKS:
        raise ValueError(f"no task is named {name!r}; registered are {', '.join(sorted(_TASKS)) or 'none'}")
    return _TASKS[name]
