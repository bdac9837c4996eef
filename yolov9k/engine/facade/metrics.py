"""Figures of a validation by the names that users of Ultralytics know, beside ours."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yolov9k.common.arrays import Float64Array, Int64Array
from yolov9k.engine.evaluate.validator import ValidationResult
from yolov9k.tasks.detect.boxes import Names
from yolov9k.tasks.detect.metrics import ClassMetrics, Metrics


@dataclass(frozen=True)
class BoxFigures:
    """Figures of boxes, 0..1: map over IoU .5 to .95, map50, map75, mp and mr (mean precision and recall), maps of each class.

    p, r, f1, ap50, ap [k]: of the classes ap_class_index [k], those that have ground truth.
    """

    metrics: Metrics = field(repr=False)

    @property
    def map(self) -> float:
        return self.metrics.ap

    @property
    def map50(self) -> float:
        return self.metrics.ap50

    @property
    def map75(self) -> float:
        return self.metrics.ap75

    @property
    def mp(self) -> float:
        return self.metrics.precision

    @property
    def mr(self) -> float:
        return self.metrics.recall

    @property
    def nc(self) -> int:
        return len(self.metrics.per_class)

    @property
    def maps(self) -> Float64Array:
        """[classes]; a class without ground truth has the mean."""
        return np.array([row.ap if row.instances else self.map for row in self.metrics.per_class])

    @property
    def ap_class_index(self) -> Int64Array:
        return np.flatnonzero([row.instances for row in self.metrics.per_class])

    @property
    def p(self) -> Float64Array:
        return self._each("precision")

    @property
    def r(self) -> Float64Array:
        return self._each("recall")

    @property
    def f1(self) -> Float64Array:
        return 2 * self.p * self.r / np.maximum(self.p + self.r, 1e-16)

    @property
    def ap50(self) -> Float64Array:
        return self._each("ap50")

    @property
    def ap(self) -> Float64Array:
        return self._each("ap")

    def mean_results(self) -> list[float]:
        """mp, mr, map50, map."""
        return [self.mp, self.mr, self.map50, self.map]

    def class_result(self, index: int) -> tuple[float, float, float, float]:
        """p, r, ap50, ap of one of `ap_class_index`, by its place in there."""
        row = self.seen[index]
        return row.precision, row.recall, row.ap50, row.ap

    @property
    def seen(self) -> list[ClassMetrics]:
        """Ours, of the classes that have ground truth."""
        return [row for row in self.metrics.per_class if row.instances]

    def _each(self, name: str) -> Float64Array:
        return np.array([getattr(row, name) for row in self.seen], np.float64)


@dataclass(frozen=True)
class Validation:
    """What `val` and `train` return. result: ours, with the task's metrics; save_dir: the run's directory; names: of classes.

    What is not here is read from the task's metrics: `ap`, `ap50`, `per_class`, `confusion`, `curves`.
    """

    result: ValidationResult
    save_dir: Path
    names: Names = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "result":
            raise AttributeError(name)
        return getattr(self.result.metrics, name)

    @property
    def box(self) -> BoxFigures:
        """Figures of boxes. Raises AttributeError where the task has none."""
        if not isinstance(self.result.metrics, Metrics):
            raise AttributeError(f"box: {type(self.result.metrics).__name__} has no figures of boxes")
        return BoxFigures(self.result.metrics)

    @property
    def fitness(self) -> float:
        return self.result.metrics.fitness

    @property
    def speed(self) -> dict[str, float]:
        """Milliseconds an image: preprocess, inference, postprocess."""
        return dict(vars(self.result.speed))

    @property
    def results_dict(self) -> dict[str, float]:
        """The figures by Ultralytics' columns, and the fitness."""
        return {**dict(zip(self.keys, self.box.mean_results(), strict=True)), "fitness": self.fitness}

    @property
    def keys(self) -> list[str]:
        return [f"metrics/{name}(B)" for name in ("precision", "recall", "mAP50", "mAP50-95")]

    @property
    def maps(self) -> Float64Array:
        return self.box.maps

    @property
    def ap_class_index(self) -> Int64Array:
        return self.box.ap_class_index

    def mean_results(self) -> list[float]:
        """`box.mean_results`."""
        return self.box.mean_results()

    def class_result(self, index: int) -> tuple[float, float, float, float]:
        """`box.class_result`."""
        return self.box.class_result(index)

    def summary(self, decimals: int = 5) -> list[dict[str, Any]]:
        """A row for each class with ground truth: its name, images, instances and figures."""

        def shown(value: Any) -> Any:
            return round(value, decimals) if isinstance(value, float) else value

        return [{key: shown(value) for key, value in vars(row).items()} for row in self.box.seen]

    def to_json(self, decimals: int = 5) -> str:
        """`summary` as a JSON text."""
        return json.dumps(self.summary(decimals), indent=2)
