"""A worker that cannot be started, or ends by what is not its data's fault: fewer workers and a warning, or one line."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data_cases import make_split
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.loader import Loader, make_loader
from yolov9k.data.records import Split
from yolov9k.data.workers import explained, fitting_workers


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return make_split(tmp_path / "data", [(40, 60), (64, 48), (32, 32), (50, 50)])


def loader_of(split: Split, **changes: Any) -> Loader:
    given: dict[str, Any] = {"img_size": 64, "batch": 1, "augment": True, "workers": 1, **changes}
    return make_loader(split, TrainRecipe(), **given)


def test_fewer_workers_are_taken_where_there_is_little_room(capsys: pytest.CaptureFixture[str]) -> None:
    found = os.statvfs("/dev/shm")
    room = found.f_bavail * found.f_frsize
    assert fitting_workers(4, room / 100) == 4
    assert capsys.readouterr().err == ""
    assert fitting_workers(8, room / 8) == 3  # 7 batches of 8, within 9 tenths
    assert fitting_workers(8, room) == 0
    said = capsys.readouterr().err
    assert "--workers 8: they need" in said
    assert "of shared memory, /dev/shm has" in said
    assert "3 are taken; a container gets more by docker run --shm-size=1g" in said


@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGKILL, "killed by the system, mostly because memory ran out; give fewer --workers"),
     (signal.SIGBUS, r"found /dev/shm full: give fewer --workers \(0 needs none\), or more room"),
     (signal.SIGTERM, "was ended by SIGTERM")],
)  # fmt: skip
def test_a_worker_that_is_killed_is_one_line(split: Split, number: int, message: str) -> None:
    loader = loader_of(split)
    batches = iter(loader)
    next(batches)
    (worker,) = loader._batches._iterator._workers  # type: ignore[union-attr]
    os.kill(worker.pid, signal.SIGSTOP)  # before it has made all four
    os.kill(worker.pid, number)
    os.kill(worker.pid, signal.SIGCONT)
    worker.join()
    with pytest.raises(UserError, match=message) as caught:
        list(batches)
    assert "\n" not in str(caught.value)
    loader.close()


def test_a_worker_that_ends_does_not_raise_in_the_middle_of_other_work(split: Split) -> None:
    loader = loader_of(split)
    batches = iter(loader)
    next(batches)
    (worker,) = loader._batches._iterator._workers  # type: ignore[union-attr]
    worker.kill()
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # it is left for others to find
    assert float(np.ones(1000).sum()) == 1000  # where torch's own handler of SIGCHLD raised
    loader.close()


def fill_memory(*_: Any) -> None:
    raise MemoryError("cannot allocate")


def test_a_worker_out_of_memory_is_one_line(split: Split) -> None:
    loader = loader_of(split, transform=fill_memory)
    with pytest.raises(UserError, match="a loader worker is out of memory, mostly because memory ran out; give"):
        list(loader)
    for worker in loader._batches._iterator._workers:  # type: ignore[union-attr]
        worker.kill()  # which would take five seconds to end
    loader.close()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("received 0 items of ancdata"), OSError(errno.EMFILE, "?"), OSError(errno.ENFILE, "?"),
     RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)")],
)  # fmt: skip
def test_the_lack_of_file_handles_is_one_line(error: Exception) -> None:
    """In the words of who runs out of them."""
    message = "loader workers: too many open files; give fewer --workers, or raise the limit: ulimit -n 65536"
    assert str(explained(error, None)) == message
    assert explained(OSError(errno.EIO, "?"), None) is None


def test_without_file_handles_no_worker_is_started_and_it_is_said(split: Split, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [batch.indices for batch in loader_of(split, workers=0)]
    loader = loader_of(split)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 2, before[1]))
        found = [batch.indices for batch in loader]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for handle in held:
            os.close(handle)
    assert found == expected
    said = capsys.readouterr().err
    assert "--workers 1: no worker can be started (Too many open files); images are read in the main process" in said
    assert "Traceback" not in said
