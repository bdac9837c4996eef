"""Registers, shared memory and spills of every CUDA kernel, as ptxas reports them; needs nvcc, no GPU.

`python bench/ptxas.py` prints the table that stands in bench/results/ptxas.md.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).resolve().parents[1] / "csrc"
ARCHS = ("80", "90", "100")


class Kernel(NamedTuple):
    """What one kernel takes on one architecture: registers a thread, bytes of shared memory a block, bytes spilled."""

    name: str
    arch: str
    registers: int
    shared: int
    spilled: int


def demangle(name: str) -> str:
    """The kernel's own name with its template argument."""
    text = subprocess.run(["c++filt", name], capture_output=True, text=True).stdout if shutil.which("c++filt") else name
    return re.sub(r"\(.*|^void |yk::", "", text.strip())


def parse(output: str) -> Iterator[Kernel]:
    """The kernels in ptxas' messages."""
    for part in output.split("Compiling entry function ")[1:]:
        name, arch = re.findall(r"'(\S+)' for 'sm_(\d+)a?'", part)[0]
        spills = [int(number) for number in re.findall(r"(\d+) bytes spill", part)]
        shared = re.search(r"(\d+) bytes smem", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert registers is not None
        yield Kernel(demangle(name), arch, int(registers[1]), int(shared[1]) if shared else 0, sum(spills))


def compile_kernels(source: Path, archs: tuple[str, ...] = ARCHS) -> list[Kernel]:
    """Compile one .cu file with the build's own flags; raises RuntimeError with the compiler's message."""
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "nvcc",
            "-std=c++17",
            "-O3",
            "--fmad=false",
            *codes,
            "-Xptxas",
            "-v",
            "-c",
            str(source),
            "-o",
            f"{folder}/o.o",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return list(parse(done.stdout + done.stderr))


def table(kernels: list[Kernel]) -> str:
    """Markdown: a row a kernel and architecture."""
    rows = ["| kernel | sm | registers | shared bytes | spilled bytes |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *(f"| {k.name} | {k.arch} | {k.registers} | {k.shared} | {k.spilled} |" for k in sorted(kernels))])


if __name__ == "__main__":
    print(table([kernel for source in sorted(CSRC.glob("*.cu")) for kernel in compile_kernels(source)]))
