"""nvcc compiles every kernel for the architectures that matter, without a spill and within static shared memory."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import artifacts

pytestmark = pytest.mark.toolchain

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc").glob("*.cu"))


@pytest.fixture(scope="module")
def ptxas() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ptxas", ROOT / "bench" / "ptxas.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["ptxas"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_kernels(ptxas: ModuleType, source: Path) -> list[Any]:
    """What nvcc makes of a source; kept between runs under the name of compiler, headers, flags and script."""
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    headers = [path for path in (ROOT / "csrc").iterdir() if path.suffix in (".cuh", ".h")]
    name = artifacts.digest(version, *artifacts.texts([source, *headers, ROOT / "bench" / "ptxas.py"]))
    text = artifacts.find_text(name) or artifacts.keep_text(name, json.dumps(ptxas.compile_kernels(source)))
    return [ptxas.Kernel(*row) for row in json.loads(text)]


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.parametrize("source", [pytest.param(SOURCES[0], marks=pytest.mark.twin), *SOURCES[1:]], ids=lambda path: path.stem)
def test_no_kernel_spills(ptxas: ModuleType, source: Path) -> None:
    kernels = compile_kernels(ptxas, source)
    written = set(re.findall(r"__global__ void (\w+)\(", source.with_suffix(".cuh").read_text(encoding="utf-8")))
    print(ptxas.table(kernels))
    assert {kernel.name.split("<")[0] for kernel in kernels} == written
    assert {kernel.arch for kernel in kernels} == set(ptxas.ARCHS)
    assert [kernel for kernel in kernels if kernel.spilled] == []
    assert max(kernel.shared for kernel in kernels) <= 48 * 1024
    assert max(kernel.registers for kernel in kernels) <= 128  # 512 threads a block: 65,536 registers


@pytest.mark.twin
def test_a_spill_is_read_from_the_compilers_message(ptxas: ModuleType) -> None:
    message = """ptxas info    : Compiling entry function 'hungry' for 'sm_90'
ptxas info    : Function properties for hungry
    64 bytes stack frame, 40 bytes spill stores, 44 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 64 bytes cumulative stack size, 2048 bytes smem"""
    assert list(ptxas.parse(message)) == [("hungry", "90", 255, 2048, 84)]
