"""Who is compared, and how a subject is run: in a process of its own, with its own path and a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

from bench.baselines.measure import OUT_OF_MEMORY, Row, Task

ROOT = Path(__file__).resolve().parents[2]
BASELINES = ("published", "ultralytics", "libreyolo")
TAIL = 1500  # characters of a failed subject's output that are kept
# Nothing is fetched, nothing is reported home; the published code's checkpoints are pickles.
QUIET = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1",
         "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One variant of one implementation.

    baseline: whose folder it needs; models: which it has, by their beginnings; gpu: whether it needs one.
    """

    variant: str
    driver: str
    options: dict[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    models: tuple[str, ...] = ("yolov9", "gelan")
    gpu: bool = False


def _ultralytics(variant: str, **options: Any) -> Subject:
    return Subject(f"Ultralytics {variant}", "ultralytics_yolo", options, "ultralytics", ("yolov9",))


def _libreyolo(variant: str, gpu: bool = False, **options: Any) -> Subject:
    models = ("yolov9-t", "yolov9-s", "yolov9-m", "yolov9-c")
    return Subject(f"LibreYOLO {variant}", "libreyolo_yolo", options, "libreyolo", models, gpu)


SUBJECTS = {
    "train": [
        Subject("ours captured", "ours", {"mode": "captured"}, gpu=True),
        Subject("ours eager", "ours", {"mode": "eager"}),
        Subject("ours compiled", "ours", {"mode": "compiled"}),
        Subject("ours, one branch, dense head", "ours", {"mode": "eager", "one_branch": True}, models=("yolov9",)),
        Subject("reference eager", "ours", {"mode": "reference eager"}),
        Subject("reference compiled", "ours", {"mode": "reference compiled"}),
        Subject("published as shipped", "published", {"deterministic": True}, "published"),
        Subject("published not deterministic", "published", {"deterministic": False}, "published"),
        _ultralytics("compiled, not deterministic", compile=True, deterministic=False),
        _ultralytics("as shipped"),
        _ultralytics("channels-last", channels_last=True),
        _libreyolo("cuda_graph", gpu=True, cuda_graph=True, amp_dtype="bfloat16"),
        _libreyolo("cuda_graph and compile", gpu=True, cuda_graph=True, compile=True, amp_dtype="bfloat16"),
        _libreyolo("eager", amp_dtype="bfloat16"),
    ],
    "val": [
        Subject("ours, half precision", "ours", {"amp": "fp16"}),
        Subject("ours, float32", "ours", {"amp": "off"}),
        Subject("published, half precision", "published", {}, "published"),
        _ultralytics("half precision"),
        _ultralytics("half precision, compiled", compile=True),
        _libreyolo("half precision"),
    ],
    "latency": [
        Subject("ours lean, fused, graph", "ours", {"fused": True, "graph": True}, gpu=True),
        Subject("ours lean, fused", "ours", {"fused": True, "graph": False}),
        Subject("ours eager", "ours", {"fused": False, "graph": False}),
        Subject("published fused", "published", {}, "published"),
        _ultralytics("fused"),
        _ultralytics("fused, channels-last", channels_last=True),
        _ultralytics("fused, compiled", compile=True),
        _libreyolo("cuda_graph", gpu=True, cuda_graph=True),
        _libreyolo("eager", cuda_graph=False),
    ],
    "dropin": [
        Subject("Ultralytics", "dropin_subject", {"peer": "ultralytics", "what": "parts"}, "ultralytics", ("yolov9",)),
        Subject("LibreYOLO", "dropin_subject", {"peer": "libreyolo", "what": "parts"}, "libreyolo", ("yolov9-t",)),
        Subject("published", "dropin_subject", {"peer": "published", "what": "parts"}, "published", ("gelan",)),
        Subject(
            "Ultralytics, an epoch", "dropin_subject", {"peer": "ultralytics", "what": "epoch"}, "ultralytics", ("yolov9-t",)
        ),
        Subject("published, an epoch", "dropin_subject", {"peer": "published", "what": "epoch"}, "published", ("gelan",)),
        Subject("LibreYOLO, an epoch", "dropin_subject", {"peer": "libreyolo", "what": "epoch"}, "libreyolo", ("yolov9-t",)),
    ],
    "bccd": [
        Subject("ours", "ours"),
        Subject("published", "published", {}, "published"),
        _ultralytics("compiled, cached, not deterministic", compile=True, deterministic=False),
        _libreyolo("cuda_graph", gpu=True, cuda_graph=True, amp_dtype="bfloat16"),
    ],
}


class Runner:
    """Runs subjects one after the other. folders: of the baselines that are here; until: when the whole command must end."""

    def __init__(self, folders: dict[str, Path | None], limit: float, minutes: float | None, device: str) -> None:
        self.folders, self.limit, self.device = folders, limit, device
        self._until = time.monotonic() + 60 * minutes if minutes else float("inf")

    def why_not(self, subject: Subject, model: str) -> str | None:
        """Why a subject cannot be run at all, or None."""
        if subject.gpu and not self.device.startswith("cuda"):
            return f"needs a GPU, the device is {self.device}"
        if not model.startswith(subject.models):
            return f"has no {model}"
        if subject.baseline and not self.folders.get(subject.baseline):
            return f"no folder of it was given: --{subject.baseline} DIR"
        if time.monotonic() > self._until:
            return "the minutes of --minutes were used up before its turn"
        return None

    def _environment(self, baseline: str | None, folder: Path, threads: int | None = None) -> dict[str, str]:
        """The subject's own path; a folder for its settings, with the letters it would fetch."""
        directory = self.folders.get(baseline) if baseline else None
        path = [str(ROOT), *([str(directory)] if directory else []), os.environ.get("PYTHONPATH", "")]
        font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        for name in ("Arial.ttf", "Ultralytics/Arial.ttf"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(font, folder / name)
        settings = {"YOLO_CONFIG_DIR": str(folder), "YOLOV5_CONFIG_DIR": str(folder)}
        settings |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        return {**QUIET, **os.environ, **settings, "PYTHONPATH": os.pathsep.join(filter(None, path))}

    def measure(self, subject: Subject, task: Task) -> Row:
        """Run a task; returns its row, or {"error": why not}."""
        with tempfile.TemporaryDirectory(dir=task.folder) as scratch:
            given = json.dumps(asdict(task) | {"folder": scratch, "options": subject.options | task.options})
            command = [sys.executable, "-W", "ignore", "-m", f"bench.baselines.{subject.driver}", given]
            code, output = self.run(command, subject.baseline, Path(scratch), threads=task.threads)
        row = _last_row(output)
        if row is None or (code and "error" not in row):
            return {"error": f"exit {code}: {output[-TAIL:].strip()}"}
        return row

    def run(
        self,
        command: list[str],
        baseline: str | None,
        folder: Path,
        poll: Callable[[], object] = lambda: None,
        limit: float = 0,
        threads: int | None = None,
    ) -> tuple[int, str]:
        """Exit status and output of a command with a baseline on its path; one that is late is ended with all it started.

        limit: seconds, those of every subject unless given. poll: called every half second.
        """
        environment = self._environment(baseline, folder, threads)
        end = min(time.monotonic() + (limit or self.limit), self._until)
        target, late = folder / "output.txt", ""
        with target.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                while process.poll() is None and not late:
                    late = "\nstopped: its time was up" if time.monotonic() > end else ""
                    poll()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.5)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its workers too
                code = process.wait()
        return code, target.read_text(encoding="utf-8", errors="replace") + late


def _last_row(output: str) -> Row | None:
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                return dict(json.loads(line))
            except ValueError:
                continue
    return None


def largest(attempt: Callable[[int], Row], start: int, most: int = 4096) -> tuple[int, Row]:
    """The largest batch that fits, to an eighth of itself, and its row: doubled until one does not, then bisected.

    An error that is not about memory ends the search: the row then says "cut_short", or is the error where nothing has fitted.
    """
    fits, row, size, fails = 0, Row(error=OUT_OF_MEMORY), start, 0
    while not fails or fails - fits > max(1, fits // 8):
        found = attempt(size)
        if "error" not in found:
            fits, row = size, found
        elif found["error"] == OUT_OF_MEMORY:
            fails = size
        else:
            return (fits, row | {"cut_short": found["error"]}) if fits else (size, found)
        if not fails and fits >= most:
            break
        size = (fits + fails) // 2 if fails else 2 * size
    return fits or start, row
