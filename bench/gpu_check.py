"""Everything that only a machine with a GPU can prove, in one command: `make gpu-check`.

Builds with nvcc, runs the training step's and the operators' tests on the device, compute-sanitizer over both compiled
operators, then the benchmarks, and writes gpu-check.json and gpu-check.md into a folder. Needs no network; ends within ten
minutes. Kernels are compiled on the way, which takes most of the first run's time: `--only build device tests` gives these
steps the whole of it, and a later run of the others adds to the same report.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TOOLKIT = "/usr/local/cuda"  # where the toolkit is when nothing names it
SECONDS = 600  # that all of it may take
RECORDS = {  # steps that write one, apart because a record is lost where its step is late
    "step": ["bench/end_to_end/bench_train_step.py", "-k", "cuda and not compiled"],
    "bench": ["bench", "--ignore=bench/end_to_end/bench_train_step.py", "-k", "cuda and not compiled"],
    "compiler": ["bench", "-k", "cuda and compiled"],
}
TAIL = 3000  # characters of a step's output that are kept
# Tests with GPU cases beside the operators' own, from tests/.
MACHINERY = ("e2e/test_gpu.py", "ops/triton", "ops/test_native.py", "ops/test_backends.py", "ops/test_tuning.py",
             "ops/test_real_sizes.py", "engine/test_modes.py", "engine/test_inference.py", "tools/test_roofline.py",
             "data/test_nvjpeg.py", "compat/test_accelerate.py")  # fmt: skip
MODULES = ("cv2", "faster_coco_eval", "hypothesis", "matplotlib", "numpy", "pybind11", "pytest", "pytest_benchmark", "rich",
           "safetensors", "triton", "typer", "yaml")  # fmt: skip
LOAD = os.getloadavg()[0]  # of the last minute, before anything of ours runs
GIT = shutil.which("git")
SANITIZED = ["tests/e2e/test_gpu.py", "-k", "shims_cases"]


class Step(NamedTuple):
    """One command, and the seconds that it has at least; what earlier steps leave is its own too."""

    name: str
    command: list[str]
    limit: int


def tests_with_gpu_parts() -> list[str]:
    """From tests/: the machinery's, and those of each registered operator, by its name."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from yolov9k import ops  # torch takes seconds to import

    return [*MACHINERY, *(f"ops/test_{name}.py" for name in sorted(ops.operators()))]


def steps(folder: Path) -> list[Step]:
    """What is run, in this order; a step that fails does not keep the next from running."""
    python = sys.executable
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    # kernels are compiled by as many processes; how they compile ahead of time is known without a GPU
    crowd = ["-n", str(min(os.cpu_count() or 1, 8))] if importlib.util.find_spec("xdist") else []
    tests = [f"tests/{name}" for name in tests_with_gpu_parts() if name != "e2e/test_gpu.py"]
    tests += ["--ignore=tests/ops/triton/test_compile.py", *crowd, *(["--dist", "loadfile"] if crowd else [])]
    sanitizer = shutil.which("compute-sanitizer") or f"{TOOLKIT}/bin/compute-sanitizer"
    return [
        Step("build", [python, "setup.py", "build_ext", "--inplace"], 80),
        Step("device", [*pytest, "-rs", "tests/e2e/test_gpu.py", *crowd], 120),
        Step("tests", [*pytest, "-rs", *tests], 120),
        *(
            Step(tool, [sanitizer, "--tool", tool, "--error-exitcode", "1", *pytest, *SANITIZED], 60)
            for tool in ("memcheck", "racecheck")
        ),
        *(Step(name, [*pytest, *chosen, f"--benchmark-json={folder / name}.json"], 50) for name, chosen in RECORDS.items()),
    ]


def run_all(every: list[Step]) -> list[dict[str, Any]]:
    """Run every step; one may take what the seconds of those before it have left over."""
    end, results = time.monotonic() + SECONDS, []
    for number, step in enumerate(every):
        left = end - time.monotonic() - sum(later.limit for later in every[number + 1 :])
        results.append(run(step._replace(limit=max(step.limit, int(left)))))
    return results


def run(step: Step) -> dict[str, Any]:
    """Run a step and tell what came of it. One that is late is ended with all processes that it began."""
    print(f"== {step.name}: {' '.join(step.command)}", flush=True)
    home = {} if shutil.which("nvcc") or not Path(TOOLKIT).exists() else {"CUDA_HOME": TOOLKIT}
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    environment = {"YOLOV9K_CUDA": "1", **home, **os.environ, "PYTHONPATH": path}
    start, pipes = time.monotonic(), {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        process = subprocess.Popen(step.command, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes)
        try:
            output, code = process.communicate(timeout=step.limit)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, code = f"{process.communicate()[0]}\nstopped after {step.limit} s", 124
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
    """Both reports; steps that were not run now stay in them as they were at the same commit."""
    results = earlier(folder, {step["name"] for step in results}) + results
    records = [folder / f"{step['name']}.json" for step in results if step["name"] in RECORDS]
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


def earlier(folder: Path, now: set[str]) -> list[dict[str, Any]]:
    """The folder's report's steps but those that were run now; none where it is of another commit."""
    path = folder / "gpu-check.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = report.get("commit_info", {}).get("id") == commit_info()["id"]
    return [step for step in report.get("steps", []) if step["name"] not in now] if same else []


def main() -> int:
    """Run the steps; the exit status says whether all of them passed."""
    names = [step.name for step in steps(Path())]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "gpu-check")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="STEP", help=f"of {', '.join(names)}")
    arguments = parser.parse_args()
    folder, chosen = arguments.out.absolute(), set(arguments.only)
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    if about["gpu"] is None:
        print("gpu-check: torch sees no CUDA device; run this on a machine with an NVIDIA GPU and its driver", file=sys.stderr)
        return 2
    if missing := [name for name in MODULES if importlib.util.find_spec(name) is None]:
        print(f"gpu-check: not importable: {', '.join(missing)}; install them, or name a folder of their unpacked wheels "
              "in PYTHONPATH", file=sys.stderr)  # fmt: skip
        return 2
    for name in RECORDS.keys() & chosen:
        (folder / f"{name}.json").unlink(missing_ok=True)  # an earlier run's
    results = run_all([step for step in steps(folder) if step.name in chosen])
    write(folder, results)
    print(f"report: {folder / 'gpu-check.md'}")
    return 0 if all(step["passed"] for step in results) else 1


if __name__ == "__main__":
    sys.exit(main())
