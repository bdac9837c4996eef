"""On a CPU: a training step and a prediction of everybody, by one thread and more, in processes that take turns."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

from bench.baselines import report
from bench.baselines.measure import Row, Task
from bench.baselines.subjects import SUBJECTS, Runner, Subject

VARIANTS = {
    "train": ("ours eager", "ours, one branch, dense head", "reference eager", "published not deterministic",
              "Ultralytics as shipped", "Ultralytics channels-last", "LibreYOLO eager"),
    "latency": ("ours lean, fused", "published fused", "Ultralytics fused", "Ultralytics fused, channels-last",
                "LibreYOLO eager"),
}  # fmt: skip
SIZES = {"train": (4, 320), "latency": (1, 640)}  # batch and pixels
NAMED = {"train": "training step", "latency": "prediction"}
COLUMNS = ("median_ms", "cpu_ms", "peak_mib", "version")
BUSY = 0.1  # of the processors' time that others may take
Weights = Callable[[Subject, str], Row]


def subjects(named: list[str]) -> list[tuple[str, Subject]]:
    """What is measured of whom; named: parts of variants' names, all where there is none."""
    return [
        (what, subject) for what, variants in VARIANTS.items() for subject in SUBJECTS[what]
        if subject.variant in variants and (not named or any(part.lower() in subject.variant.lower() for part in named))
    ]  # fmt: skip


def busy_share(seconds: float = 1.0) -> float:
    """The part of all processors' time that is taken just now, 0 where the system does not tell."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    before, _, after = _times(path), time.sleep(seconds), _times(path)
    spent = [b - a for a, b in zip(before, after, strict=True)]
    return 1 - (spent[3] + spent[4]) / max(sum(spent), 1)  # idle, waiting for a disk


def _times(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().splitlines()[0].split()[1:]]


def compare(options: argparse.Namespace, runner: Runner, work: Path, data: Path, weights: Weights) -> Path:
    """Every subject in its turn, `rounds` times; the record is written anew after each process. Returns the table's path."""
    found: dict[tuple[str, str, int, str], list[Row]] = {}
    skipped: list[Row] = []
    path = options.out / "cpu.md"
    for turn in range(options.rounds):
        for model in options.models:
            for threads in options.threads:
                for what, subject in subjects(options.variants):
                    row = _measure(options, runner, work, data, weights, subject, what, model, threads)
                    about = {"what": NAMED[what], "model": model, "threads": threads, "variant": subject.variant}
                    print(f"round {turn + 1}: {', '.join(map(str, about.values()))}: {row.get('median_ms') or row}", flush=True)
                    if "error" in row:
                        skipped += [about | {"why": row["error"]}] if not turn else []
                    else:
                        found.setdefault((what, model, threads, subject.variant), []).append(row)
                    path = _write(options, found, skipped)
    return path


def _measure(
    options: argparse.Namespace, runner: Runner, work: Path, data: Path, weights: Weights, subject: Subject, what: str,
    model: str, threads: int,
) -> Row:  # fmt: skip
    why = runner.why_not(subject, model)
    extra = {} if why or what == "train" else weights(subject, model)
    if why or "error" in extra:
        return {"error": why or extra["error"]}
    batch, img = SIZES[what] if not options.tiny else (1, 64)
    share = 0.0 if options.busy else busy_share()
    if share > BUSY:
        return {"error": f"the machine is busy: {share:.0%} of its processors' time is taken; --busy measures all the same"}
    task = Task(what, model, batch, img, options.device, options.repeats, str(data), str(work), 0, extra, threads)
    return runner.measure(subject, task)


def _write(options: argparse.Namespace, found: dict[tuple[str, str, int, str], list[Row]], skipped: list[Row]) -> Path:
    rows = []
    for (what, model, threads, variant), measured in found.items():
        about = {"what": NAMED[what], "model": model, "threads": threads, "variant": variant, "busy": options.busy}
        times = {key: round(statistics.median(row[key] for row in measured), 1) for key in ("median_ms", "cpu_ms")}
        rounds = {"rounds": [row["median_ms"] for row in measured], "peak_mib": max(row["peak_mib"] for row in measured)}
        rows.append(about | times | rounds | {key: measured[0][key] for key in ("version", "note") if key in measured[0]})
    path = report.write_json(options.out, "cpu", rows, skipped)
    path.write_text("\n".join([*report.head("cpu"), *_tables(rows), *report.not_measured(skipped)]) + "\n", encoding="utf-8")
    _draw(rows, options.out / "cpu.png")
    return path


def _tables(rows: list[Row]) -> list[str]:
    """One for each measurement, model and number of threads; a ratio over 1 says that ours is the faster."""
    lines: list[str] = []
    for what, model, threads in dict.fromkeys((row["what"], row["model"], row["threads"]) for row in rows):
        members = [row for row in rows if (row["what"], row["model"], row["threads"]) == (what, model, threads)]
        ours = next((row["median_ms"] for row in members if row["variant"].startswith("ours")), None)
        lines += [f"## {what}, {model}, threads: {threads}", ""]
        lines += ["| variant | ms | CPU ms | peak, MiB | version | ours is faster by |", "|---|---|---|---|---|---|"]
        for row in members:
            figures = [str(row.get(key, "")) for key in COLUMNS]
            ratio = f"{row['median_ms'] / ours:.2f}x" if ours else ""
            lines.append(f"| {report.variant_of(row)} | {' | '.join(figures)} | {ratio} |")
        lines.append("")
    return lines


def _draw(rows: list[Row], path: Path) -> None:
    """Bars of the time of a training step and of a prediction."""
    if not rows:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.5 + 0.28 * len(rows)), layout="constrained")
    names = [f"{row['what']}, {row['model']}, {row['threads']} thr., {row['variant']}" for row in rows]
    colors = ["tab:blue" if row["variant"].startswith("ours") else "tab:gray" for row in rows]
    axes.barh(names, [row["median_ms"] for row in rows], color=colors)
    axes.invert_yaxis()
    axes.set_xlabel("ms, median")
    figure.savefig(path, dpi=100)
    plt.close(figure)
