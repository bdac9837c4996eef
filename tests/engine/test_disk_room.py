"""A disk without room for a run's checkpoints, or that fills up while TensorBoard writes: one line, and no traceback."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.data_cases import BOX, train_options, write_yolo
from tests.tiers import slow_case
from yolov9k.common.errors import UserError
from yolov9k.engine.train.run_dir import Results
from yolov9k.engine.train.trainer import Trainer
from yolov9k.tasks import DetectTask


def fill_the_disk(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB."""
    folder = tmp_path / "runs"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("changes", [{}, {"name": "a/b"}, slow_case({"exist_ok": True})])
def test_a_run_without_room_for_its_checkpoints_is_refused_before_it_begins(
    tmp_path: Path, small_disk: Path, changes: dict[str, object]
) -> None:
    options = train_options(write_yolo(tmp_path / "data", {"a": BOX, "b": BOX}), tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        Trainer(options, Console(quiet=True))
    assert str(caught.value).startswith(f"{small_disk}/{changes.get('name', 'exp')}: the run's checkpoints take ")
    assert str(caught.value).endswith("MiB are free; free space or choose another --project")
    assert list(small_disk.iterdir()) == []


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboards_log_on_a_disk_that_fills_up_ends_in_one_line(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    results = Results(small_disk / "results.csv", DetectTask())
    fill_the_disk(small_disk / "filler")
    with contextlib.suppress(UserError):  # results.csv has room in its last page, for a few
        for epoch in range(300):
            results.add({"epoch": epoch, "time": 1.0})
    results.close()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.count("TensorBoard's log cannot be written (No space left on device)") == 1
