"""The GPU report's own machinery: steps that pass, fail, hang or do not exist all end in the report."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_ending_of_a_step_is_reported(gpu_check: ModuleType, tmp_path: Path) -> None:
    python = [sys.executable, "-c"]
    results = [
        gpu_check.run(gpu_check.Step("sound", [*python, "print('fine')"], 60)),
        gpu_check.run(gpu_check.Step("faulty", [*python, "raise SystemExit('race found')"], 60)),
        gpu_check.run(gpu_check.Step("slow", [*python, "import time; print('so far', flush=True); time.sleep(60)"], 2)),
        gpu_check.run(gpu_check.Step("absent", ["/nowhere/compute-sanitizer"], 60)),
    ]
    assert [result["passed"] for result in results] == [True, False, False, False]
    assert [result["exit"] for result in results[2:]] == [124, 127]
    bench = {"name": "bench_x", "stats": {"median": 2e-6}, "extra_info": {"copy_bandwidth_share": 0.5, "peak_mib": 3}}
    late = {"name": "bench_y", "stats": {"median": 1e-6}, "extra_info": {"bytes": 3_000_000, "tflops_per_second": 7.5}}
    (tmp_path / "bench.json").write_text(json.dumps({"benchmarks": [bench]}))
    (tmp_path / "compiler.json").write_text(json.dumps({"benchmarks": [late]}))
    told = [{**results[0], "name": name, "passed": True} for name in ("bench", "compiler")]
    gpu_check.write(tmp_path, [*told, *results])
    text = (tmp_path / "gpu-check.md").read_text()
    assert "| sound | passed |" in text
    assert all(word in text for word in ("race found", "so far", "stopped after 2 s", "No such file"))
    assert "| bench_x | 2.0 | 50.0% | 3 |  |  |" in text
    assert "| bench_y | 1.0 |  |  | 3.0 | 7.5 |" in text
    assert [step["name"] for step in json.loads((tmp_path / "gpu-check.json").read_text())["steps"]][-1] == "absent"


def test_a_late_step_leaves_no_process_behind(gpu_check: ModuleType, tmp_path: Path) -> None:
    """What it still compiled would slow down the timings after it."""
    pid = tmp_path / "pid"
    child = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert gpu_check.run(gpu_check.Step("slow", [sys.executable, "-c", parent], 8))["exit"] == 124
    state, end = Path(f"/proc/{pid.read_text()}/stat"), time.monotonic() + 20
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < end:  # nobody may be there to bury it
        time.sleep(0.1)
    assert time.monotonic() < end


def test_parts_of_a_report_add_up(gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(commit: str, *names: str) -> list[str]:
        monkeypatch.setenv("YOLOV9K_COMMIT", commit)
        done = [{"name": name, "passed": True, "exit": 0, "seconds": 1, "output": ""} for name in names]
        gpu_check.write(tmp_path, done)
        return [step["name"] for step in json.loads((tmp_path / "gpu-check.json").read_text())["steps"]]

    assert told("a" * 40, "build", "tests") == ["build", "tests"]
    assert told("a" * 40, "tests", "bench") == ["build", "tests", "bench"]
    assert told("b" * 40, "bench") == ["bench"]


def test_a_step_may_take_what_earlier_ones_left(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "run", lambda step: {"limit": step.limit})
    limits = [result["limit"] for result in gpu_check.run_all([gpu_check.Step(name, [], 100) for name in "abc"])]
    assert limits == pytest.approx([400, 500, 600], abs=5)


@pytest.mark.parametrize(
    ("told", "id", "dirty", "quotable"),
    [("a" * 40, "a" * 40, False, True), (f"{'a' * 40}-dirty", "a" * 40, True, False), ("v1-3-gabc", "v1-3-gabc", False, False)],
)
def test_a_tree_without_its_history_is_told_its_commit(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, id: str, dirty: bool, quotable: bool
) -> None:
    monkeypatch.delenv("YOLOV9K_COMMIT", raising=False)
    monkeypatch.setattr(gpu_check, "GIT", None)  # nor is git there
    assert gpu_check.commit_info(tmp_path, 0.0)["id"] is None
    monkeypatch.setenv("YOLOV9K_COMMIT", told)
    found = gpu_check.commit_info(tmp_path, 0.0)
    assert (found["id"], found["dirty"], found["quotable"]) == (id, dirty, quotable)


def test_a_record_may_be_quoted_from_a_clean_commit_on_an_idle_machine(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.delenv("YOLOV9K_COMMIT", raising=False)
    records = tmp_path / "bench" / "results"
    records.mkdir(parents=True)
    assert gpu_check.commit_info(tmp_path, 0.0) == {"id": None, "dirty": False, "load_before": 0.0, "quotable": False}
    for path in (tmp_path / "code.py", records / "cpu.json"):
        path.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "built.so").write_text("not tracked")
    (records / "cpu.json").write_text("another record")
    made = gpu_check.commit_info(tmp_path, 0.0)
    assert (len(made["id"]), made["dirty"], made["quotable"]) == (40, False, True)
    assert gpu_check.commit_info(tmp_path, 1000.0)["quotable"] is False
    (tmp_path / "code.py").write_text("2")
    made = gpu_check.commit_info(tmp_path, 0.0)
    assert (made["dirty"], made["quotable"]) == (True, False)


def test_its_steps_are_commands_of_this_repository(gpu_check: ModuleType, tmp_path: Path) -> None:
    steps = {step.name: step for step in gpu_check.steps(tmp_path)}
    assert list(steps) == ["build", "device", "tests", "memcheck", "racecheck", "step", "bench", "compiler"]
    assert sum(step.limit for step in steps.values()) <= gpu_check.SECONDS == 10 * 60
    files = [word for step in steps.values() for word in step.command if word.startswith("tests/")]
    assert len(files) >= 5
    assert all((SCRIPT.parents[1] / name).exists() for name in files)


def has_gpu_parts(source: str) -> bool:
    """Whether a test file calls torch.cuda, asks which backends are here, or names the device, in a call or as a parameter.

    A test that is only skipped where a GPU is has no such part, nor one that asks whether csrc/ is built at all.
    """
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    skips = [call.args[0] for call in calls if ast.unparse(call.func).endswith("skipif") and call.args]
    for call in (call for call in calls if call not in skips):
        name = ast.unparse(call.func)
        if name == "native.available" and not call.args:
            continue
        given = [*call.args[name.endswith("parametrize") :], *(keyword.value for keyword in call.keywords)]  # not its names
        values = [value for one in given for value in (one.elts if isinstance(one, ast.List | ast.Tuple) else [one])]
        named = any(isinstance(value, ast.Constant) and value.value == "cuda" for value in values)
        if named or re.search(r"\bcuda(\.\w+)?$|\bavailable$", name):
            return True
    return False


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("@pytest.mark.skipif(not torch.cuda.is_available(), reason='')\ndef test(): ...", True),
        ("@pytest.mark.skipif(torch.cuda.is_available(), reason='')\ndef test(): ...", False),
        ("def test():\n    assert mode == ('captured' if torch.cuda.is_available() else 'eager')", True),
        ("BACKENDS = [name for name in available('augment')]", True),
        ("pytestmark = pytest.mark.skipif(not native.available('cuda'), reason='')", True),
        ("pytestmark = pytest.mark.skipif(not native.available(), reason='')", False),
        ("x = torch.ones(3).cuda()", True),
        ("x = torch.ones(3, device='cuda')", True),
        ("@pytest.mark.parametrize('device', ['cpu', 'cuda'])\ndef test(device): ...", True),
        ("@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=slow)])\ndef test(device): ...", True),
        ("@pytest.fixture(params=('cpu', 'cuda'))\ndef device(request): ...", True),
        ("@pytest.mark.parametrize(('name', 'cuda'), [('one.cpp', '0')])\ndef test(name, cuda): ...", False),
        ("def test():\n    assert info['cuda'] is None", False),
    ],
)
def test_gpu_parts_are_recognized(source: str, wanted: bool) -> None:
    assert has_gpu_parts(source) is wanted


def test_no_test_with_gpu_parts_is_forgotten(gpu_check: ModuleType) -> None:
    tests = SCRIPT.parents[1] / "tests"
    files = [path for path in tests.rglob("test_*.py") if has_gpu_parts(path.read_text(encoding="utf-8"))]
    assert len(files) >= 10
    listed = [tests / name for name in gpu_check.tests_with_gpu_parts()]
    assert all(path.exists() for path in listed)
    assert [path for path in files if path not in listed and not set(path.parents) & set(listed)] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(tmp_path)])
    assert gpu_check.main() == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_the_scripts_exit_status_says_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "torch sees no CUDA device" in done.stderr
