"""What happens in training, validation and prediction, told to whoever listens: typed events with Ultralytics' names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from yolov9k.common.errors import UserError, shown


@dataclass
class Event:
    """The base of all. source: the trainer, validation or predictor that it comes from; what the event itself has not is read
    from there, so that a function written for Ultralytics' trainer finds what ours has too."""

    source: Any = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "source" not in self.__dict__:
            raise AttributeError(name)
        try:
            return getattr(self.source, name)
        except AttributeError:
            raise AttributeError(f"neither {type(self).__name__} nor {type(self.source).__name__} has {name!r}") from None


@dataclass
class TrainEvent(Event):
    """epoch: from 0; epochs: of the whole run; save_dir: the run's directory."""

    epoch: int
    epochs: int
    save_dir: Path

    @property
    def stop(self) -> bool:
        """Whether the run ends after this epoch; may be set."""
        return bool(self.source.stop)

    @stop.setter
    def stop(self, value: bool) -> None:
        self.source.stop = bool(value)

    @property
    def best(self) -> Path:
        """Where the best weights are kept."""
        return self.save_dir / "weights" / "best.pt"

    @property
    def last(self) -> Path:
        """Where the last state is kept."""
        return self.save_dir / "weights" / "last.pt"


class TrainStart(TrainEvent):
    """Before the first epoch of this call."""


class TrainEpochStart(TrainEvent):
    """Before an epoch's first batch."""


@dataclass
class TrainBatchStart(TrainEvent):
    """batch: of the epoch, from 0; batches: of the epoch."""

    batch: int
    batches: int


@dataclass
class TrainBatchEnd(TrainBatchStart):
    """loss: means of the epoch by name as far as they are known; on a GPU those of some steps ago, which nobody waits for."""

    loss: Mapping[str, float]


@dataclass
class TrainEpochEnd(TrainEvent):
    """After an epoch's last batch, before its validation. loss: means by name; speed: images a second."""

    loss: Mapping[str, float]
    speed: float


@dataclass
class FitEpochEnd(TrainEpochEnd):
    """After an epoch's validation and checkpoints. metrics: by the columns of results.csv, empty where nothing was validated;
    fitness: what the best checkpoint is chosen by, None there; seconds: that the epoch took."""

    metrics: Mapping[str, float]
    fitness: float | None
    seconds: float


@dataclass
class ModelSave(TrainEvent):
    """After a checkpoint was written. path: of the file."""

    path: Path


@dataclass
class TrainEnd(TrainEvent):
    """After the last epoch and the validation of the best weights. result: of that validation."""

    result: Any


class Teardown(TrainEvent):
    """After all, also where the run was interrupted."""


class ValStart(Event):
    """Before the first batch of a validation."""


@dataclass
class ValBatchStart(Event):
    """batch: from 0; batches: of the split."""

    batch: int
    batches: int


class ValBatchEnd(ValBatchStart):
    """After a batch was handed to the device; what it finds is evaluated later."""


@dataclass
class ValEnd(Event):
    """result: ValidationResult; metrics: its figures by the columns of results.csv."""

    result: Any
    metrics: Mapping[str, float]


class PredictStart(Event):
    """Before the first image of a call."""


@dataclass
class PredictBatchStart(Event):
    """paths: of the images that share a pass."""

    paths: Sequence[Path]


@dataclass
class PredictBatchEnd(PredictBatchStart):
    """results: of these images."""

    results: Sequence[Any]


class PredictEnd(Event):
    """After the last image of a call that was read to its end."""


# The names that Ultralytics gives its moments. Two of its names are one moment here.
ALIASES: dict[str, type[Event]] = {
    "on_pretrain_routine_start": TrainStart,
    "on_pretrain_routine_end": TrainStart,
    "on_train_start": TrainStart,
    "on_train_epoch_start": TrainEpochStart,
    "on_train_batch_start": TrainBatchStart,
    "on_train_batch_end": TrainBatchEnd,
    "on_train_epoch_end": TrainEpochEnd,
    "on_fit_epoch_end": FitEpochEnd,
    "on_model_save": ModelSave,
    "on_train_end": TrainEnd,
    "teardown": Teardown,
    "on_val_start": ValStart,
    "on_val_batch_start": ValBatchStart,
    "on_val_batch_end": ValBatchEnd,
    "on_val_end": ValEnd,
    "on_predict_start": PredictStart,
    "on_predict_batch_start": PredictBatchStart,
    "on_predict_postprocess_end": PredictBatchEnd,
    "on_predict_batch_end": PredictBatchEnd,
    "on_predict_end": PredictEnd,
}
# Those that have no moment here, and what to take in their place.
_ABSENT = {
    "optimizer_step": "a step is one piece here, a single CUDA graph where it can be; take on_train_batch_end",
    "on_before_zero_grad": "a step is one piece here, a single CUDA graph where it can be; take on_train_batch_end",
    "on_params_update": "a step is one piece here; take on_train_batch_end",
    "on_export_start": "there is no export yet",
    "on_export_end": "there is no export yet",
}
Known = TypeVar("Known", bound=Event)
Listener = Callable[[Any], object]


def event_type(name: str | type[Event]) -> type[Event]:
    """The event of a name of Ultralytics', of its own name or of a class. Raises UserError with the likeliest name."""
    if isinstance(name, type) and issubclass(name, Event):
        return name
    text = str(name)
    own = {kind.__name__: kind for kind in ALIASES.values()}
    if text in _ABSENT:
        raise UserError(f"callback {text}: {_ABSENT[text]}")
    if found := ALIASES.get(text) or own.get(text):
        return found
    near = difflib.get_close_matches(text[:100], [*ALIASES, *own], 1)
    raise UserError(
        f"callback {shown(text)}: no such event; " + (f"did you mean '{near[0]}'?" if near else f"known: {', '.join(ALIASES)}")
    )


class Callbacks:
    """Functions that are called with an event each time one of its class comes; what they raise ends the run."""

    def __init__(self) -> None:
        self._listeners: dict[type[Event], list[Listener]] = {}

    def add(self, event: str | type[Event], function: Listener) -> None:
        """Call a function with every such event from now on, after those that were added before. Raises UserError."""
        if not callable(function):
            raise UserError(f"callback {shown(event)}: expected a function of one event, got {type(function).__name__}")
        self._listeners.setdefault(event_type(event), []).append(function)

    def clear(self, event: str | type[Event] | None = None) -> None:
        """Forget the functions of an event, all of them without one."""
        if event is None:
            self._listeners.clear()
        else:
            self._listeners.pop(event_type(event), None)

    def __contains__(self, event: type[Event]) -> bool:
        return event in self._listeners

    def emit(self, event: Event) -> None:
        """Call whoever listens for an event of this very class."""
        for function in tuple(self._listeners.get(type(event), ())):
            function(event)
