"""Training from scratch on the same images with the same epochs and seeds: AP at equal epochs and at equal minutes."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from bench.baselines import curves, report
from bench.baselines.curves import Point
from bench.baselines.measure import Row, Task
from bench.baselines.subjects import Runner, Subject
from bench.baselines.trainings import TrainingRun, command, weights_of, yolo_data

TABLE = ("epochs", "seconds", "best_ap50", "best_ap", "ap_at_equal_minutes", "our_evaluator_ap")


def compare(options: argparse.Namespace, subjects: list[Subject], runner: Runner, work: Path) -> Path:
    """Train everything; JSON, Markdown, CSV and PNG are written anew after each training. Returns the table's path.

    All subjects have their first seed before any has its second, so that a run that is cut short still compares.
    """
    data = yolo_data(options.data, work / "bccd")
    points: list[Point] = []
    rows: list[Row] = []
    skipped: list[Row] = []
    path = options.out / "bccd.md"
    for model in options.models:
        for seed in options.seeds:
            for subject in subjects:
                about = {"what": "bccd", "model": model, "variant": subject.variant, "seed": seed, "img": options.img}
                run = TrainingRun(model, data, options.img, int(options.batch[0]), options.epochs, seed, options.device,
                                options.workers, options.hyp)  # fmt: skip
                found, row = _train(runner, subject, run, work, about["variant"])
                points += found
                (skipped if "why" in row else rows).append(about | row)
                print(f"{model}, seed {seed}, {subject.variant}: {row.get('why') or row['best_ap']}", flush=True)
                path = _write(options.out, points, rows, skipped)
    return path


def _train(runner: Runner, subject: Subject, run: TrainingRun, work: Path, variant: str) -> tuple[list[Point], Row]:
    why = runner.why_not(subject, run.model)
    if why:
        return [], {"why": why}
    outer = work / f"{run.model}-{subject.driver}-{run.seed}"
    outer.mkdir(exist_ok=True)
    folder = outer / "run"
    (folder / "results.csv").unlink(missing_ok=True)  # an earlier run's
    watcher = curves.Watcher(folder / "results.csv")
    given = command(subject, run, folder, runner.folders.get(subject.baseline or ""))
    code, output = runner.run(given, subject.baseline, outer, watcher)
    points = watcher.points(run.model, variant, run.seed)
    if not points:
        return [], {"why": f"exit {code}, no epoch was finished: {output[-1500:].strip()}"}
    row: Row = {"exit": code, "epochs": len(points), "seconds": points[-1].seconds}
    row |= {"best_ap50": max(p.ap50 for p in points), "best_ap": max(p.ap for p in points)}
    return points, row | _evaluated(runner, subject, run, folder)


def _evaluated(runner: Runner, subject: Subject, run: TrainingRun, folder: Path) -> Row:
    """The final weights by our evaluator; Ultralytics' and LibreYOLO's layers are named and arranged in ways of their own."""
    weights = weights_of(folder)
    if weights is None or subject.driver not in ("ours", "published"):
        return {}
    task = Task("evaluate", run.model, 32, run.img, run.device, 1, str(run.data), str(folder.parent),
                run.workers, {"weights": str(weights), "own": subject.driver == "ours"})  # fmt: skip
    if subject.driver == "published":  # its checkpoints can be opened beside its code alone
        task.options["to"] = str(folder / "weights" / "state-dict.pt")
        written = runner.measure(subject, replace(task, what="plain"))
        task.options["weights"] = task.options["to"]
        if "error" in written:
            return written
    row = runner.measure(Subject("evaluate", "ours"), task)
    return {"our_evaluator_ap": row["ap"], "our_evaluator_ap50": row["ap50"]} if "ap" in row else row


def _write(out: Path, points: list[Point], rows: list[Row], skipped: list[Row]) -> Path:
    curves.write_csv(points, out / "bccd.csv")
    if points:
        curves.draw(points, out / "bccd.png")
    _equal_minutes(points, rows)
    path = report.write_json(out, "bccd", rows, skipped)
    lines = [
        *report.head("bccd"),
        "![curves](bccd.png)",
        "",
        *_table(rows),
        "",
        *_summary(rows),
        "",
        *report.not_measured(skipped),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _equal_minutes(points: list[Point], rows: list[Row]) -> None:
    """What each run had reached when the fastest run of its model and seed, to the last epoch, was done."""
    for row in rows:
        beside = [other for other in rows if (other["model"], other["seed"]) == (row["model"], row["seed"])]
        most = max(other["epochs"] for other in beside)
        row["equal_seconds"] = min(other["seconds"] for other in beside if other["epochs"] == most)
        own = [p for p in points if (p.model, p.subject, p.seed) == (row["model"], row["variant"], row["seed"])]
        row["ap_at_equal_minutes"] = curves.at(own, seconds=row["equal_seconds"])


def _table(rows: list[Row]) -> list[str]:
    lines = ["| model | variant | seed | epochs | seconds | AP50 | AP | AP when the fastest was done | AP, our evaluator |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        first = [str(row[key]) for key in ("model", "variant", "seed")]
        lines += [f"| {' | '.join([*first, *(_text(row.get(key)) for key in TABLE)])} |"]
    return lines


def _summary(rows: list[Row]) -> list[str]:
    """Means over seeds with their spread, the least to the most."""
    lines = ["| model | variant | seeds | AP, mean | AP, least to most |", "|---|---|---|---|---|"]
    for model, variant in dict.fromkeys((row["model"], row["variant"]) for row in rows):
        found = [row["best_ap"] for row in rows if (row["model"], row["variant"]) == (model, variant)]
        lines.append(
            f"| {model} | {variant} | {len(found)} | {statistics.mean(found):.4f} | {min(found):.4f} to {max(found):.4f} |"
        )
    return lines


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) and value < 1 else str(value)
