"""Locks keep processes apart and end with them; the folder of caches follows the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from yolov9k.common.files import cache_folder, locked

HOLD = "import sys; from pathlib import Path; from yolov9k.common.files import locked\n"


def test_a_lock_is_waited_for_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    code = f"{HOLD}with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        waited = []

        def waiting() -> None:
            waited.append(other.poll())
            other.kill()  # the system lets go of the lock

        with locked(path, waiting):
            assert waited == [None]
        with locked(path, lambda: pytest.fail("nobody holds it")):
            pass
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.bin.lock"]


def test_a_lock_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on purpose"), locked(tmp_path / "x"):
        raise ValueError("on purpose")
    with locked(tmp_path / "x", lambda: pytest.fail("nobody holds it")):
        pass


def test_the_folder_of_caches_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "yolov9k"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == cache_folder("YOLOV9K_TEST_CACHE") == tmp_path / "yolov9k"
    monkeypatch.setenv("YOLOV9K_TEST_CACHE", str(tmp_path / "own"))
    assert (cache_folder(), cache_folder("YOLOV9K_TEST_CACHE")) == (tmp_path / "yolov9k", tmp_path / "own")
