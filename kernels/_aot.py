"""How a kernel is compiled ahead of time: `aot_variants()` of each file lists its kernels. Nothing here needs Triton."""

from __future__ import annotations

from typing import Any, NamedTuple


class AotVariant(NamedTuple):
    """One kernel of the file that lists it: arguments that `types` does not name are pointers to float32."""

    kernel: str
    types: dict[str, str]  # argument: Triton's name of its type
    constants: dict[str, Any]
    label: str = ""
    warps: int = 4
    exact: bool = False  # launched without fused multiply-adds: each operation is rounded on its own, as in the reference


def typed(names: str, kind: str) -> dict[str, str]:
    """One type for several arguments."""
    return dict.fromkeys(names.split(), kind)
