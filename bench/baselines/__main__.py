"""python -m bench.baselines train|val|latency|bccd|dropin|cpu: ours beside the published code, Ultralytics and LibreYOLO."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from bench.baselines import bccd, cpu, dropin, report
from bench.baselines.measure import CLASSES, Row, Task
from bench.baselines.subjects import BASELINES, ROOT, SUBJECTS, Runner, Subject, largest
from bench.baselines.trainings import TrainingRun, command, weights_of
from yolov9k.data.synthetic import NAMES, generate

WHAT = {"train": "train step", "val": "validation", "latency": "latency"}
BATCHES = {"train": ["16", "max"], "val": ["32"], "latency": ["1"], "bccd": ["16"], "dropin": ["4"], "cpu": ["4"]}
MODELS = {"bccd": ["yolov9-t", "gelan-s"], "dropin": ["yolov9-t", "yolov9-c", "gelan-t"], "cpu": ["yolov9-t", "yolov9-s"]}
EPOCHS = {"bccd": 100, "val": 20, "latency": 20, "cpu": 1}  # of val and latency: until the weights find something
FIRST = 16  # where the search for the largest batch begins


def main(arguments: list[str] | None = None) -> int:
    """Measure everything that was asked for and write one record."""
    options = _parser().parse_args(arguments)
    options.batch = options.batch or BATCHES[options.command]
    options.models = options.models or MODELS.get(options.command, ["yolov9-c", "yolov9-t"])
    options.limit = options.limit or (60 if options.command == "bccd" else 10)
    options.epochs = options.epochs or EPOCHS.get(options.command, 1)
    error = _error(options)
    if error:
        print(f"bench.baselines: {error}", file=sys.stderr)
        return 2
    options.out, options.hyp = options.out.absolute(), options.hyp and options.hyp.absolute()
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    folders = {baseline: getattr(options, baseline) and getattr(options, baseline).absolute() for baseline in BASELINES}
    runner = Runner(folders, 60 * options.limit, options.minutes, options.device)
    if options.command == "cpu":
        data = _data(work, options)
        weights = functools.partial(_weights, runner, data=data, work=work, options=options)
        print(f"report: {cpu.compare(options, runner, work, data, weights)}")
        return 0
    whole: dict[str, Callable[..., Path]] = {"bccd": bccd.compare, "dropin": dropin.compare}
    compare = whole.get(options.command, _compare)
    print(f"report: {compare(options, _chosen(options), runner, work)}")
    return 0


def _compare(options: argparse.Namespace, subjects: list[Subject], runner: Runner, work: Path) -> Path:
    """Every subject on every model at every batch; the record is written anew after each. Returns the table's path."""
    rows: list[Row] = []
    skipped: list[Row] = []
    data = _data(work, options)
    path = options.out / f"{options.command}.md"
    for model in options.models:
        for batch in options.batch:
            for subject in subjects:
                about = {
                    "what": WHAT[options.command],
                    "model": model,
                    "batch_kind": batch,
                    "img": options.img,
                    "variant": subject.variant,
                }
                size, row = _measure(runner, subject, model, batch, data, work, options)
                if "error" in row:
                    skipped.append(about | {"batch": batch, "why": row["error"]})
                else:
                    rows.append(about | {"batch": size} | row)
                print(f"{model}, batch {size}, {subject.variant}: {row.get('images_per_s') or row.get('error')}", flush=True)
                path = report.write(options.out, options.command, rows, skipped)
    return path


def _measure(
    runner: Runner, subject: Subject, model: str, batch: str, data: Path, work: Path, options: argparse.Namespace
) -> tuple[int | str, Row]:
    extra: Row = {}

    def attempt(size: int) -> Row:
        task = Task(options.command, model, size, options.img, options.device, options.repeats, str(data), str(work),
                    options.workers, extra)  # fmt: skip
        return runner.measure(subject, task)

    why = runner.why_not(subject, model)
    if not why and options.command != "train":
        extra = _weights(runner, subject, model, data, work, options)
        why = extra.get("error")
    if why:
        return batch, {"error": why}
    return largest(attempt, FIRST) if batch == "max" else (int(batch), attempt(int(batch)))


def _weights(runner: Runner, subject: Subject, model: str, data: Path, work: Path, options: argparse.Namespace) -> Row:
    """A subject's own weights of a short training of its own, done once: {"weights"} or {"error"}.

    Fresh ones find nothing, and suppression would cost nothing.
    """
    folder = work / f"{model}-{subject.driver}" / "run"
    if weights_of(folder) is None:
        folder.parent.mkdir(exist_ok=True)
        plain = replace(subject, options={})
        run = TrainingRun(model, data, min(options.img, 320), 16, options.epochs, 0, options.device, options.workers)
        given = command(plain, run, folder, runner.folders.get(subject.baseline or ""))
        code, output = runner.run(given, subject.baseline, folder.parent)
        if weights_of(folder) is None:
            return {"error": f"its training left no weights, exit {code}: {output[-1500:].strip()}"}
    return {
        "weights": str(weights_of(folder)),
        "images": options.images,
        "classes": CLASSES if options.command == "cpu" else len(NAMES),
    }


def _chosen(options: argparse.Namespace) -> list[Subject]:
    if options.command == "cpu":
        return [subject for _, subject in cpu.subjects(options.variants)]
    every = SUBJECTS[options.command]
    return [s for s in every if not options.variants or any(part.lower() in s.variant.lower() for part in options.variants)]


def _data(work: Path, options: argparse.Namespace) -> Path:
    """A data.yaml of drawn images. For train with 80 classes: it is what trainers see before they are given a batch."""
    size = min(options.img, 640)
    drawn = generate(work / "data", train=options.drawn, val=options.images, size=size)
    names = [*NAMES]
    if options.command in ("train", "cpu"):
        names += [f"class {number}" for number in range(len(NAMES), CLASSES)]
    path = work / f"data-{options.command}.yaml"
    content = {**yaml.safe_load(drawn.read_text()), "path": str(drawn.parent), "nc": len(names), "names": names}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.baselines", description=__doc__)
    parser.add_argument("command", choices=[*SUBJECTS, "cpu"])
    for baseline in BASELINES:
        parser.add_argument(f"--{baseline}", type=Path, help="its checkout, or a folder made by pip install --target")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "baselines")
    parser.add_argument("--models", nargs="+", help="yolov9-c and yolov9-t; of bccd yolov9-t and gelan-s")
    parser.add_argument("--variants", nargs="+", default=[], help="only subjects whose names contain one of these")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", nargs="+", help="numbers, or max: the largest that fits; unless given 16 and max to train")
    parser.add_argument("--img", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=30, help="a figure that is quoted needs at least 20")
    parser.add_argument("--images", type=int, default=256, help="drawn ones that a validation is over")
    parser.add_argument("--drawn", type=int, default=256, help="drawn ones to train on before a validation")
    parser.add_argument("--epochs", type=int, help="of bccd, 100 unless given; of the training before val and latency, 20")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of bccd")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data" / "bccd", help="of bccd and dropin, in any layout"
    )
    parser.add_argument(
        "--hyp",
        type=Path,
        help="of bccd: a YAML of hyper-parameters for ours and the published code; each its own default unless given",
    )
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of cpu")
    parser.add_argument("--rounds", type=int, default=2, help="of cpu: how often each subject has its turn")
    parser.add_argument("--busy", action="store_true", help="of cpu: measure beside other work, and say so in the record")
    parser.add_argument("--tiny", action="store_true", help="of cpu: one image of 64 pixels, to try it out")
    parser.add_argument("--note", default="", help="of dropin: a line for the record, such as that the machine was shared")
    parser.add_argument("--limit", type=float, help="minutes that one process may take: 10, of bccd 60")
    parser.add_argument("--minutes", type=float, help="that the whole command may take; what is left then is skipped")
    return parser


def _error(options: argparse.Namespace) -> str | None:
    """What a user can mend, in one line."""
    for baseline in BASELINES:
        folder = getattr(options, baseline)
        if folder and not folder.is_dir():
            return f"--{baseline} {folder}: no such folder"
    if options.hyp and not options.hyp.is_file():
        return f"--hyp {options.hyp}: no such file"
    if options.command == "bccd" and not options.data.exists():
        return f"--data {options.data}: not there; give a folder of YOLO, COCO or Pascal VOC labels"
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        return f"--device {options.device}: torch sees no CUDA device; --device cpu tries everything out at small sizes"
    for batch in options.batch:
        if batch != "max" and (not batch.isdigit() or int(batch) < 1):
            return f"--batch {batch}: expected numbers from 1 on, or max"
    if "max" in options.batch and options.command != "train":
        return f"--batch max: is for train, {options.command} takes numbers"
    if "max" in options.batch and not options.device.startswith("cuda"):
        return f"--batch max: is found where a GPU's memory ends, the device is {options.device}; give numbers"
    if options.img < 32 or options.img % 32:
        return f"--img {options.img}: expected a multiple of 32"
    if options.repeats < 1:
        return f"--repeats {options.repeats}: expected at least 1"
    if not _chosen(options):
        return f"--variants {' '.join(options.variants)}: none of {', '.join(s.variant for s in _every(options.command))}"
    return None


def _every(what: str) -> list[Subject]:
    return SUBJECTS[what] if what in SUBJECTS else [subject for _, subject in cpu.subjects([])]


if __name__ == "__main__":
    sys.exit(main())
