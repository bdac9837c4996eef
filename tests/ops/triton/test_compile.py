"""The Triton kernels compile ahead of time for real GPUs, without one and without spills."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import artifacts

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.compile

ROOT = Path(__file__).resolve().parents[3]
ROW = re.compile(r"^\| (\w+)\.(\w+[^|]*) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)


def decisive(*flags: str) -> str:
    """A name for all that decides the table: the kernels and what they are built from, the script, the compiler, its flags."""
    package = ROOT / "yolov9k"
    folders = [ROOT / "kernels", *(package / name for name in ("ops", "config", "common", "native"))]
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    script = [ROOT / "bench" / "triton_aot.py", package / "__init__.py"]
    return artifacts.digest(triton.__version__, sys.version, *flags, *artifacts.texts([*sources, *script]))


def compiled(cache: Path, *flags: str) -> list[tuple[str, ...]]:
    """Rows of the table of bench/triton_aot.py, which is kept between runs where it was made without an error."""
    name = decisive(*flags)
    if kept := artifacts.find_text(name):
        return ROW.findall(kept)
    clean = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment = clean | {"TRITON_DEFAULT_FP_FUSION": "1", "TRITON_CACHE_DIR": str(cache)}
    script = [sys.executable, str(ROOT / "bench" / "triton_aot.py"), *flags]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return ROW.findall(artifacts.keep_text(name, done.stdout))


def test_every_kernel_compiles_for_sizes_of_one(tmp_path: Path) -> None:
    """A launch makes an integer of 1 a constant, which the interpreter does not: it is no tensor any more."""
    rows = compiled(tmp_path, "--ones")
    assert {row[0] for row in rows} == {path.stem for path in (ROOT / "kernels").glob("[!_]*.py")}


def test_every_kernel_compiles_without_spills(tmp_path: Path) -> None:
    rows = compiled(tmp_path, "--brief")
    assert {row[2] for row in rows} == {"80", "90", "100"}
    assert {row[0] for row in rows} == {path.stem for path in (ROOT / "kernels").glob("[!_]*.py")}
    for module, kernel, arch, registers, _, spilled in rows:
        assert int(spilled) == 0, f"{module}.{kernel} spills on sm_{arch}"
        assert int(registers) <= 255
