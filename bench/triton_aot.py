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
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ARCHS = (80, 90, 100)
# Operations that round twice, roughly or to zero; tl.floor is cvt.rmi.ftz, and the kernels' floors are of no denormals.
INEXACT = re.compile(r"\s(fma\.\S*f32|div\.(?!rn\.f32)\S*f32|(?!cvt\.rmi)\S+\.ftz\S*)")


class Source(NamedTuple):
    """A kernel of kernels/`module`.py and how it is compiled: arguments not named in `types` are pointers to float32."""

    module: str
    kernel: str
    types: dict[str, str]  # argument: Triton's name of its type
    constants: dict[str, Any]
    variant: str = ""
    warps: int = 4
    exact: bool = False  # launched without fused multiply-adds: each operation is rounded on its own, as in the reference


def _named(names: str, kind: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


BN = {"CHUNK": 1024, "ROWS": 32, "COLUMNS": 64, "ACTIVATION": True, "TRAINING": True, "FIRST": True, "RUNNING": True}
BN |= {"AFFINE": True, "RESIDUAL": True, "SOURCES": 1, "DUAL": False}
DUAL = BN | {"DUAL": True, "RESIDUAL": False, "SOURCES": 3}
BN_TYPES = (
    _named("first z z2 y grad grad2 grad3 out2 residual", "*bf16")
    | _named("eps momentum active", "fp32")
    | {"batches": "*i64"}
    | _named("pitch pitch_z pitch_z2 pitch_y pitch_r pitch_g pitch_g2 pitch_g3 pitch_o pitch_o2", "i32")
    | _named("rows channels count tiles tile_rows kind_stride tile_stride out_stride", "i32")
)
GEMM = {"PROLOGUE": False, "BIAS": False, "ADDENDS": 0, "ACTIVATION": False, "STATISTICS": False, "EPILOGUE": False}
TILE = {"ROWS": 128, "COLUMNS": 64, "DEPTH": 32}
GEMM_TYPES = _named("a b out add1 add2 z grad x", "*bf16") | _named(
    "pitch_a stride_n stride_k pitch_o rows width depth pitch_1 pitch_2 pitch_z tiles pitch_g pitch_x share", "i32"
)
GEMMS = {
    "plain": {},
    "prologue, statistics": {"PROLOGUE": True, "STATISTICS": True},
    "bias, SiLU": {"BIAS": True, "ACTIVATION": True},
    "epilogue, two addends": {"EPILOGUE": True, "ACTIVATION": True, "ADDENDS": 2},
}
DFL_TYPES = (
    _named("ptr0 ptr1 ptr2 out", "*bf16")
    | _named("pixels0 pixels1 pixels2", "fp32")
    | _named("tiles0 tiles1 anchors0 anchors1 anchors2 width0 width1 width2 classes reg_max", "i32")
    | _named("b0 c0 h0 w0 b1 c1 h1 w1 b2 c2 h2 w2", "i32")
)
POOL = {"PIXELS": 16, "CHANNELS": 64, "ADDEND": True}
POOL_TYPES = (
    _named("source target grad addend out", "*bf16")
    | {"places": "*u8"}
    | _named("pitch_s pitch_t pitch_p pitch_g pitch_a pitch_o count height width source_height source_width", "i32")
    | _named("pooled_height pooled_width channels shift stride padding", "i32")
)
CONV = {"KERNEL": 3, "ACTIVATION": True, "RESIDUAL": True, "UNIT": 8, "ROWS": 128, "DEPTH": 64}
CONV_TYPES = (
    _named("x weight residual out", "*bf16")
    | _named("pitch_x pitch_r pitch_o rows height width", "i32")
    | _named("source_height source_width depth columns_in_group stride padding", "i32")
)
SGD_TYPES = {"low": "*bf16"} | _named("trained total end0 end1 parts", "i32")
DFL_BACKWARD = _named("grad ptr out", "*bf16") | {"pixels": "fp32"}
DFL_BACKWARD |= _named("first anchors width grad_b grad_r grad_a b c h w out_b out_c out_h out_w classes reg_max", "i32")
LOSS_TYPES = _named("ptr out logits", "*bf16") | _named("gt_index labels", "*i64")
LOSS_TYPES |= _named("pixels smoothing pos_weight", "fp32")
LOSS_TYPES |= _named(
    "first anchors total width b c h w out_b out_c out_h out_w classes reg_max images gt_count slot slots", "i32"
)
LOSS = {"IMAGES": 16, "BINS": 16, "CLASSES": 16, "BLOCK": 32}
CANDIDATES = _named("ptr out", "*bf16") | {"tallies": "*i32", "places": "*i64", "pixels": "fp32", "threshold": "fp32"}
CANDIDATES |= _named("first first_tile tiles total anchors width b c h w classes reg_max", "i32")
AUGMENT = _named("layers ranges", "*i64") | _named("height width", "i32") | {"pixels": "*u8"}
BOXES = _named("ends classes ranges counts", "*i64") | _named("height width", "fp32") | {"capacity": "i32"}
SOURCES = [
    Source("augment", "_augment", AUGMENT | {"out": "*bf16"}, {"LAST": True, "BLOCK": 256}, "bf16, channels last", exact=True),
    Source("augment", "_augment", AUGMENT | {"out": "*u8"}, {"LAST": False, "BLOCK": 256}, "uint8, planes", exact=True),
    Source("augment_boxes", "_boxes", BOXES, {"BLOCK": 32}, warps=1, exact=True),
    *(Source("dfl_candidates", n, CANDIDATES, {"BINS": 16, "ROWS": 16, "BLOCK": 64}) for n in ("_count", "_write")),
    Source("detection_loss", "_predictions", LOSS_TYPES, LOSS),
    Source("detection_loss", "_loss", LOSS_TYPES, LOSS | {"GRADIENT": False}, "forward"),
    Source("detection_loss", "_loss", LOSS_TYPES, LOSS | {"GRADIENT": True}, "with gradient"),
    Source("dfl_decode", "_decode", DFL_TYPES, {"BINS": 16, "ROWS": 16, "BLOCK": 64}),
    Source("dfl_decode", "_decode_backward", DFL_BACKWARD, {"BINS": 16, "ROWS": 16, "BLOCK": 64}),
    Source("conv_bn_silu", "_statistics", BN_TYPES | {"pitch": "i32"}, BN),
    Source("conv_bn_silu", "_merge_statistics", BN_TYPES, BN),
    *(
        Source("conv_bn_silu", name, BN_TYPES | {"out": "*bf16"}, constants, variant)
        for name in ("_normalize", "_reduce_gradient", "_spread_gradient")
        for constants, variant in ((BN, ""), (DUAL, "dual"))
    ),
    *(Source("conv1x1", "_multiply", GEMM_TYPES, GEMM | TILE | flags, variant) for variant, flags in GEMMS.items()),
    *(
        Source("conv1x1", "_multiply", GEMM_TYPES, GEMM | TILE | flags | {"COLUMNS": 128}, f"{variant}, 128 wide", 8)
        for variant, flags in GEMMS.items()
    ),
    *(
        Source("conv3x3", "_convolve", CONV_TYPES, CONV | {"COLUMNS": columns}, f"{columns} wide", warps)
        for columns, warps in ((64, 4), (128, 8))
    ),
    Source("pool", "_average", POOL_TYPES, POOL),
    *(
        Source("pool", name, POOL_TYPES, POOL | {"KERNEL": kernel}, f"{kernel}x{kernel}")
        for name in ("_maximum", "_maximum_gradient")
        for kernel in (3, 5)
    ),
    Source("conv1x1", "_weight_gradient", GEMM_TYPES, {"PROLOGUE": True, "ROWS": 64, "COLUMNS": 64, "DEPTH": 64}),
    Source("sgd_ema", "_square_sums", SGD_TYPES, {"BLOCK": 1024}),
    Source("sgd_ema", "_update", SGD_TYPES, {"HAS_LOW": True, "PARTIALS": 1024, "BLOCK": 1024}),
]


class Compiled(NamedTuple):
    """What one kernel takes on one architecture: registers a thread, bytes of shared memory a block, bytes spilled."""

    name: str
    arch: int
    registers: int
    shared: int
    spilled: int


def compile_kernels(sources: list[Source], archs: tuple[int, ...] = ARCHS, ones: bool = False) -> Iterator[Compiled]:
    """Compile ahead of time; Triton must not be interpreting (TRITON_INTERPRET unset when it is imported).

    ones: every integer argument is 1, which a launch compiles a variant of its own for.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for source in sources:
        kernel = getattr(importlib.import_module(f"yolov9k.kernels.{source.module}"), source.kernel)
        fixed = source.constants | (dict.fromkeys((n for n, kind in source.types.items() if kind == "i32"), 1) if ones else {})
        used = {name: value for name, value in fixed.items() if name in kernel.arg_names}
        signature = {name: "constexpr" if name in used else source.types.get(name, "*fp32") for name in kernel.arg_names}
        for arch in archs:
            code = ASTSource(kernel, signature, constexprs=used)
            options = {"num_warps": source.warps} | ({"enable_fp_fusion": False} if source.exact else {})
            built = triton.compile(code, target=GPUTarget("cuda", arch, 32), options=options)
            inexact = INEXACT.findall(built.asm["ptx"]) if source.exact else []
            if inexact:
                raise RuntimeError(f"{source.module}.{source.kernel} must round each operation on its own, but has {inexact}")
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(built.asm["cubin"])
                file.flush()
                usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
            registers, local = (int(re.findall(rf"{key}:(\d+)", usage.stdout)[-1]) for key in ("REG", "LOCAL"))
            name = " ".join((f"{source.module}.{source.kernel}", source.variant)).strip()
            yield Compiled(name, arch, registers, built.metadata.shared, local)


def table(kernels: list[Compiled]) -> str:
    """Markdown: a row a kernel and architecture."""
    rows = ["| kernel | sm | registers | shared bytes | spilled bytes |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *(f"| {k.name} | {k.arch} | {k.registers} | {k.shared} | {k.spilled} |" for k in kernels)])


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    once = list({(source.module, source.kernel): source for source in SOURCES}.values())
    if "--ones" in sys.argv:
        kernels = list(compile_kernels(once, (90,), ones=True))
    elif "--brief" in sys.argv:
        kernels = [*compile_kernels(SOURCES, (90,)), *compile_kernels(once, (80, 100))]
    else:
        kernels = list(compile_kernels(SOURCES))
    print(table(kernels))
