"""Loaders where /dev/shm is as small as Docker makes it, smaller, or not to be written to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

LOAD = """
import sys
from pathlib import Path
from tests.data_cases import make_split
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data import loader, workers
from yolov9k.data.loader import make_loader
split = make_split(Path(sys.argv[1]), [(64, 64)] * 8)
if sys.argv[2] == "unchecked":
    loader.fitting_workers = lambda workers, _: workers
made = make_loader(split, TrainRecipe(), img_size=640, batch=4, augment=True, workers=2)
try:
    print(len(list(made)), "batches of 2")
except Exception as error:
    print(type(error).__name__, error)
"""


def mounting_is_allowed() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/dev/shm"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


mounts = pytest.mark.skipif("not mounting_is_allowed()", reason="needs the right to mount")


def load_with(shared_memory: str, folder: Path, how: str = "") -> tuple[str, str]:
    """What a process that loads two batches of 5 MB writes where /dev/shm is mounted with these options."""
    mount = f"mount -t tmpfs -o {shared_memory} none /dev/shm"
    mount = f"{mount} && mount -o remount,ro /dev/shm" if "ro" in shared_memory else mount
    script = f"{mount} && exec '{sys.executable}' -c '{LOAD}' '{folder}' '{how}'"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    return done.stdout, done.stderr


@mounts
def test_little_shared_memory_is_seen_beforehand(tmp_path: Path) -> None:
    out, said = load_with("size=17m", tmp_path)
    assert out == "2 batches of 2\n"
    assert "1 are taken" in said
    assert "Traceback" not in said


@mounts
def test_shared_memory_that_runs_out_ends_in_one_line(tmp_path: Path) -> None:
    out, said = load_with("size=2m", tmp_path, "unchecked")
    assert out.startswith("UserError a loader worker found /dev/shm full: give fewer --workers (0 needs none), or more room")
    assert "Traceback" not in said


@mounts
def test_without_semaphores_the_main_process_reads(tmp_path: Path) -> None:
    out, said = load_with("ro", tmp_path, "unchecked")
    assert out == "2 batches of 2\n"
    assert "no worker can be started (Read-only file system); images are read in the main process" in said
    assert "Traceback" not in said
