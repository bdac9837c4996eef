"""The comparison with the baselines: our own variants run through the real command, whatever goes wrong ends in the record."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from bench.baselines import __main__ as command
from bench.baselines import cpu, curves, measure, subjects, trainings
from tests.support import shared
from tests.tolerances import LABEL_DIGITS, RECORDED_AP, RECORDED_RATE
from yolov9k.data.config import load_split
from yolov9k.data.synthetic import generate

pytestmark = pytest.mark.tools
BUSY_SHARE = cpu.busy_share

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--device", "cpu", "--models", "yolov9-t", "--img", "64", "--repeats", "2", "--drawn", "4", "--images", "2",
        "--epochs", "1", "--workers", "0"]  # fmt: skip
COUNTED = {"images_per_s", "median_ms", "repeats", "peak_gib", "host_syncs", "launches", "version"}


def baselines(out: Path, what: str, *arguments: str, process: bool = False) -> dict[str, Any]:
    """Run the command, as a user does where `process`, else in here; returns its record. Every subject is a process anyway."""
    words = [what, *TINY, *arguments, "--out", str(out)]
    if process:
        done = subprocess.run([sys.executable, "-m", "bench.baselines", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        assert command.main(words) == 0
    return json.loads((out / f"{what}.json").read_text())


def test_our_training_step_gives_a_complete_record(tmp_path: Path) -> None:
    variants = ["--variants", "ours captured", "ours eager", "published as"]
    record = baselines(tmp_path, "train", "--models", "gelan-t", "--batch", "2", *variants, process=True)
    (row,) = record["rows"]
    assert row.keys() >= COUNTED | {"what", "model", "batch", "img", "variant"}
    assert (row["variant"], row["ran"], row["batch"], row["repeats"]) == ("ours eager", "eager", 2, 2)
    assert row["images_per_s"] == pytest.approx(2000 / row["median_ms"], rel=RECORDED_RATE)
    assert row["host_syncs"] == 0  # nothing in our step would wait for a GPU
    assert row["launches"] > 1000
    assert record["machine"]["torch"] == torch.__version__
    skipped = {entry["variant"]: entry["why"] for entry in record["skipped"]}
    assert skipped == {
        "ours captured": "needs a GPU, the device is cpu",
        "published as shipped": "no folder of it was given: --published DIR",
    }
    table = (tmp_path / "train.md").read_text()
    assert "| ours eager | 2 |" in table
    assert "1.00x" in table
    assert "- published as shipped, gelan-t, 2: no folder of it was given" in table


def test_a_subject_that_fails_is_recorded_with_its_last_lines(tmp_path: Path) -> None:
    folders = [word for baseline in subjects.BASELINES for word in (f"--{baseline}", str(tmp_path))]  # none is a checkout
    variants = ["--variants", "published as", "Ultralytics as", "LibreYOLO eager"]
    record = baselines(tmp_path / "out", "train", "--batch", "2", *folders, *variants)
    assert record["rows"] == []
    why = {entry["variant"]: entry["why"] for entry in record["skipped"]}
    for variant, module in (("published as shipped", "train_dual"), ("Ultralytics as shipped", "ultralytics")):
        assert why[variant].startswith("exit 1: ")
        assert f"No module named '{module}'" in why[variant].splitlines()[-1]
    assert "libreyolo" in why["LibreYOLO eager"].splitlines()[-1]


def test_validation_and_latency_begin_with_a_training_of_their_own(tmp_path: Path) -> None:
    record = baselines(tmp_path, "val", "--models", "gelan-t", "--batch", "2", "--repeats", "1", "--variants", "ours, float32")
    (row,) = record["rows"]
    assert row.keys() >= COUNTED | {"ap", "ap50"}
    assert row["images_per_s"] == pytest.approx(2000 / row["median_ms"], rel=RECORDED_RATE)
    weights = tmp_path / "work" / "gelan-t-ours" / "run" / "weights" / "best.pt"
    written = weights.stat().st_mtime_ns
    rows = baselines(
        tmp_path, "latency", "--models", "gelan-t", "--repeats", "1", "--variants", "ours lean, fused", "ours eager"
    )["rows"]
    assert [row["variant"] for row in rows] == ["ours lean, fused", "ours eager"]
    assert all(row["batch"] == 1 and row.keys() >= COUNTED for row in rows)
    assert weights.stat().st_mtime_ns == written  # done once


def test_two_trainings_become_curves(tmp_path: Path) -> None:
    data = generate(tmp_path / "data", train=4, val=2, size=64)
    few = ["--models", "gelan-t", "--batch", "2", "--data", str(data), "--seeds", "0", "1", "--variants", "ours"]
    record = baselines(tmp_path, "bccd", *few)
    assert [(row["seed"], row["epochs"], row["exit"]) for row in record["rows"]] == [(0, 1, 0), (1, 1, 0)]
    for row in record["rows"]:
        assert row["our_evaluator_ap"] == pytest.approx(row["best_ap"], abs=RECORDED_AP)
        assert row["ap_at_equal_minutes"] is None or row["seconds"] <= row["equal_seconds"]
    with (tmp_path / "bccd.csv").open(newline="") as file:
        points = list(csv.DictReader(file))
    assert [(p["subject"], p["seed"], p["epoch"]) for p in points] == [("ours", "0", "1"), ("ours", "1", "1")]
    assert all(float(point["seconds"]) > 0 for point in points)
    assert cv2.imread(str(tmp_path / "bccd.png")).std() > 1
    assert "least to most" in (tmp_path / "bccd.md").read_text()


def test_everybody_takes_turns_on_a_cpu(tmp_path: Path) -> None:
    variants = ["--variants", "ours, one", "published fused"]
    record = baselines(tmp_path, "cpu", "--tiny", "--busy", "--threads", "1", "--rounds", "2", *variants)
    rows = {(row["what"], row["variant"]): row for row in record["rows"]}
    step, prediction = "training step", "prediction"
    assert [*rows] == [(step, "ours, one branch, dense head")]
    for row in rows.values():
        assert len(row["rounds"]) == 2
        assert row["busy"]
        assert min(row["median_ms"], row["cpu_ms"], row["peak_mib"]) > 0
        assert row["threads"] == 1
    assert record["skipped"] == [
        {"what": prediction, "model": "yolov9-t", "threads": 1, "variant": "published fused",
         "why": "no folder of it was given: --published DIR"}
    ]  # fmt: skip
    table = (tmp_path / "cpu.md").read_text()
    assert f"## {step}, yolov9-t, threads: 1" in table
    assert cv2.imread(str(tmp_path / "cpu.png")).std() > 1


def test_a_busy_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "busy_share", lambda: 0.4)
    record = baselines(tmp_path, "cpu", "--tiny", "--threads", "1", "--rounds", "1", "--variants", "ours eager")
    assert record["rows"] == []
    assert all("40% of its processors' time is taken; --busy" in entry["why"] for entry in record["skipped"])
    assert 0 <= BUSY_SHARE(0.2) <= 1


def test_figures_of_every_subjects_file(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for head in (
        "  metrics/mAP_0.5,metrics/mAP_0.5:0.95",
        "metrics/mAP50(B),metrics/mAP50-95(B)",
        "metrics/mAP50,metrics/mAP50-95",
    ):
        path.write_text(f"epoch,{head}\n0,  0.5, 0.25\n1,,\n2,0.75,0.5\n")
        assert trainings.figures(path) == [(0.5, 0.25), (0.75, 0.5)]
    assert trainings.figures(tmp_path / "absent.csv") == []


def test_the_watcher_notes_when_a_line_appeared(tmp_path: Path) -> None:
    path, now = tmp_path / "results.csv", iter([0.0, 3.0, 5.0, 9.0])
    watcher = curves.Watcher(path, lambda: next(now))
    watcher()
    path.write_text("metrics/mAP50,metrics/mAP50-95\n0.1,0.05\n")
    watcher()
    path.write_text(path.read_text() + "0.3,0.2\n0.2,0.1\n")
    points = watcher.points("yolov9-t", "ours", 7)
    assert [(p.epoch, p.seconds, p.ap50, p.ap) for p in points] == [(1, 5.0, 0.1, 0.05), (2, 9.0, 0.3, 0.2), (3, 9.0, 0.2, 0.1)]
    assert curves.at(points, seconds=6) == 0.05
    assert curves.at(points, epoch=3) == 0.2
    assert curves.at(points, seconds=4) is None


def test_the_loader_gives_one_batch_and_all_else_of_the_trainers_own_loader() -> None:
    own = torch.utils.data.DataLoader([torch.zeros(1)] * 6, batch_size=3)
    task = measure.Task("train", "yolov9-t", 2, 64, "cpu", 2, "", "")
    seen: list[str] = []
    batch = measure.drawn_batch(task)
    loader = measure.RepeatedBatch(task, batch, own, first=lambda: seen.append("first"))
    assert loader.dataset is own.dataset
    assert loader.batch_size == 3
    assert len(loader) > 100
    steps = iter(loader)
    assert next(steps) is batch
    assert next(steps) is batch
    assert seen == ["first"]
    images, boxes, counts = batch
    assert (tuple(images.shape), images.dtype) == ((2, 3, 64, 64), torch.uint8)
    assert (tuple(boxes.shape), counts.tolist()) == ((2, 20, 5), [20, 20])


@pytest.mark.twin
def test_the_largest_batch_is_found_to_an_eighth() -> None:
    for limit in (1, 5, 16, 17, 100, 777):
        tried: list[int] = []

        def attempt(size: int, limit: int = limit, tried: list[int] = tried) -> measure.Row:
            tried.append(size)
            return {"size": size} if size <= limit else {"error": measure.OUT_OF_MEMORY}

        size, row = subjects.largest(attempt, 16)
        assert row == {"size": size}
        assert size <= limit < size + max(1, size // 8) + 1
        assert len(tried) == len(set(tried)) < 12
    assert subjects.largest(lambda size: {"error": measure.OUT_OF_MEMORY}, 16)[1] == {"error": measure.OUT_OF_MEMORY}
    assert subjects.largest(lambda size: {"error": "no module"}, 16) == (16, {"error": "no module"})
    late = subjects.largest(lambda size: {"size": size} if size < 64 else {"error": "stopped"}, 16)
    assert late == (32, {"size": 32, "cut_short": "stopped"})
    assert subjects.largest(lambda size: {"size": size}, 16, most=64) == (64, {"size": 64})


def test_a_subject_that_is_late_is_ended_with_all_it_started(tmp_path: Path) -> None:
    runner = subjects.Runner({}, limit=5, minutes=None, device="cpu")
    parent = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(child.pid, flush=True); child.wait()"
    )
    code, output = runner.run([sys.executable, "-c", parent], None, tmp_path)
    assert code == -signal.SIGKILL
    assert output.endswith("stopped: its time was up")
    child = Path(f"/proc/{output.splitlines()[0]}/stat")
    for _ in range(100):
        if not child.exists() or child.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the subject had started goes on")


def test_minutes_that_are_used_up_leave_the_rest_out() -> None:
    runner = subjects.Runner({}, limit=60, minutes=1e-9, device="cpu")
    assert runner.why_not(subjects.Subject("ours", "ours"), "yolov9-t") == (
        "the minutes of --minutes were used up before its turn"
    )
    assert runner.why_not(subjects.SUBJECTS["bccd"][2], "gelan-s") == "has no gelan-s"


def test_bccd_is_written_in_the_layout_that_all_read(tmp_path: Path) -> None:
    path = trainings.yolo_data(shared("data/bccd"), tmp_path)
    for part in ("train", "val"):
        given, written = load_split(shared("data/bccd"), part), load_split(path, part)
        assert written.names == given.names
        assert [r.path.name for r in written.records] == [r.path.name for r in given.records]
        for one, other in zip(given.records, written.records, strict=True):
            assert other.classes.tolist() == one.classes.tolist()
            assert other.boxes == pytest.approx(one.boxes, abs=LABEL_DIGITS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--device", "cpu"], "--batch max: is found where a GPU's memory ends, the device is cpu; give numbers"),
        (["val", "--device", "cpu", "--batch", "max"], "--batch max: is for train, val takes numbers"),
        (["train", "--device", "cpu", "--batch", "0"], "--batch 0: expected numbers from 1 on, or max"),
        (["train", "--published", "/nowhere"], "--published /nowhere: no such folder"),
        (["val", "--device", "cpu", "--img", "100"], "--img 100: expected a multiple of 32"),
        (["bccd", "--device", "cpu", "--data", "/nowhere"], "--data /nowhere: not there"),
        (["bccd", "--device", "cpu", "--hyp", "/nowhere.yaml"], "--hyp /nowhere.yaml: no such file"),
        (["latency", "--device", "cpu", "--variants", "theirs"], "--variants theirs: none of ours lean, fused, graph"),
    ],
)
def test_errors_of_the_command_line_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command.main([*arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["train", "--out", str(tmp_path)]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
