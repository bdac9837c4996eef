"""Everything that only a machine with a GPU can prove, in one command: `make gpu-check`.

Builds with nvcc, runs the operators' tests on the device, compute-sanitizer over both compiled operators, then the
benchmarks, and writes gpu-check.json and gpu-check.md into a folder. Needs no network; ends within ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TOOLKIT = "/usr/local/cuda"  # where the toolkit is when nothing names it
SECONDS = 600  # that all of it may take
RECORDS = ("bench", "compiler")  # steps that write one; torch.compile is slow, and late it must not cost the others' record
TAIL = 3000  # characters of a step's output that are kept
TESTS = ("triton", "test_gpu.py", "test_task_aligned_assign.py", "test_batched_nms.py", "test_native.py", "test_backends.py",
         "test_conv_silu.py", "test_sgd_ema.py", "test_tuning.py", "test_augment_operator.py", "test_augment_boxes.py",
         "test_modes.py", "test_inference.py", "test_dfl_decode.py", "test_roofline.py")  # fmt: skip
LOAD = os.getloadavg()[0]  # of the last minute, before anything of ours runs
GIT = shutil.which("git")
SANITIZED = ["tests/test_gpu.py", "-k", "shims_cases"]


class Step(NamedTuple):
    """One command, and the seconds that it has at least; what earlier steps leave is its own too."""

    name: str
    command: list[str]
    limit: int


def steps(folder: Path) -> list[Step]:
    """What is run, in this order; a step that fails does not keep the next from running."""
    python, pytest = sys.executable, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tests = [f"tests/{name}" for name in TESTS if (ROOT / f"tests/{name}").exists()]
    sanitizer = shutil.which("compute-sanitizer") or f"{TOOLKIT}/bin/compute-sanitizer"
    records = dict(zip(RECORDS, ("cuda and not compiled", "cuda and compiled"), strict=True))
    return [
        Step("build", [python, "setup.py", "build_ext", "--inplace"], 90),
        Step("tests", [*pytest, "-rs", *tests], 120),
        *(
            Step(tool, [sanitizer, "--tool", tool, "--error-exitcode", "1", *pytest, *SANITIZED], 100)
            for tool in ("memcheck", "racecheck")
        ),
        *(
            Step(name, [*pytest, "bench", "-k", chosen, f"--benchmark-json={folder / name}.json"], 95)
            for name, chosen in records.items()
        ),
    ]


def run_all(every: list[Step]) -> list[dict[str, Any]]:
    """Run every step; one may take what the seconds of those before it have left over."""
    end, results = time.monotonic() + SECONDS, []
    for number, step in enumerate(every):
        left = end - time.monotonic() - sum(later.limit for later in every[number + 1 :])
        results.append(run(step._replace(limit=max(step.limit, int(left)))))
    return results


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
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which("nvidia-smi") else None
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda, "driver": driver}
    return {"gpu": gpu, **versions, "commit": commit_info()["id"]}


def commit_info(root: Path = ROOT, load: float = LOAD) -> dict[str, Any]:
    """The commit, and whether a record may be quoted: the tree is clean but for records, and half of the cores were free.

    Where the tree came without its history, $YOLOV9K_COMMIT says what `git describe --always --abbrev=40 --dirty` said there.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout.strip() if GIT else ""

    if told := os.environ.get("YOLOV9K_COMMIT"):
        commit, dirty = told.removesuffix("-dirty"), told.endswith("-dirty")
    else:
        commit = git("rev-parse", "HEAD")
        dirty = bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results"))
    quotable = bool(re.fullmatch("[0-9a-f]{40}", commit)) and not dirty and load < (os.cpu_count() or 1) / 2
    return {"id": commit or None, "dirty": dirty, "load_before": round(load, 2), "quotable": quotable}


def table(benchmarks: list[dict[str, Any]]) -> list[str]:
    """The benchmarks as rows of a table."""
    rows = ["| benchmark | median, us | of copy bandwidth | peak memory, MiB | MB | TFLOP/s |", "|---|---|---|---|---|---|"]
    for bench in benchmarks:
        extra = bench["extra_info"]
        share = f"{extra['copy_bandwidth_share']:.1%}" if "copy_bandwidth_share" in extra else ""
        moved, rate = f"{extra['bytes'] / 1e6:.1f}" if "bytes" in extra else "", extra.get("tflops_per_second", "")
        median = bench["stats"]["median"] * 1e6
        rows.append(f"| {bench['name']} | {median:.1f} | {share} | {extra.get('peak_mib', '')} | {moved} | {rate} |")
    return rows


def write(folder: Path, results: list[dict[str, Any]]) -> None:
    """Both reports."""
    records = [folder / f"{name}.json" for name in RECORDS]
    written = [json.loads(record.read_text()) for record in records if record.exists() and record.stat().st_size]
    benchmarks = [bench for record in written for bench in record["benchmarks"]]
    about = machine()
    report = {"machine": about, "commit_info": commit_info(), "steps": results, "benchmarks": benchmarks}
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
    for name in RECORDS:
        (folder / f"{name}.json").unlink(missing_ok=True)  # an earlier run's
    results = run_all(steps(folder))
    write(folder, results)
    print(f"report: {folder / 'gpu-check.md'}")
    return 0 if all(step["passed"] for step in results) else 1


if __name__ == "__main__":
    sys.exit(main())
