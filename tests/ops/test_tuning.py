"""The choice of the fastest way: measured once, remembered, shared by processes, and never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from yolov9k.ops import tuning

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLOV9K_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def forget() -> None:
    """As a new process would be."""
    tuning._known.clear()


def ways(calls: list[str]) -> dict[str, object]:
    return {"slow": lambda: (calls.append("slow"), time.sleep(0.02)), "fast": lambda: calls.append("fast")}


def test_the_fastest_is_measured_once_and_found_again_by_the_next_process(folder: Path) -> None:
    calls: list[str] = []
    assert tuning.fastest("op", (1, 2), ways(calls), CPU) == "fast"
    assert {"slow", "fast"} == set(calls)
    count = len(calls)
    assert tuning.fastest("op", (1, 2), ways(calls), CPU) == "fast"
    forget()
    assert tuning.fastest("op", (1, 2), ways(calls), CPU) == "fast"
    assert len(calls) == count
    tuning.fastest("op", (1, 3), ways(calls), CPU)
    assert len(calls) > count
    assert len(json.loads((folder / "tuning.json").read_text())) == 2


def test_what_a_killed_process_left_is_swept(folder: Path) -> None:
    folder.mkdir()
    (folder / ".tuning.json.x1y2z3").write_text("half")
    forget()
    tuning.fastest("op", 1, ways([]), CPU)
    assert not [path for path in folder.iterdir() if path.name.startswith(".tuning.json.")]


def test_kernels_are_compiled_side_by_side_and_failures_left_for_later() -> None:
    meeting, calls = threading.Barrier(3, timeout=30), list[bool]()

    def compiles() -> None:
        meeting.wait()  # breaks where the others do not come
        calls.append(torch.is_grad_enabled())

    def fails() -> None:
        meeting.wait()
        raise RuntimeError("no such shape")

    tuning._compile([compiles, fails, compiles], CPU)
    assert calls == [False, False]


def test_what_is_remembered_but_no_longer_there_is_measured_again() -> None:
    calls: list[str] = []
    tuning.fastest("op", 1, ways(calls), CPU)
    assert tuning.fastest("op", 1, {"slow": lambda: None}, CPU) == "slow"


def test_a_way_that_fails_is_left_out_and_only_failures_raise() -> None:
    def fails() -> None:
        raise RuntimeError("no such shape")

    assert tuning.fastest("op", 1, {"fails": fails, "works": lambda: None}, CPU) == "works"
    with pytest.raises(RuntimeError, match="no such shape"):
        tuning.fastest("op", 2, {"fails": fails}, CPU)


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}', ""])
def test_a_damaged_file_is_told_of_and_replaced(folder: Path, content: str) -> None:
    folder.mkdir()
    (folder / "tuning.json").write_text(content)
    forget()
    with pytest.warns(UserWarning, match=r"tuning.json.*; measured again"):
        assert tuning.fastest("op", 1, ways([]), CPU) == "fast"
    forget()
    assert tuning.fastest("op", 1, {"fast": lambda: pytest.fail("measured again"), "slow": lambda: None}, CPU) == "fast"


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(folder: Path) -> None:
    folder.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be"):
        assert tuning.fastest("op", 1, ways([]), CPU) == "fast"
    assert tuning.fastest("op", 1, {"fast": lambda: pytest.fail("measured again"), "slow": lambda: None}, CPU) == "fast"


@pytest.mark.e2e
def test_processes_do_not_lose_each_others_entries(folder: Path) -> None:
    code = (
        "import sys, torch; from yolov9k.ops.tuning import fastest; "
        "[fastest('op', (sys.argv[1], i), {'a': lambda: None}, torch.device('cpu')) for i in range(20)]"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "xyz"]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(json.loads((folder / "tuning.json").read_text())) == 60


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("YOLOV9K_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tuning.cache_folder() == tmp_path / "yolov9k"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tuning.cache_folder() == Path.home() / ".cache" / "yolov9k"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_nothing_is_measured_while_a_graph_is_captured() -> None:
    graph, x = torch.cuda.CUDAGraph(), torch.ones(8, device="cuda")
    with torch.cuda.graph(graph):
        assert tuning.fastest("op", 9, {"first": lambda: pytest.fail("ran"), "second": lambda: None}, x.device) == "first"
        x += 1


def test_without_a_home_it_is_measured_for_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "YOLOV9K_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987654321)  # one that stands in no list of users
    forget()
    calls: list[str] = []
    assert [tuning.fastest("op", 1, ways(calls), CPU) for _ in range(2)] == ["fast", "fast"]
    assert calls.count("slow") == tuning.REPEATS + 1
    forget()
