"""Going on with a run: what its last.pt holds, checked before anything is made of it, and held against the data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov9k.common.errors import MODEL, UserError, failing_as, shown, warn
from yolov9k.common.files import user_path
from yolov9k.config.recipe import TrainRecipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.records import Split
from yolov9k.engine.train.run_dir import hold
from yolov9k.engine.train.step import TrainStep
from yolov9k.models import DetectionModel
from yolov9k.models.checkpoints import read, rebuild


@dataclass
class SavedRun:
    """A run as its last.pt holds it, its directory held for this process; `content` is the rest of the file.

    epoch, batches_done: where it goes on, batches_done of the epoch's `batches`. data: what `data_facts` said. means: sums and
    their count, of the epoch's losses so far.
    """

    path: Path
    directory: Path
    content: dict[str, Any]
    options: TrainOptions
    recipe: TrainRecipe
    epoch: int
    batches_done: int
    batches: int
    best: float
    best_epoch: int
    means: tuple[list[float], int] | None
    data: Mapping[str, Any]
    spent: float = 0.0  # seconds
    hold: ExitStack = field(default_factory=ExitStack)

    def model(self) -> DetectionModel:
        """The run's model with its weights, of the last step. Raises UserError where table and weights do not fit."""
        with damage(self.path):
            model = rebuild(self.content, self.path)
            fit_tensors(self.path, "model", self.content["model"], model.state_dict())
            model.load_state_dict(self.content["model"])
        return model

    def restore(self, step: TrainStep) -> None:
        """Bring a step's weights, average and optimizer to where the run stood. Raises UserError."""
        state, own = self.content["step"], step.state_dict()
        with damage(self.path):
            fit_tensors(self.path, "optimizer state", {"state": state["state"]}, {"state": own["state"]}, finite=False)
            for name, moments in step.optimizer.moments().items():
                fit_tensors(self.path, name, state.get(name), moments)
            if type(state.get("waiting", 0)) is not int or type(state["iteration"]) is not int:
                raise damaged(self.path, "its step's counts are no whole numbers")
            if state.get("waiting", 0):
                fit_tensors(self.path, "gradients", state["grads"], own["momentum"], finite=False)  # a bad step's may wait
            step.load_state_dict(state)
            average = step.ema
            fit_tensors(self.path, "moving average", self.content["ema"], average.state_dict())
            average.load_state_dict(self.content["ema"])

    def check_data(self, train: Split, val: Split) -> None:
        """Raise UserError where the data's classes are not the run's; warn where its images or objects are others."""
        names = list(self.content["names"])
        if names != train.names:
            pairs = enumerate(zip_longest(names, train.names, fillvalue="none"))
            number, (mine, theirs) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            raise UserError(
                f"--resume: class {number} is {shown(mine)} in the run and {shown(theirs)} in {self.options.data} "
                f"({len(names)} and {len(train.names)} classes); give the run's data with --data, or begin a new run with "
                f"--weights {self.path}"
            )
        for name, now in data_facts(train, val).items():
            before = self.data.get(name, now)
            if before != now:
                counts = [key for key in ("images", "objects") if now[key] != before[key]]
                what = ", ".join(f"{now[key]} {key} where there were {before[key]}" for key in counts) or "other files or boxes"
                warn(f"--resume: {self.options.data} has changed since the run was begun; {name}: {what}")


def data_facts(train: Split, val: Split) -> dict[str, dict[str, Any]]:
    """What tells a run's data from others: counts, and a digest of file names and labels, wherever the files lie."""
    return {"train": _facts(train), "val": _facts(val)}


def _facts(split: Split) -> dict[str, Any]:
    digest = hashlib.sha256()
    for record in split.records:
        digest.update(record.path.name.encode("utf-8", "surrogatepass"))
        digest.update(record.classes.tobytes() + record.boxes.tobytes())
    objects = sum(int((~record.crowd).sum()) for record in split.records)
    return {"images": len(split.records), "objects": objects, "digest": digest.hexdigest()}


def saved_options(options: TrainOptions) -> dict[str, Any]:
    """The options as a checkpoint holds them: the data is found from wherever the run is resumed."""
    return {**options.plain(), "data": str(user_path(options.data).absolute())}


@failing_as(MODEL)
def read_run(path: Path, **changes: Any) -> SavedRun:
    """A run from its last.pt, with some options changed. Raises UserError that names the file and what is wrong with it."""
    path = user_path(path)
    real = path.resolve()
    if real.is_file() and real.parent.name != "weights":
        raise UserError(f"{path}: does not lie in a run directory; resume from RUN/weights/last.pt, or train with --weights")
    with hold(real.parents[1]) if real.is_file() else ExitStack() as held:
        run = _read_held(path, real.parents[1], changes)
        run.hold = held.pop_all()
    return run


def _read_held(path: Path, directory: Path, changes: Mapping[str, Any]) -> SavedRun:
    content = read(path)
    if "step" not in content:
        raise UserError(f"{path}: holds no optimizer state to resume from; give the run's weights/last.pt")
    with damage(path):
        plain = _Plain(path, content)
        options, recipe = plain.options(changes), plain.recipe()
        run = SavedRun(
            path, directory, content, options, recipe, epoch=plain.number("epoch"),
            batches_done=plain.number("batches_done", 0), batches=plain.number("batches", 0), best=plain.best(),
            best_epoch=plain.number("best_epoch"), means=plain.means(), data=plain.data(),
            spent=plain.spent(),
        )  # fmt: skip
        plain.names()
        if run.batches_done > run.batches or run.best_epoch > run.epoch:
            raise damaged(path, f"{run.batches_done} of {run.batches} batches are done, epoch {run.best_epoch} is the best")
    if run.epoch >= options.epochs:
        raise UserError(f"{path}: its {options.epochs} epochs are done, nothing to resume; train on with --weights {path}")
    return run


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what a file of the wrong content leads to into one line."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, NotImplementedError) as error:
        raise damaged(path, f"{type(error).__name__}: {shown(str(error), 120)}") from None


def damaged(path: Path, what: str) -> UserError:
    """The error of a last.pt that no run can go on from."""
    return UserError(f"{path}: damaged, it cannot be resumed from ({what}); train on from other weights with --weights")


def fit_tensors(path: Path, name: str, given: Any, own: Mapping[str, Tensor], *, finite: bool = True) -> None:
    """Raise UserError where `given` is not tensors of the same keys, shapes and kinds as `own`, and finite ones if `finite`."""
    if not isinstance(given, Mapping):
        raise damaged(path, f"its {name} is {shown(given)}")
    if wrong := sorted(map(str, own.keys() ^ given.keys())):
        raise damaged(path, f"its {name} and its layer table differ in {len(wrong)} keys, the first: {shown(wrong[0])}")
    for key, tensor in own.items():
        value = given[key]
        if not isinstance(value, Tensor) or value.shape != tensor.shape or value.is_complex():
            found = list(value.shape) if isinstance(value, Tensor) else shown(value)
            raise damaged(path, f"{key} of its {name} is {found}, expected {list(tensor.shape)}")
        if value.is_floating_point() != tensor.is_floating_point() or value.dtype == torch.bool:
            raise damaged(path, f"{key} of its {name} is of {value.dtype}, expected {tensor.dtype}")
        if finite and not value.isfinite().all():
            raise damaged(path, f"{key} of its {name} holds NaN or infinity")


class _Plain:
    """The plain values of a last.pt; each is asked for by its kind. Raises UserError."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path, self.content = path, content

    def number(self, key: str, default: int | None = None) -> int:
        value = self.content.get(key, default)
        if type(value) is not int or not 0 <= value < 2**62:
            raise self._wrong(key)
        return value

    def best(self) -> float:
        """The fitness of the best epoch, a mean of precisions; -1 before the first that has one."""
        value: Any = self.content.get("best")
        if type(value) not in (int, float) or not (0 <= value <= 1 or (value == -1 and self.number("best_epoch") == 0)):
            raise self._wrong("best")
        return float(value)

    def spent(self) -> float:
        value: Any = self.content.get("spent", 0.0)  # earlier versions did not count
        if type(value) is not float or not 0 <= value < math.inf:
            raise self._wrong("spent")
        return value

    def means(self) -> tuple[list[float], int] | None:
        if "means" not in self.content:
            return None
        sums, count = self.content["means"]
        if type(count) is not int or not all(type(value) is float and math.isfinite(value) for value in sums):
            raise self._wrong("means")
        return list(sums), count

    def data(self) -> Mapping[str, Any]:
        data = self.content.get("data", {})
        for facts in data.values():
            if not all(type(facts[key]) is kind for key, kind in (("images", int), ("objects", int), ("digest", str))):
                raise self._wrong("data")
        return data  # type: ignore[no-any-return]

    def names(self) -> None:
        names = self.content.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._wrong("names")

    def recipe(self) -> TrainRecipe:
        known = {item.name for item in fields(TrainRecipe)}
        if missing := known - self._mapping("hyp").keys():
            raise damaged(self.path, f"its hyp lacks {', '.join(sorted(missing)[:3])}")
        return TrainRecipe().override(f"{self.path}: hyp", **self._mapping("hyp"))

    def options(self, changes: Mapping[str, Any]) -> TrainOptions:
        known = {item.name for item in fields(TrainOptions)}
        kept = {key: value for key, value in self._mapping("options").items() if key in known}
        options = TrainOptions.from_flags(kept, f"{self.path}: options")
        return TrainOptions(**{**asdict(options), **changes})

    def _mapping(self, key: str) -> Mapping[str, Any]:
        value = self.content.get(key)
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise self._wrong(key)
        return value

    def _wrong(self, key: str) -> UserError:
        found = shown(self.content[key]) if key in self.content else "missing"
        return damaged(self.path, f"its {key} is {found}")
