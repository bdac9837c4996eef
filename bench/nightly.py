"""What takes hours: every test with twenty times the random examples, kernels compiled for every architecture.

`make nightly` runs it and writes bench/results/nightly/record.json, which is committed. A step that fails does not keep the
next from running; the exit status says whether all passed.
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
    "tests, many examples": [*PYTEST, "tests", "--tier", "all"],
    "tests of the night": [*PYTEST, "tests", "--tier", "nightly"],
    "Triton ahead of time": [sys.executable, "bench/triton_aot.py"],
    "Triton ahead of time, sizes of one": [sys.executable, "bench/triton_aot.py", "--ones"],
    "nvcc": [sys.executable, "bench/ptxas.py"],
}
NO_TESTS = 5  # pytest's exit status where a tier is empty


def run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a step; its last line and how it ended."""
    print("==", " ".join(command), flush=True)
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = (done.stdout or done.stderr).strip().splitlines() or [""]
    passed = done.returncode == 0 or (done.returncode == NO_TESTS and "pytest" in command)
    print(lines[-1], flush=True)
    failures = re.findall(r"^FAILED .*", done.stdout, re.MULTILINE)
    return {"passed": passed, "seconds": round(time.monotonic() - began), "last_line": lines[-1], "failures": failures}


def main() -> int:
    """Run all steps and write the record."""
    environment = os.environ | {"HYPOTHESIS_PROFILE": "nightly", "OMP_NUM_THREADS": "1"}
    compiling = {key: value for key, value in environment.items() if key != "TRITON_INTERPRET"}
    compiling |= {"TRITON_DEFAULT_FP_FUSION": "1"}
    results = {name: run(step, environment if "pytest" in step else compiling) for name, step in STEPS.items()}
    machine = {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps({"commit": commit_info(), "machine": machine, "steps": results}, indent=1) + "\n")
    return 0 if all(step["passed"] for step in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
