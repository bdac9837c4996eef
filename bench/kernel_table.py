"""README's table of operators, written from what each operator declares of itself (yolov9k/ops/registry.py)."""

from __future__ import annotations

import yolov9k.ops  # noqa: F401  (operators register themselves)
from yolov9k.ops.registry import OPERATORS, Operator

BEGIN, END = "<!-- kernels: bench/readme_table.py -->", "<!-- /kernels -->"


def cell(operator: Operator, backend: str) -> str:
    """What a backend is, where it stands, and that it has not run on a GPU where no record says that it has."""
    if backend not in operator.backends:
        return "-"
    text = operator.backends[backend]
    if backend == "cpu":
        return text
    if backend == "cuda":
        files = f"`csrc/{operator.name}.cuh`"
    else:
        files = ", ".join(f"`kernels/{module}.py`" for module in operator.kernels)
    return f"{files}: {text}" + ("" if backend in operator.on_gpu else "; not yet run on a GPU")


def table() -> list[str]:
    """The table's lines, an operator a row."""
    lines = ["| operator | computes | C++ (CPU) | CUDA | Triton |", "|---|---|---|---|---|"]
    for name, operator in sorted(OPERATORS.items()):
        cells = [f"`{name}`", operator.summary, *(cell(operator, backend) for backend in ("cpu", "cuda", "triton"))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
