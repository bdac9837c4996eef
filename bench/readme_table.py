"""README's tables, of records in bench/results and of operators: python -m bench.readme_table [--check].

A record that may not be quoted (bench/results/README.md) is refused. A row whose record does not exist is not printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from bench import kernel_table
from bench.baselines.report import KEY, variant_of
from bench.input_cases import BATCH, SIZE
from bench.roofline_report import total
from tests.official_figures import OFFICIAL
from tests.tolerances import FORWARD

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- measured: bench/readme_table.py -->", "<!-- /measured -->"
Record = dict[str, Any]


class Refused(Exception):
    """A record that may not be quoted, or a README without the two markers; the text says which and why."""


class Row(NamedTuple):
    """One line of the table."""

    what: str
    result: str
    record: str


class Pair(NamedTuple):
    """Two benchmarks of one record; `name` has a place for either variant."""

    what: str
    name: str
    slow: str
    fast: str


CPU = [
    Pair("task-aligned assigner on the CPU, 16 images, 20 boxes each: C++ against plain torch", "bench_assigner[cpu-16-20-{}]",
         "reference", "native"),
    Pair("validation's suppression on the CPU, 16 images, 30,000 candidates each: C++ against plain torch",
         "bench_nms[cpu-validation-16-{}]", "reference", "native"),
]  # fmt: skip
GPU = [
    Pair("training step, yolov9-c, batch 16, 640 px: one CUDA graph against plain torch", "bench_train_step[cuda-yolov9-c-{}]",
         "reference", "captured"),
    Pair("training step, yolov9-t, batch 16, 640 px: one CUDA graph against plain torch", "bench_train_step[cuda-yolov9-t-{}]",
         "reference", "captured"),
    Pair("task-aligned assigner, 16 images, 20 boxes each: CUDA against plain torch", "bench_assigner[cuda-16-20-{}]",
         "reference", "native"),
    Pair("validation's suppression, 16 images, 30,000 candidates each: CUDA against plain torch",
         "bench_nms[cuda-validation-16-{}]", "reference", "native"),
    Pair("DFL decode, 16 images: Triton against plain torch", "bench_dfl_decode[cuda-16-channels_last-{}]",
         "reference", "triton"),
    Pair("detection loss and gradient, 16 images, two branches: Triton against plain torch", "bench_loss[cuda-16-2-{}]",
         "reference", "one pass"),
    Pair("optimizer and average, yolov9-c: Triton against torch's own", "bench_optimizer[cuda-yolov9-c-{}]",
         "torch", "triton"),
]  # fmt: skip
INPUT = "bench_input[default-{}]"


def proofs() -> Iterator[Row]:
    """What tests prove: no record has these; the numbers are those that the tests compare with."""
    relative = f"{FORWARD:g}".replace("e-0", "e-")
    yield Row("all ten models against the published forward pass, float64",
              f"within {relative} relative, the fixtures' float32", "`tests/models/test_models.py`")  # fmt: skip
    yield Row("parameters and GFLOPs: training, lean and fused form", "equal", "`tests/models/test_models.py`")  # each size
    figures = " / ".join(f"{OFFICIAL[name]:.5f}" for name in ("ap", "ap50", "ap75"))
    yield Row("published COCO sample, AP / AP50 / AP75", figures, "`tests/engine/test_coco.py`")


def training(path: Path, name: str) -> Iterator[Row]:
    """A run's record.json says what was run on what, its results.csv how well and how long."""
    about = json.loads(path.read_text(encoding="utf-8"))
    with path.with_name("results.csv").open(encoding="utf-8", newline="") as lines:
        epochs = list(csv.DictReader(lines))
    aps = [(float(epoch["metrics/mAP_0.5"]), float(epoch["metrics/mAP_0.5:0.95"])) for epoch in epochs]
    ap50, ap = max(aps, key=lambda both: 0.1 * both[0] + 0.9 * both[1])  # as the best weights are chosen
    minutes = f" in {sum(float(epoch['time']) for epoch in epochs) / 60:.1f} minutes"
    shared = minutes if about["idle"] else f"{minutes}, on a shared machine"
    shared = shared if about.get("timed", True) else ", not timed"  # it was stopped and went on meanwhile
    yield Row(
        f"{about['what']}: {about['model']} from scratch, {about['train']} {about['images']}, {about['img']} px, "
        f"{about['cores']} CPU cores",
        f"AP50 {ap50:.3f}, AP {ap:.3f}; {len(epochs)} epochs{shared}",
        f"`{name.removesuffix('/record.json')}`: {about['processor']}, torch {about['versions']['torch']}",
    )


def load(path: Path, name: str) -> Record:
    """A record that may be quoted. Raises Refused for another."""
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    commit = record.get("commit_info", {})
    if commit.get("quotable") is not True:
        has = f"commit_info {commit}" if commit else "no commit_info"
        raise Refused(
            f"{name} may not be quoted, it has {has}; a record must be made at a commit, with a clean tree, on an idle machine "
            "(bench/results/README.md): measure again, or move it elsewhere"
        )
    return record


def cpu(path: Path, name: str) -> Iterator[Row]:
    record = load(path, name)
    yield from pairs(CPU, record["benchmarks"], on_cpu(record, name))


def training_input(path: Path, name: str) -> Iterator[Row]:
    """The input's two ways, by the medians of the whole batches."""
    record = load(path, name)
    medians = medians_of(record["benchmarks"])
    slow, fast = medians[INPUT.format("opencv")], medians[INPUT.format("fused")]
    yield Row(
        f"a training batch's input, default recipe, {SIZE} px, one thread: fused C++ against OpenCV",
        f"{BATCH / slow:.1f} to {BATCH / fast:.1f} images/s a core: {slow / fast:.1f} times as fast",
        on_cpu(record, name),
    )


def gpu_check(path: Path, name: str) -> Iterator[Row]:
    record = load(path, name)
    where = on_gpu(record, name)
    failed = [step["name"] for step in record["steps"] if not step["passed"]]
    passed = [step["name"] for step in record["steps"] if step["passed"]]
    result = [f"FAILED: {', '.join(failed)}"] * bool(failed) + [f"passed: {', '.join(passed)}"] * bool(passed)
    yield Row("`make gpu-check`", "; ".join(result), where)
    yield from pairs(GPU, record["benchmarks"], where)


def baselines(path: Path, name: str) -> Iterator[Row]:
    """The fastest variant of ours and of each baseline, for each model and batch; times as fast where ours is there."""
    record = load(path, name)
    for (what, model, kind, img), rows in grouped(record["rows"], lambda row: tuple(row[key] for key in KEY)):
        fastest = [max(variants, key=lambda row: row["images_per_s"]) for _, variants in grouped(rows, family)]
        ours = next((row for row in fastest if family(row) == "ours"), None)
        texts = []
        for one in fastest:
            speed = f"{one['median_ms']:.2f} ms" if what == "latency" else f"{one['images_per_s']:.0f} images/s"
            batch = f", batch {one['batch']}" if kind == "max" else ""
            ratio = f", ours {ours['images_per_s'] / one['images_per_s']:.2f} times as fast" if ours and one is not ours else ""
            texts.append(f"{variant_of(one)}{batch}: {speed}{ratio}")
        size = "largest batch" if kind == "max" else f"batch {kind}"
        yield Row(f"{what}, {model}, {size}, {img} px", "; ".join(texts), on_gpu(record, name))


def baselines_training(path: Path, name: str) -> Iterator[Row]:
    """Means over the seeds of each subject, of runs that came to their end."""
    record = load(path, name)
    ended = [row for row in record["rows"] if row["exit"] == 0]
    for (model, epochs, img), rows in grouped(ended, lambda row: (row["model"], row["epochs"], row["img"])):
        texts = []
        for variant, runs in grouped(rows, lambda row: row["variant"]):
            ap50, ap, seconds = (statistics.mean(run[key] for run in runs) for key in ("best_ap50", "best_ap", "seconds"))
            seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
            texts.append(f"{variant}: AP50 {ap50:.3f}, AP {ap:.3f} in {seconds / 60:.1f} minutes ({seeds})")
        yield Row(f"BCCD from scratch, {model}, {epochs} epochs, {img} px", "; ".join(texts), on_gpu(record, name))


def roofline(path: Path, name: str) -> Iterator[Row]:
    """All kernels of a step's network against the least time of their bytes and FLOPs; what was not timed is in neither."""
    record = load(path, name)
    network = [row for row in record["rows"] if row["model"]]
    for model, rows in grouped(network, lambda row: row["model"]):
        timed = [row for row in rows if row["seconds"] is not None]
        if not timed:
            continue
        seconds, least = total(timed, "seconds"), total(timed, "least")
        short = f"{sum(row['short'] for row in timed)} of {len(timed)} shapes below target"
        missing = f", {len(rows) - len(timed)} not timed" * (len(timed) < len(rows))
        yield Row(
            f"kernels of a training step's network, {model}, batch {record['batch']}, {record['img']} px",
            f"{duration(seconds)}, of bytes and FLOPs {duration(least)} ({least / seconds:.0%}); {short}{missing}",
            on_gpu(record, name),
        )


SOURCES: list[tuple[str, Callable[[Path, str], Iterator[Row]]]] = [
    ("demo/record.json", training),
    ("bccd-*/record.json", training),
    ("cpu.json", cpu),
    ("input.json", training_input),
    ("**/gpu-check.json", gpu_check),
    ("**/roofline.json", roofline),
    *((f"baselines/**/{what}.json", baselines) for what in ("train", "latency", "val")),
    ("baselines/**/bccd.json", baselines_training),
]


def pairs(wanted: list[Pair], benchmarks: list[Record], where: str) -> Iterator[Row]:
    """Those pairs of which both sides are in the record: on a GPU late steps may be missing."""
    medians = medians_of(benchmarks)
    for pair in wanted:
        slow, fast = (medians.get(pair.name.format(variant)) for variant in (pair.slow, pair.fast))
        if slow is not None and fast is not None:
            yield Row(pair.what, f"{duration(slow)} to {duration(fast)}: {slow / fast:.1f} times as fast", where)


def medians_of(benchmarks: list[Record]) -> dict[str, float]:
    return {bench["name"]: bench["stats"]["median"] for bench in benchmarks}


def duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.{0 if seconds >= 0.1 else 1}f} ms"


def on_cpu(record: Record, name: str) -> str:
    processor = record["machine_info"]["cpu"]["brand_raw"]
    return f"`{name}`: {processor}, torch {record['machine_info']['versions']['torch']}, {short(record)}"


def on_gpu(record: Record, name: str) -> str:
    """Raises Refused where there was none."""
    about = record["machine"]
    if about["gpu"] is None:
        raise Refused(f"{name} was made without a GPU: move it out of bench/results")
    return f"`{name}`: {about['gpu']}, driver {about['driver']}, torch {about['torch']}, CUDA {about['cuda']}, {short(record)}"


def short(record: Record) -> str:
    return f"commit {record['commit_info']['id'][:7]}"


def family(row: Record) -> str:
    """Whose variant it is: ours, reference (ours in plain torch), published, Ultralytics, LibreYOLO."""
    return str(row["variant"]).replace(",", "").split()[0]


def grouped(rows: list[Record], key: Callable[[Record], Any]) -> list[tuple[Any, list[Record]]]:
    """In the order of their first members."""
    groups: dict[Any, list[Record]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def table(root: Path) -> list[str]:
    """The table's lines, from the records under root. Raises Refused."""
    rows: list[Row] = []
    for pattern, read in SOURCES:
        if read is cpu:  # after the trainings
            rows += proofs()
        for path in sorted((root / "bench/results").glob(pattern)):
            rows += read(path, path.relative_to(root).as_posix())
    return ["| measured | result | record |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def rewritten(text: str, lines: list[str], begin: str = BEGIN, end: str = END) -> str:
    """`text` with `lines` between two marking lines. Raises Refused where they are not."""
    before, first, rest = text.partition(f"{begin}\n")
    _, last, after = rest.partition(f"{end}\n")
    if not first or not last:
        raise Refused(f"README.md: the table stands between two lines, {begin} and {end}; they are missing")
    return "".join([before, first, *(f"{line}\n" for line in lines), last, after])


def differences(text: str, wanted: str, begin: str, end: str) -> Iterator[str]:
    """The lines between the marks that differ, each with its number and what it should be."""
    here, there = (each.partition(f"{begin}\n")[2].partition(f"{end}\n")[0].splitlines() for each in (text, wanted))
    first = text.partition(begin)[0].count("\n") + 2
    for number, (one, other) in enumerate(zip_longest(here, there, fillvalue="(no line)"), first):
        if one != other:
            yield f"README.md:{number}: {one}\n    {'the records say' if begin == BEGIN else 'the operators say'}: {other}"


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Rewrite the tables, or compare them; the exit status says whether README agrees, 2 that none can be written."""
    parser = argparse.ArgumentParser(prog="python -m bench.readme_table", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, name the lines that differ")
    check, readme = parser.parse_args(arguments).check, root / "README.md"
    text = readme.read_text(encoding="utf-8")
    try:
        wanted = rewritten(text, table(root))
        if kernel_table.BEGIN in text or kernel_table.END in text:
            wanted = rewritten(wanted, kernel_table.table(), kernel_table.BEGIN, kernel_table.END)
    except Refused as error:
        print(f"bench.readme_table: {error}", file=sys.stderr)
        return 2
    if not check:
        readme.write_text(wanted, encoding="utf-8")
        return 0
    for begin, end in ((BEGIN, END), (kernel_table.BEGIN, kernel_table.END)):
        for line in differences(text, wanted, begin, end):
            print(line, file=sys.stderr)
    return int(text != wanted)


if __name__ == "__main__":
    sys.exit(main())
