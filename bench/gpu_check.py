"""Everything that only a machine with a GPU can prove, in one command: `make gpu-check`.

Builds with nvcc, runs the operators' tests on the device, compute-sanitizer over both compiled operators, then the
benchmarks, and writes gpu-check.json and gpu-check.md into a folder. Needs no network; ends within ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TOOLKIT = "/usr/local/cuda"  # where the toolkit is when nothing names it
TAIL = 3000  # characters of a step's output that are kept
TESTS = ("triton", "test_gpu.py", "test_task_aligned_assign.py", "test_batched_nms.py", "test_native.py", "test_backends.py")
SANITIZED = ["tests/test_gpu.py", "-k", "shims_cases"]


class Step(NamedTuple):
    """One command, and the seconds after which it has failed."""

    name: str
    command: list[str]
    limit: int


def steps(folder: Path) -> list[Step]:
    """What is run, in this order; a step that fails does not keep the next from running."""
    python, pytest = sys.executable, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tests = [f"tests/{name}" for name in TESTS if (ROOT / f"tests/{name}").exists()]
    sanitizer = shutil.which("compute-sanitizer") or f"{TOOLKIT}/bin/compute-sanitizer"
    record = f"--benchmark-json={folder / 'bench.json'}"
    return [
        Step("build", [python, "setup.py", "build_ext", "--inplace"], 90),
        Step("tests", [*pytest, "-rs", *tests], 120),
        *(
            Step(tool, [sanitizer, "--tool", tool, "--error-exitcode", "1", *pytest, *SANITIZED], 100)
            for tool in ("memcheck", "racecheck")
        ),
        Step("bench", [*pytest, "bench", "-k", "cuda", record], 180),
    ]


def run(step: Step) -> dict[str, Any]:
    """Run a step and tell what came of it."""
    print(f"== {step.name}: {' '.join(step.command)}", flush=True)
    home = {} if shutil.which("nvcc") or not Path(TOOLKIT).exists() else {"CUDA_HOME": TOOLKIT}
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    environment = {"YOLOV9K_CUDA": "1", **home, **os.environ, "PYTHONPATH": path}
    start = time.monotonic()
    try:
        done = subprocess.run(
            step.command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=step.limit,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        code, output = 124, f"{(late.stdout or b'').decode(errors='replace')}\nstopped after {step.limit} s"
    except OSError as error:
        code, output = 127, str(error)
    print(output[-TAIL:], flush=True)
    seconds = round(time.monotonic() - start, 1)
    return {"name": step.name, "passed": code == 0, "exit": code, "seconds": seconds, "output": output[-TAIL:]}


def machine() -> dict[str, Any]:
    """What the report was made on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which("nvidia-smi") else None
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda, "driver": driver}
    return {"gpu": gpu, **versions, "commit": commit or None}


def table(benchmarks: list[dict[str, Any]]) -> list[str]:
    """The benchmarks as rows of a table."""
    rows = ["| benchmark | median, us | of copy bandwidth | peak memory, MiB |", "|---|---|---|---|"]
    for bench in benchmarks:
        extra = bench["extra_info"]
        share = f"{extra['copy_bandwidth_share']:.1%}" if "copy_bandwidth_share" in extra else ""
        rows.append(f"| {bench['name']} | {bench['stats']['median'] * 1e6:.1f} | {share} | {extra.get('peak_mib', '')} |")
    return rows


def write(folder: Path, results: list[dict[str, Any]]) -> None:
    """Both reports."""
    record = folder / "bench.json"
    benchmarks = json.loads(record.read_text())["benchmarks"] if record.exists() and record.stat().st_size else []
    about = machine()
    report = {"machine": about, "steps": results, "benchmarks": benchmarks}
    (folder / "gpu-check.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# gpu-check",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
        "",
        "| step | result | seconds |",
        "|---|---|---|",
    ]
    lines += [f"| {step['name']} | {'passed' if step['passed'] else 'FAILED'} | {step['seconds']} |" for step in results]
    lines += ["", *table(benchmarks)]
    for step in results:
        if not step["passed"]:
            lines += ["", f"## {step['name']}", "", "```", step["output"], "```"]
    (folder / "gpu-check.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Run every step; the exit status says whether all of them passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "gpu-check")
    folder = parser.parse_args().out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    if about["gpu"] is None:
        print("gpu-check: torch sees no CUDA device; run this on a machine with an NVIDIA GPU and its driver", file=sys.stderr)
        return 2
    results = [run(step) for step in steps(folder)]
    write(folder, results)
    print(f"report: {folder / 'gpu-check.md'}")
    return 0 if all(step["passed"] for step in results) else 1


if __name__ == "__main__":
    sys.exit(main())
