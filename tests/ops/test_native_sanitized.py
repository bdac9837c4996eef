"""The compiled module under the address sanitizer, called from Python with torch's and numpy's own arrays, hostile ones too."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.ops.simt.cases import CXX, ROOT, SANITIZERS, compiling, finished, plant

pytestmark = pytest.mark.toolchain
SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("yolov9k._native", sys.argv[1])
sys.modules["yolov9k._native"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["yolov9k._native"])
from tests.native_cases import run_all, run_hostile
print(run_all(), run_hostile(int(sys.argv[2])))
"""


def build_module(folder: Path, csrc: Path = ROOT / "csrc") -> Path:
    """The module of `csrc`, its host code alone, compiled with the address and undefined-behavior sanitizers."""
    import pybind11

    folder.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{csrc}", f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_paths()['include']}"]
    macros = ['-DYK_VERSION="0"', '-DYK_ARCHS=""']
    flags = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", *includes, *macros, *SANITIZERS["address"]]
    sources = sorted(csrc.glob("*.cpp"))
    compiles = [compiling([*flags, str(path)], folder / f"{path.stem}.o") for path in sources]
    module = folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    objects = [str(finished(compiled)) for compiled in compiles]
    subprocess.run([CXX, "-shared", *SANITIZERS["address"], *objects, "-o", str(module), "-lpthread"], check=True)
    return module


def run(module: Path, seeds: int) -> subprocess.CompletedProcess[str]:
    """All calls of tests/native_cases.py in a process whose every allocation the sanitizer watches."""
    libraries = [
        subprocess.run([CXX, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    options = "detect_leaks=0:allocator_may_return_null=1"
    environment = os.environ | {"LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": options, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(module), str(seeds)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)


def test_no_call_reads_or_writes_out_of_bounds(tmp_path: Path) -> None:
    done = run(build_module(tmp_path), 40)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(int(calls) > 100 for calls in done.stdout.split())


def test_a_read_out_of_bounds_is_caught(tmp_path: Path) -> None:
    sound = "if (in.lengths[n] < 0 || in.lengths[n] > in.point_count - begin)"
    csrc = plant(tmp_path / "csrc", "augment_boxes.cpp", sound, "if (in.lengths[n] < 0)")
    done = run(build_module(tmp_path / "build", csrc), 0)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
