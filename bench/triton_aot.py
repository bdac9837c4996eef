"""Registers, shared memory and spills of every Triton kernel, compiled ahead of time for real GPUs; needs none.

`python bench/triton_aot.py` prints the table that stands in bench/results/triton.md; with `--ones` that of kernels for sizes of
one, which Triton makes constants of; with `--brief` one variant a kernel beside those for sm_90.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yolov9k.ops  # noqa: F401  (operators register themselves)
from yolov9k.kernels._aot import AotVariant
from yolov9k.ops.registry import kernel_modules

ARCHS = (80, 90, 100)
# Operations that round twice, roughly or to zero; tl.floor is cvt.rmi.ftz, and no kernel takes the floor of a denormal.
INEXACT = re.compile(r"\s(fma\.\S*f32|div\.(?!rn\.f32)\S*f32|(?!cvt\.rmi)\S+\.ftz\S*)")


class Source(NamedTuple):
    """A kernel of kernels/`module`.py and how it is compiled."""

    module: str
    variant: AotVariant


def sources() -> list[Source]:
    """Every variant that the files of the registered operators' kernels list."""
    modules = {name: importlib.import_module(f"yolov9k.kernels.{name}") for name in kernel_modules()}
    return [Source(name, variant) for name, module in modules.items() for variant in module.aot_variants()]


class Compiled(NamedTuple):
    """What one kernel takes on one architecture: registers a thread, bytes of shared memory a block, bytes spilled."""

    name: str
    arch: int
    registers: int
    shared: int
    spilled: int


def compile_kernels(chosen: list[Source], archs: tuple[int, ...] = ARCHS, ones: bool = False) -> Iterator[Compiled]:
    """Compile ahead of time; Triton must not be interpreting (TRITON_INTERPRET unset when it is imported).

    ones: every integer argument is 1, which a launch compiles a variant of its own for.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for module, source in chosen:
        kernel = getattr(importlib.import_module(f"yolov9k.kernels.{module}"), source.kernel)
        fixed = source.constants | (dict.fromkeys((n for n, kind in source.types.items() if kind == "i32"), 1) if ones else {})
        used = {name: value for name, value in fixed.items() if name in kernel.arg_names}
        signature = {name: "constexpr" if name in used else source.types.get(name, "*fp32") for name in kernel.arg_names}
        for arch in archs:
            code = ASTSource(kernel, signature, constexprs=used)
            options = {"num_warps": source.warps} | ({"enable_fp_fusion": False} if source.exact else {})
            built = triton.compile(code, target=GPUTarget("cuda", arch, 32), options=options)
            inexact = INEXACT.findall(built.asm["ptx"]) if source.exact else []
            if inexact:
                raise RuntimeError(f"{module}.{source.kernel} must round each operation on its own, but has {inexact}")
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(built.asm["cubin"])
                file.flush()
                usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
            registers, local = (int(re.findall(rf"{key}:(\d+)", usage.stdout)[-1]) for key in ("REG", "LOCAL"))
            name = " ".join((f"{module}.{source.kernel}", source.label)).strip()
            yield Compiled(name, arch, registers, built.metadata.shared, local)


def table(kernels: list[Compiled]) -> str:
    """Markdown: a row a kernel and architecture."""
    rows = ["| kernel | sm | registers | shared bytes | spilled bytes |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *(f"| {k.name} | {k.arch} | {k.registers} | {k.shared} | {k.spilled} |" for k in kernels)])


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    every = sources()
    once = list({(source.module, source.variant.kernel): source for source in every}.values())
    if "--ones" in sys.argv:
        kernels = list(compile_kernels(once, (90,), ones=True))
    elif "--brief" in sys.argv:
        kernels = [*compile_kernels(every, (90,)), *compile_kernels(once, (80, 100))]
    else:
        kernels = list(compile_kernels(every))
    print(table(kernels))
