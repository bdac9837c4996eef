"""The Triton kernels: parity in the interpreter, and compilation ahead of time for real GPUs without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[1]
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from yolov9k.kernels import conv_bn_silu, dfl_decode

integers = [n for n in dfl_decode._decode.arg_names if n not in ("BINS", "ROWS", "BLOCK")]
signature = {name: "i32" for name in integers}
signature |= dict.fromkeys(("ptr0", "ptr1", "ptr2", "out"), "*bf16") | dict.fromkeys(("pixels0", "pixels1", "pixels2"), "fp32")
signature |= dict.fromkeys(("BINS", "ROWS", "BLOCK"), "constexpr")
constants = {"BINS": 16, "ROWS": 16, "BLOCK": dfl_decode.BLOCK}
sources = {"dfl_decode": ASTSource(dfl_decode._decode, signature, constexprs=constants)}

constants = {name: getattr(conv_bn_silu, name) for name in ("CHUNK", "ROWS", "COLUMNS")}
constants |= {"ACTIVATION": True, "TRAINING": True}
types = dict.fromkeys(("z", "y", "grad", "out"), "*bf16") | dict.fromkeys(constants, "constexpr") | {"eps": "fp32"}
types |= dict.fromkeys(("pitch", "pitch_z", "pitch_y", "pitch_g", "pitch_o", "rows", "channels", "chunks"), "i32")
for name in ("_statistics", "_merge_statistics", "_normalise", "_reduce_gradient", "_spread_gradient"):
    kernel = getattr(conv_bn_silu, name)
    signature = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names}
    used = {argument: value for argument, value in constants.items() if argument in signature}
    sources[name] = ASTSource(kernel, signature, constexprs=used)

for arch in (80, 90, 100):
    for name, source in sources.items():
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32))
        with open(f"{name}-{arch}.cubin", "wb") as file:
            file.write(compiled.asm["cubin"])
        print(f"{name}-{arch}")
"""


def run(folder: Path, *command: str, **environment: str) -> str:
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    clean = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    given = clean | {
        "PYTHONPATH": path,
        "TRITON_DEFAULT_FP_FUSION": "1",
        "TRITON_CACHE_DIR": str(folder / "cache"),
        **environment,
    }
    done = subprocess.run([sys.executable, *command], cwd=folder, env=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_kernels_equal_their_references_in_the_interpreter(tmp_path: Path) -> None:
    assert "equal" in run(tmp_path, str(ROOT / "tests" / "triton_cases.py"), TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_kernels_equal_their_references_on_the_gpu(tmp_path: Path) -> None:
    assert "equal" in run(tmp_path, str(ROOT / "tests" / "triton_cases.py"))


def test_kernels_compile_ahead_of_time_without_spills(tmp_path: Path) -> None:
    import triton

    names = run(tmp_path, "-c", COMPILE).split()
    assert len(names) == 3 * 6
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    for name in names:
        usage = subprocess.run(
            [str(tools / "cuobjdump"), "--dump-resource-usage", f"{name}.cubin"], cwd=tmp_path, capture_output=True, text=True
        ).stdout
        print(name, usage)
        assert int(re.findall(r"REG:(\d+)", usage)[-1]) <= 128
        assert int(re.findall(r"LOCAL:(\d+)", usage)[-1]) == 0
