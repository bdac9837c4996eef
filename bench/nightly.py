"""What takes hours: properties and fuzz with ten times the examples, kernels compiled for every architecture.

`make nightly` runs it and writes bench/results/nightly/record.json, which is committed. A step that fails does not keep the
next from running; the exit status says whether all passed. `python -m bench.nightly "nvcc" "tests of the night"` runs these
steps alone and leaves what the record says of the others, each with the commit that it was seen at.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.gpu_check import commit_info

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "bench" / "results" / "nightly" / "record.json"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]
STEPS: dict[str, list[str]] = {
    "properties": [*PYTEST, "tests", "--tier", "all", "-m", "hypothesis"],
    "fuzz": [*PYTEST, "tests", "--tier", "all", "-k", "fuzz"],
    "tests of the night": [*PYTEST, "tests", "--tier", "nightly"],
    "Triton ahead of time": [sys.executable, "bench/triton_aot.py"],
    "Triton ahead of time, sizes of one": [sys.executable, "bench/triton_aot.py", "--ones"],
    "nvcc": [sys.executable, "bench/ptxas.py"],
}
MOST_LINES = 60  # of what failed and why
NO_TESTS = 5  # pytest's exit status where a tier is empty


def run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a step; its last line, how it ended and what was tried."""
    print("==", " ".join(command), flush=True)
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = (done.stdout or done.stderr).strip().splitlines() or [""]
    passed = done.returncode == 0 or (done.returncode == NO_TESTS and "pytest" in command)
    print(lines[-1], flush=True)
    failures = re.findall(r"^(?:FAILED|E  ) .*", done.stdout, re.MULTILINE)[-MOST_LINES:]
    ended = {"passed": passed, "seconds": round(time.monotonic() - began), "last_line": lines[-1], "failures": failures}
    return {**ended, "commit": commit_info(), "machine": machine()}


def machine() -> dict[str, Any]:
    """What a step ran on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}


def keep(name: str, result: dict[str, Any]) -> None:
    """Write a step's result into the record at once: a night may be cut short."""
    held = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps({**held, name: result}, indent=1) + "\n", encoding="utf-8")


def main(names: list[str]) -> int:
    """Run the steps that are named, all where none is, and write the record."""
    if unknown := [name for name in names if name not in STEPS]:
        raise SystemExit(f"no step is called {', '.join(unknown)}; there are {', '.join(STEPS)}")
    environment = os.environ | {"HYPOTHESIS_PROFILE": "nightly", "OMP_NUM_THREADS": "1"}
    compiling = {key: value for key, value in environment.items() if key != "TRITON_INTERPRET"}
    compiling |= {"TRITON_DEFAULT_FP_FUSION": "1"}
    passed = []
    for name in names or STEPS:
        result = run(STEPS[name], environment if "pytest" in STEPS[name] else compiling)
        keep(name, result)
        passed.append(result["passed"])
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
