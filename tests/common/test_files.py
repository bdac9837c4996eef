"""Locks keep processes apart and end with them; the folder of caches follows the environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from yolov9k.common.errors import UserError
from yolov9k.common.files import cache_folder, locked, read_bytes, sweep, user_path, write_json

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


def test_a_forked_process_does_not_keep_a_killed_ones_lock(tmp_path: Path) -> None:
    """Loader workers outlive their parent by seconds."""
    code = f"{HOLD}import os, time\nwith locked(Path(sys.argv[1])):\n"
    code += "    if os.fork() == 0: print('forked', flush=True)\n    time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"forked\n"
        holder.kill()
        holder.wait()
        with locked(tmp_path / "x", waiting=lambda: pytest.fail("the lock is held")):
            os.killpg(holder.pid, signal.SIGKILL)


def test_the_folder_of_caches_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "yolov9k"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == cache_folder("YOLOV9K_TEST_CACHE") == tmp_path / "yolov9k"
    monkeypatch.setenv("YOLOV9K_TEST_CACHE", str(tmp_path / "own"))
    assert (cache_folder(), cache_folder("YOLOV9K_TEST_CACHE")) == (tmp_path / "yolov9k", tmp_path / "own")


def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user stands in no list."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987654321)


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_home(monkeypatch)
    with pytest.raises(OSError, match="home folder is not known"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "yolov9k"


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/x.pt") == user_path(Path("~") / "x.pt") == tmp_path / "x.pt"
    assert user_path("~") == tmp_path
    assert user_path("a/~/x.pt") == Path("a/~/x.pt")
    with pytest.raises(UserError, match=r"^~nobody-here/x: the home folder is not known; give the whole path$"):
        user_path("~nobody-here/x")
    (tmp_path / "~$draft.jpg").touch()  # as editors name their locks
    assert user_path("~$draft.jpg") == Path("~$draft.jpg")
    (tmp_path / "~").mkdir()
    assert user_path("~/x.pt") == tmp_path / "x.pt"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "file") == read_bytes(tmp_path / "link") == b"abc"
    for name in ("pipe", "gone", "", "/dev/zero", "n" * 300, "a\0b", "\ud800"):
        with pytest.raises(OSError, match="\\["):
            read_bytes(tmp_path / name)


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    for name in (".a [1].json.x7_ab", ".a [1].json.y", ".other.json.x", "a [1].json"):
        (tmp_path / name).touch()
    write_json(tmp_path / "a [1].json", 1)
    sweep(tmp_path / "a [1].json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.json.x", "a [1].json"]
