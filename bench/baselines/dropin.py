"""Other implementations' models before and after `accelerate`: times, memory and exactness, and an epoch of their trainers."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.baselines import report
from bench.baselines.measure import Row, Task
from bench.baselines.subjects import Runner, Subject
from bench.baselines.trainings import yolo_data

COLUMNS = ("inference_ms", "forward_backward_ms", "loss_ms", "optimizer_ms", "nms_ms", "seconds", "cpu_seconds", "peak_mib")
EXACT = ("accelerate_s", "replaced", "loss_replaced", "deviation", "deviation_before", "within_rule", "nms_equal")


def compare(options: argparse.Namespace, subjects: list[Subject], runner: Runner, work: Path) -> Path:
    """Every subject and model in two processes, as it is and accelerated. Returns the table's path."""
    rows: list[Row] = []
    skipped: list[Row] = []
    data = yolo_data(options.data, work / "bccd") if any(s.options["what"] == "epoch" for s in subjects) else Path()
    path = options.out / "dropin.md"
    for model in options.models:
        for subject in subjects:
            for accelerated in (False, True):
                state = "accelerated" if accelerated else "as it is"
                about = {"what": "dropin", "model": model, "variant": f"{subject.variant}, {state}", "img": options.img}
                row = _measured(runner, subject, model, data, work, options, accelerated)
                (skipped if "why" in row else rows).append(about | {"batch": int(options.batch[0])} | row)
                print(f"{about['variant']}, {model}: {row}", flush=True)
                path = report.write_json(options.out, "dropin", rows, skipped)
                path.write_text("\n".join(_lines(rows, skipped, options.note)) + "\n", encoding="utf-8")
    return path


def _measured(
    runner: Runner, subject: Subject, model: str, data: Path, work: Path, options: argparse.Namespace, accelerated: bool
) -> Row:
    why = runner.why_not(subject, model)
    if why:
        return {"why": why}
    extra = {"accelerated": accelerated, "checkout": str(runner.folders.get(subject.baseline or ""))}
    sizes = (int(options.batch[0]), options.img, "cpu", options.repeats)
    task = Task(subject.options["what"], model, *sizes, str(data), str(work), 0, extra)
    row = runner.measure(subject, task)
    return {"why": row["error"]} if "error" in row else row


def _lines(rows: list[Row], skipped: list[Row], note: str) -> list[str]:
    lines = [*report.head("dropin"), *([f"- note: {note}", ""] if note else [])]
    names = ["model", "variant", "batch", *COLUMNS, *EXACT]
    lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        figures = [_shown(row.get(key)) for key in (*COLUMNS, *EXACT)]
        lines.append(f"| {row['model']} | {row['variant']} | {row['batch']} | {' | '.join(figures)} |")
    return [*lines, "", *report.not_measured(skipped)]


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) and abs(value) < 0.01 else str(value)
