"""The operators there are. Each operator's file declares its own here; backends, checks on a GPU, tables are derived."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Operator:
    """What an operator declares of itself. All that is found by its name (`stem_files`) is not said again.

    name: of the function, of the operator in `torch.ops.yolov9k`, and the stem of its files. function: what a user calls.
    summary: what it computes, a few words. backends: beside the reference, each with what README says of it.
    kernels: the files of kernels/ that its Triton backend launches from. on_gpu: backends that a committed record shows
    on a GPU.
    """

    name: str
    function: Callable[..., Any]
    summary: str
    backends: Mapping[str, str]
    kernels: Sequence[str] = ()
    on_gpu: Sequence[str] = field(default=())

    @property
    def signature(self) -> str:
        """As in a stub: names, types and defaults."""
        return f"{self.name}{inspect.signature(self.function)}"

    def stem_files(self) -> list[str]:
        """The files that an operator of this name and these backends has, from the repository's root."""
        name, tests, bench = self.name, "tests/ops", "bench/kernels"
        files = [
            f"yolov9k/ops/{name}.py",
            f"yolov9k/ops/reference/{name}.py",
            f"{tests}/test_{name}.py",
            f"{bench}/bench_{name}.py",
            f"docs/operators/{name}.md",
        ]
        if "triton" in self.backends:
            files += [f"kernels/{name}.py", f"{tests}/triton/test_{name}.py"]
        if "cpu" in self.backends:
            files += [f"csrc/{name}.cpp", f"csrc/{name}.h"]
        if "cuda" in self.backends:
            files += [f"csrc/{name}.cu", f"csrc/{name}.cuh"]
        return files


OPERATORS: dict[str, Operator] = {}
BACKENDS_OF: dict[str, tuple[str, ...]] = {}  # plain strings: torch.compile traces through the choice of a backend


def register(operator: Operator) -> None:
    """Declare an operator. Raises ValueError where its name is taken or its Triton backend names no kernel."""
    if operator.name in OPERATORS:
        raise ValueError(f"{operator.name}: an operator of this name is registered already")
    if ("triton" in operator.backends) != bool(operator.kernels):
        raise ValueError(f"{operator.name}: kernels are named where, and only where, there is a Triton backend")
    OPERATORS[operator.name] = operator
    BACKENDS_OF[operator.name] = tuple(operator.backends)


def kernel_modules() -> list[str]:
    """The files of kernels/ that operators launch from, each once, in order."""
    return sorted({module for operator in OPERATORS.values() for module in operator.kernels})
