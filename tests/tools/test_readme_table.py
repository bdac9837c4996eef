"""README's measured table is what the records say: a change of either is caught, a record not to be quoted is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu_check, kernel_table, readme_chart, readme_table, roofline
from bench.baselines import bccd, report
from bench.baselines.curves import Point

pytestmark = pytest.mark.tools

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    "gpu": "NVIDIA Test GPU",
    "python": "3.12.1",
    "torch": "2.11.0",
    "cuda": "13.0",
    "driver": "580.1",
    "commit": "c" * 40,
}
COMMIT = {"id": "c" * 40, "dirty": False, "load_before": 0.1, "quotable": True}
WHERE = ": NVIDIA Test GPU, driver 580.1, torch 2.11.0, CUDA 13.0, commit ccccccc |"
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """README and records that may be changed."""
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs/images", tmp_path / "docs/images")
    shutil.copytree(ROOT / "bench/results", tmp_path / "bench/results")
    return tmp_path


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writers say that they ran on a GPU, at a commit."""
    for module in (gpu_check, report):
        monkeypatch.setattr(module, "machine", lambda: MACHINE)
        monkeypatch.setattr(module, "commit_info", lambda: COMMIT)


def edit(path: Path, change: Edit) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def benchmark(name: str, median: float) -> dict[str, Any]:
    return {"name": name, "stats": {"median": median}, "extra_info": {}}


def rows(root: Path, record: str) -> list[str]:
    """The lines whose record this is."""
    return [line for line in readme_table.table(root) if f"`{record}`" in line]


def test_the_readme_is_what_the_records_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert readme_table.main(["--check"]) == 0, capsys.readouterr().err
    assert len(rows(ROOT, "bench/results/cpu.json")) == len(readme_table.CPU)
    for folder in ("demo", "bccd-yolov9-t"):
        assert len(rows(ROOT, f"bench/results/{folder}")) == 1


def test_the_figures_are_those_of_the_records() -> None:
    """Once by hand, so that the table does not only agree with itself."""
    medians = {b["name"]: b["stats"]["median"] for b in json.loads((ROOT / "bench/results/cpu.json").read_text())["benchmarks"]}
    for row, name in (("task-aligned", "bench_assigner[cpu-16-20-{}]"), ("validation's", "bench_nms[cpu-validation-16-{}]")):
        slow, fast = (medians[name.format(variant)] * 1e3 for variant in ("reference", "native"))
        (line,) = [line for line in rows(ROOT, "bench/results/cpu.json") if line.startswith(f"| {row}")]
        assert f"| {slow:.0f} ms to {fast:.1f} ms: {slow / fast:.1f} times as fast |" in line
    for folder in ("demo", "bccd-yolov9-t"):
        logged = re.findall(r"│ all .*│ (0\.\d{4}) │ (0\.\d{4}) │", (ROOT / f"bench/results/{folder}/log.txt").read_text())[0]
        told = re.findall(r"\| AP50 (0\.\d{3}), AP (0\.\d{3}); ", rows(ROOT, f"bench/results/{folder}")[0])[0]
        assert [float(figure) for figure in told] == pytest.approx(
            [float(figure) for figure in logged], abs=6e-4
        )  # rounded twice


@pytest.mark.parametrize("folder", ["demo", "bccd-yolov9-t"])
def test_a_trainings_record_says_what_its_log_and_its_description_say(folder: str) -> None:
    path = ROOT / "bench/results" / folder
    record = json.loads((path / "record.json").read_text())
    about = (
        rf"{record['model']}: .*; {record['train']} training and {record['val']} validation (?:images|pictures)"
        rf" at {record['img']} px; cpu"
    )
    assert re.search(about, (path / "log.txt").read_text())
    prose = (path / "README.md").read_text()
    assert f"\n    {record['command']}\n" in prose
    assert f"cores of an {record['processor']}, torch {record['versions']['torch']}" in prose.replace("\n", " ")
    assert ("other work on the machine" in prose) is not record["idle"]


def test_a_changed_figure_in_the_readme_is_caught_and_written_anew(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    (line,) = rows(root, "bench/results/bccd-yolov9-t")
    number = text.splitlines().index(line) + 1
    for spoilt in (text.replace(line, line.replace("AP50 0.", "AP50 1.")), text.replace(f"{line}\n", "")):
        assert spoilt != text
        readme.write_text(spoilt, encoding="utf-8")
        assert readme_table.main(["--check"], root) == 1
        assert f"README.md:{number}: " in capsys.readouterr().err
        assert readme.read_text(encoding="utf-8") == spoilt  # compared alone
        assert readme_table.main([], root) == 0
        assert readme.read_text(encoding="utf-8") == text


def faster(record: dict[str, Any]) -> None:
    for bench in record["benchmarks"]:
        if bench["name"] == "bench_assigner[cpu-16-20-native]":
            bench["stats"]["median"] /= 2


@pytest.mark.parametrize(
    ("name", "change", "number"),
    [("cpu.json", faster, 45.6), ("demo/record.json", lambda record: record.update(train=481), 481)],
)
def test_a_changed_record_is_caught(
    root: Path, capsys: pytest.CaptureFixture[str], name: str, change: Edit, number: float
) -> None:
    edit(root / "bench/results" / name, change)
    assert readme_table.main(["--check"], root) == 1
    error = capsys.readouterr().err
    assert error.count("README.md:") == 1
    assert f" {number} " in error.splitlines()[1]


def test_a_changed_results_csv_is_caught(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = root / "bench/results/demo/record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "timed": True}))
    path = root / "bench/results/demo/results.csv"
    head, first, *rest = path.read_text().splitlines()
    epoch, seconds, *figures = first.split(",")
    path.write_text("\n".join([head, ",".join([epoch, str(float(seconds) + 120), *figures]), *rest]) + "\n")
    assert readme_table.main(["--check"], root) == 1
    minutes = sum(float(line.split(",")[1]) for line in (first, *rest)) / 60 + 2
    assert f"{1 + len(rest)} epochs in {minutes:.1f} minutes" in capsys.readouterr().err


def test_markers_that_are_missing_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "README.md").write_text("# yolov9k\n")
    assert readme_table.main([], root) == 2
    assert "two lines, <!-- measured: bench/readme_table.py --> and <!-- /measured -->" in capsys.readouterr().err
    assert (root / "README.md").read_text() == "# yolov9k\n"


@pytest.mark.parametrize("change", [lambda r: r["commit_info"].update(quotable=False), lambda r: r.pop("commit_info")])
@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_a_record_that_may_not_be_quoted_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], change: Edit, arguments: list[str]
) -> None:
    before = (root / "README.md").read_text(encoding="utf-8")
    edit(root / "bench/results/cpu.json", change)
    assert readme_table.main(arguments, root) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench.readme_table: bench/results/cpu.json may not be quoted")
    assert "with a clean tree, on an idle machine" in error
    assert (root / "README.md").read_text(encoding="utf-8") == before


def test_the_inputs_record_gives_a_row(root: Path) -> None:
    record = json.loads((root / "bench/results/cpu.json").read_text())
    times = {"default-fused": 0.8, "default-opencv": 2.0, "turned-fused": 1.0}
    record["benchmarks"] = [benchmark(f"bench_input[{name}]", median) for name, median in times.items()]
    (root / "bench/results/input.json").unlink()
    assert rows(root, "bench/results/input.json") == []
    (root / "bench/results/input.json").write_text(json.dumps(record))
    (row,) = rows(root, "bench/results/input.json")
    assert "default recipe, 640 px, one thread" in row
    assert "| 8.0 to 20.0 images/s a core: 2.5 times as fast |" in row
    assert "AMD EPYC" in row
    record["commit_info"]["quotable"] = False
    (root / "bench/results/input.json").write_text(json.dumps(record))
    with pytest.raises(readme_table.Refused, match=r"bench/results/input\.json may not be quoted"):
        readme_table.table(root)


@pytest.mark.usefixtures("on_a_gpu")
def test_gpu_checks_record_gives_rows(root: Path) -> None:
    folder = root / "bench/results/gpu-check"
    folder.mkdir()
    made = [
        benchmark("bench_train_step[cuda-yolov9-c-captured]", 0.05),
        benchmark("bench_nms[cuda-validation-16-native]", 2e-4),
    ]
    made += [
        benchmark("bench_train_step[cuda-yolov9-c-reference]", 0.2),
        benchmark("bench_nms[cuda-validation-16-reference]", 3e-3),
    ]
    made += [benchmark("bench_assigner[cuda-16-20-native]", 1e-4)]  # whose other side is missing
    (folder / "bench.json").write_text(json.dumps({"benchmarks": made}))
    steps = [{"name": name, "passed": name != "racecheck", "exit": 0, "seconds": 1.0, "output": ""} for name in
             ("build", "tests", "racecheck", "bench")]  # fmt: skip
    gpu_check.write(folder, steps)
    found = rows(root, "bench/results/gpu-check/gpu-check.json")
    assert [line.split(" | ")[1] for line in found] == [
        "FAILED: racecheck; passed: build, tests, bench",
        "200 ms to 50.0 ms: 4.0 times as fast",
        "3.0 ms to 200.0 us: 15.0 times as fast",
    ]
    assert "yolov9-c, batch 16" in found[1]
    assert all(line.endswith(WHERE) for line in found)


def test_the_rooflines_record_gives_a_row_a_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "machine", lambda: MACHINE)
    monkeypatch.setattr(gpu_check, "commit_info", lambda: COMMIT)
    clock = roofline.Clock(torch.device("meta"), 0)
    clock.copy, clock.launch = 1e12, 2e-6
    made = [
        roofline.Row("", "dfl_decode", "", 1, 1000, seconds=1.0),
        roofline.Row("yolov9-c", "normalize", "a", 1, 80_000_000, calls=3, seconds=1e-4),
        roofline.Row("yolov9-c", "bn_silu_backward_apply", "b", 1, 90_000_000, seconds=1e-4),
        roofline.Row("yolov9-c", "merge", "c", 1, 10, why="the time was up"),
        roofline.Row("yolov9-t", "merge", "c", 1, 10, why="the time was up"),
    ]
    path = root / "bench/results/roofline/roofline.json"
    path.parent.mkdir()
    path.write_text(json.dumps(roofline.record(made, clock, 16, 640)))
    (row,) = rows(root, "bench/results/roofline/roofline.json")
    assert row.startswith(
        "| kernels of a training step's network, yolov9-c, batch 16, 640 px | "
        "400.0 us, of bytes and FLOPs 330.0 us (82%); 1 of 2 shapes below target, 1 not timed | "
    )
    assert row.endswith(WHERE)


def measured(what: str, variant: str, speed: float, **more: Any) -> dict[str, Any]:
    about = {"what": what, "model": "yolov9-t", "batch_kind": "16", "img": 640, "batch": 16}
    return {**about, "variant": variant, "images_per_s": speed, "median_ms": 1000 / speed, **more}


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("name", ["train", "val"])
def test_a_peers_record_gives_rows_of_the_fastest_ways(root: Path, name: str) -> None:
    found = [
        measured(name, "ours eager", 300.0),
        measured(name, "ours captured", 900.0, ran="captured"),
        measured(name, "published as shipped", 250.0),
        measured(name, "published not deterministic", 300.0),
        measured(name, "Ultralytics as shipped", 1000.0, ran="eager", note="one branch"),
        measured(name, "ours captured", 1200.0, batch_kind="max", batch=200),
    ]
    report.write(root / "bench/results/baselines/t16", name, found, [])
    first, largest = rows(root, f"bench/results/baselines/t16/{name}.json")
    assert first.startswith(
        f"| {name}, yolov9-t, batch 16, 640 px | ours captured: 900 images/s; "
        "published not deterministic: 300 images/s, ours 3.00 times as fast; "
        "Ultralytics as shipped, ran eager (one branch): 1000 images/s, ours 0.90 times as fast | "
    )
    assert "largest batch, 640 px | ours captured, batch 200: 1200 images/s |" in largest
    assert first.endswith(WHERE)
    assert largest.endswith(WHERE)


@pytest.mark.usefixtures("on_a_gpu")
def test_latency_is_in_milliseconds(root: Path) -> None:
    report.write(root / "bench/results/baselines", "latency", [measured("latency", "ours lean, fused, graph", 800.0)], [])
    (row,) = rows(root, "bench/results/baselines/latency.json")
    assert "| ours lean, fused, graph: 1.25 ms |" in row


@pytest.mark.usefixtures("on_a_gpu")
def test_trainings_beside_baselines_give_means_over_seeds(root: Path) -> None:
    found, points = [], []
    runs = (("ours", 0, 0.60, 100, 0), ("ours", 1, 0.62, 140, 0), ("published", 0, 0.59, 300, 0), ("published", 1, 0.10, 9, 1))
    for variant, seed, ap, seconds, code in runs:
        about = {"what": "bccd", "model": "yolov9-t", "variant": variant, "seed": seed, "img": 640}
        found.append({**about, "exit": code, "epochs": 2, "seconds": seconds, "best_ap50": ap + 0.3, "best_ap": ap})
        points += [Point("yolov9-t", variant, seed, epoch, seconds * epoch / 2, ap + 0.3, ap) for epoch in (1, 2)]
    out = root / "bench/results/baselines"
    out.mkdir(exist_ok=True)
    bccd._write(out, points, found, [])
    (row,) = rows(root, "bench/results/baselines/bccd.json")
    assert row.startswith(
        "| BCCD from scratch, yolov9-t, 2 epochs, 640 px | ours: AP50 0.910, AP 0.610 in 2.0 minutes (2 seeds); "
        "published: AP50 0.890, AP 0.590 in 5.0 minutes (1 seed) | "
    )
    assert row.endswith(WHERE)


@pytest.mark.parametrize(
    ("machine", "commit", "why"),
    [
        (MACHINE, {**COMMIT, "quotable": False}, r"baselines/train\.json may not be quoted"),
        ({**MACHINE, "gpu": None}, COMMIT, r"baselines/train\.json was made without a GPU"),
    ],
)
def test_a_record_of_a_gpu_must_be_quotable_and_of_a_gpu(
    root: Path, monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any], commit: dict[str, Any], why: str
) -> None:
    monkeypatch.setattr(report, "machine", lambda: machine)
    monkeypatch.setattr(report, "commit_info", lambda: commit)
    report.write(root / "bench/results/baselines", "train", [measured("train step", "ours eager", 300.0)], [])
    with pytest.raises(readme_table.Refused, match=why):
        readme_table.table(root)


def test_the_chart_shows_the_ratios_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert readme_chart.main(["--check"]) == 0, capsys.readouterr().err
    shown = readme_chart.labels((ROOT / readme_chart.CHART).read_text(encoding="utf-8"))
    table = [line for record in ("cpu", "input") for line in rows(ROOT, f"bench/results/{record}.json")]
    for label, line in zip(shown, table, strict=True):
        assert f": {label.split('x')[0]} times as fast |" in line


def test_a_chart_that_differs_from_its_records_is_caught_and_drawn_anew(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def twice(record: dict[str, Any]) -> None:
        for bench in record["benchmarks"]:
            bench["stats"]["median"] *= 1 + bench["name"].endswith("opencv]")

    edit(root / "bench/results/input.json", twice)
    assert readme_chart.main(["--check"], root) == 1
    assert "the records say" in capsys.readouterr().err
    assert readme_chart.main([], root) == 0
    assert readme_chart.main(["--check"], root) == 0
    assert "6.5x" in readme_chart.labels((root / readme_chart.CHART).read_text(encoding="utf-8"))[-1]


def test_a_chart_of_a_record_not_to_be_quoted_is_refused(root: Path) -> None:
    edit(root / "bench/results/cpu.json", lambda record: record["commit_info"].update(quotable=False))
    assert readme_chart.main([], root) == 2


def test_every_benchmark_that_is_looked_for_exists() -> None:
    """A renamed benchmark would leave its row out without a word."""
    command = [sys.executable, "-m", "pytest", "bench", "--collect-only", "-q", "-p", "no:cacheprovider"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    wanted = [
        pair.name.format(variant) for pair in (*readme_table.CPU, *readme_table.GPU) for variant in (pair.slow, pair.fast)
    ]
    wanted += [readme_table.INPUT.format(variant) for variant in ("fused", "opencv")]
    names = {line.partition("::")[2] for line in listed.splitlines()}
    assert [name for name in wanted if name not in names] == []


def test_the_operators_table_is_written_where_its_marks_are(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8").partition(kernel_table.BEGIN)[0].rstrip("\n") + "\n"
    readme.write_text(f"{text}{kernel_table.BEGIN}\n{kernel_table.END}\n", encoding="utf-8")
    assert readme_table.main(["--check"], root) == 1
    assert "the operators say: | operator |" in capsys.readouterr().err
    assert readme_table.main([], root) == 0
    written = readme.read_text(encoding="utf-8")
    assert written.endswith("\n".join([kernel_table.BEGIN, *kernel_table.table(), kernel_table.END, ""]))
    assert readme_table.main(["--check"], root) == 0
    readme.write_text(written.replace("| `sgd_ema` |", "| `adam` |"), encoding="utf-8")
    assert readme_table.main(["--check"], root) == 1
    assert "`adam`" in capsys.readouterr().err
    readme.write_text(written.replace(kernel_table.END, ""), encoding="utf-8")
    assert readme_table.main([], root) == 2
    assert kernel_table.END in capsys.readouterr().err
