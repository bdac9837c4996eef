"""Whole trainings through each subject's own command line, and the data that all of them read."""

from __future__ import annotations

import csv
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.baselines.subjects import Subject
from yolov9k.data.config import load_split

AP50 = ("metrics/mAP_0.5", "metrics/mAP50(B)", "metrics/mAP50")
AP = ("metrics/mAP_0.5:0.95", "metrics/mAP50-95(B)", "metrics/mAP50-95")


@dataclass(frozen=True)
class TrainingRun:
    """What all subjects are given alike."""

    model: str
    data: Path
    img: int
    batch: int
    epochs: int
    seed: int
    device: str
    workers: int
    hyp: Path | None = None

    @property
    def number(self) -> str:
        """The device as the baselines name it."""
        return self.device.removeprefix("cuda:").replace("cuda", "0")


def command(subject: Subject, run: TrainingRun, folder: Path, baseline: Path | None) -> list[str]:
    """The command line that trains into `folder`; its weights are then in folder/weights, its figures in results.csv."""
    makers = {"ours": _ours, "published": _published, "ultralytics_yolo": _ultralytics, "libreyolo_yolo": _libreyolo}
    return [str(word) for word in makers[subject.driver](subject, run, folder, baseline)]


def _ours(subject: Subject, r: TrainingRun, folder: Path, baseline: Path | None) -> list[object]:
    words = [sys.executable, "-m", "yolov9k.cli", "train", "--cfg", r.model, "--data", r.data, "--img", r.img, "--batch",
             r.batch, "--epochs", r.epochs, "--seed", r.seed, "--device", r.device, "--workers", r.workers, "--cache", "ram",
             "--project", folder.parent, "--name", folder.name, "--exist-ok"]  # fmt: skip
    return words + (["--hyp", r.hyp] if r.hyp else [])


def _published(subject: Subject, r: TrainingRun, folder: Path, baseline: Path | None) -> list[object]:
    assert baseline is not None
    script = "train_dual.py" if r.model.startswith("yolov9") else "train.py"
    return [sys.executable, baseline / script, "--weights", "", "--cfg", baseline / f"models/detect/{r.model}.yaml",
            "--data", r.data, "--hyp", r.hyp or baseline / "data/hyps/hyp.scratch-high.yaml", "--img", r.img,
            "--batch-size", r.batch, "--epochs", r.epochs, "--seed", r.seed, "--device", r.number, "--workers", r.workers,
            "--cache", "ram", "--close-mosaic", 15, "--noplots", "--project", folder.parent, "--name", folder.name,
            "--exist-ok"]  # fmt: skip


def _ultralytics(subject: Subject, r: TrainingRun, folder: Path, baseline: Path | None) -> list[object]:
    options = {
        "model": r.model.replace("-", "") + ".yaml", "data": r.data, "imgsz": r.img, "batch": r.batch, "epochs": r.epochs,
        "seed": r.seed, "device": r.number, "workers": r.workers, "cache": "ram", "close_mosaic": 15, "plots": False,
        "pretrained": False, "amp": "bf16" if r.number != "cpu" else False,
        "project": folder.parent, "name": folder.name, "exist_ok": True, **subject.options,
    }  # fmt: skip
    start = "from ultralytics.cfg import entrypoint; entrypoint()"
    return [sys.executable, "-c", start, "train", *(f"{key}={value}" for key, value in options.items())]


def _libreyolo(subject: Subject, r: TrainingRun, folder: Path, baseline: Path | None) -> list[object]:
    options = {"epochs": r.epochs, "batch": r.batch, "imgsz": r.img, "seed": r.seed, "workers": r.workers, "cache": "ram",
               "project": str(folder.parent), "name": folder.name, "exist_ok": True, "device": r.number, "eval_interval": 1,
               **subject.options}  # fmt: skip
    start = (
        "from libreyolo.models.yolo9.model import LibreYOLO9; "
        f"LibreYOLO9(None, {r.model.removeprefix('yolov9-')!r}, device={r.device!r}).train({str(r.data)!r}, **{options!r})"
    )
    return [sys.executable, "-c", start]


def weights_of(folder: Path) -> Path | None:
    """The best weights that a training left, else its last."""
    names = [folder / "weights" / name for name in ("best.pt", "last.pt")]
    return next((path for path in names if path.exists()), None)


def figures(results: Path) -> list[tuple[float, float]]:
    """AP50 and AP of each epoch in a results.csv, whoever wrote it; epochs without figures are left out."""
    if not results.exists():
        return []
    with results.open(newline="") as file:
        rows = [{(key or "").strip(): value for key, value in row.items()} for row in csv.DictReader(file)]
    found = [(_first(row, AP50), _first(row, AP)) for row in rows]
    return [(float(ap50), float(ap)) for ap50, ap in found if ap50 and ap]


def _first(row: dict[str, str], names: tuple[str, ...]) -> str:
    return next((row[name].strip() for name in names if row.get(name)), "")


def yolo_data(source: Path, folder: Path) -> Path:
    """Write a data set (Pascal VOC for instance) in the YOLO layout that all subjects read; returns its data.yaml."""
    content: dict[str, object] = {"path": str(folder)}
    for name in ("train", "val"):
        split = load_split(source, name)
        content |= {name: f"images/{name}", "nc": len(split.names), "names": split.names}
        for kind in ("images", "labels"):
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
        for record in split.records:
            shutil.copyfile(record.path, folder / "images" / name / record.path.name)
            low, high = record.boxes[:, :2], record.boxes[:, 2:]
            rows = zip(record.classes, (low + high) / 2, high - low, strict=True)
            lines = [f"{label} {' '.join(f'{value:.6f}' for value in (*center, *size))}\n" for label, center, size in rows]
            (folder / "labels" / name / record.path.name).with_suffix(".txt").write_text("".join(lines))
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
