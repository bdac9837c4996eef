"""Operators register themselves: each has every file of its stem and every step of its proof; no kernel is nobody's."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from bench import gpu_check, kernel_table
from yolov9k import ops
from yolov9k.ops.registry import BACKENDS_OF, OPERATORS, Operator, kernel_modules, register

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"conv1x1", "pool"}  # building blocks of several operators' launches
NATIVE_SHARED = {"augment_layers", "bindings", "bindings_training", "box", "clones", "conv3x3", "conv_bn_silu_tiles", "dtype"}
NATIVE_SHARED |= {"elements", "simt", "sort", "status", "threads", "winograd"}
everyone = pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))


def stems(folder: str, pattern: str) -> set[str]:
    return {path.stem for path in (ROOT / folder).glob(pattern)}


@everyone
def test_every_file_of_its_stem_is_there(operator: Operator) -> None:
    assert [name for name in operator.stem_files() if not (ROOT / name).is_file()] == []


@everyone
def test_its_proofs_name_it(operator: Operator) -> None:
    """The reference's own test, which checks its backends, and for Triton the interpreted kernels' test speak of it."""
    for name in operator.stem_files():
        if name.startswith("tests/"):
            text = (ROOT / name).read_text(encoding="utf-8")
            assert re.search(rf"\b{operator.name}\b", text), name
    test = (ROOT / f"tests/ops/test_{operator.name}.py").read_text(encoding="utf-8")
    assert f'(BackendChecks):\n    operator = "{operator.name}"\n' in test


@everyone
def test_it_is_exported_and_known_to_torch(operator: Operator) -> None:
    assert getattr(ops, operator.name) is operator.function
    assert hasattr(torch.ops.yolov9k, operator.name)
    assert operator.signature.startswith(f"{operator.name}(")
    assert "backend: 'str' = 'auto'" in operator.signature
    assert BACKENDS_OF[operator.name] == tuple(operator.backends)
    assert set(operator.on_gpu) <= set(operator.backends)


def test_every_file_of_an_operator_is_registered() -> None:
    """What stands in a room of operators belongs to one, or is declared to be shared."""
    names = set(OPERATORS)
    assert stems("yolov9k/ops/reference", "[!_]*.py") == names | {"boxes"}
    assert stems("kernels", "[!_]*.py") == set(kernel_modules())
    assert set(kernel_modules()) - names == SHARED
    assert {name.removeprefix("bench_") for name in stems("bench/kernels", "bench_*.py")} == names
    native = {name for name, operator in OPERATORS.items() if {"cpu", "cuda"} & set(operator.backends)}
    assert stems("csrc", "*.c*") | stems("csrc", "*.h") == native | NATIVE_SHARED


@pytest.mark.parametrize("module", kernel_modules())
def test_its_kernels_are_compiled_ahead_of_time(module: str) -> None:
    """Every kernel that is launched has a variant, and every argument that a variant gives a type exists in its file."""
    pytest.importorskip("triton")
    kernels = importlib.import_module(f"yolov9k.kernels.{module}")
    variants = kernels.aot_variants()
    source = (ROOT / "kernels" / f"{module}.py").read_text(encoding="utf-8")
    launched = set(re.findall(r"\b(_\w+)\[", source)) & {
        name for name in vars(kernels) if hasattr(getattr(kernels, name), "arg_names")
    }
    assert launched
    assert {variant.kernel for variant in variants} >= launched
    arguments = {name for variant in variants for name in getattr(kernels, variant.kernel).arg_names}
    for variant in variants:
        assert set(variant.types) <= arguments
        assert set(variant.constants) <= arguments
        constant = [name for name in getattr(kernels, variant.kernel).arg_names if name.isupper()]
        assert set(constant) <= set(variant.constants)


def test_every_cuda_operator_runs_on_the_host() -> None:
    """Its kernels are compiled for the host and run thread by thread by tests/ops/test_simt.py."""
    text = (ROOT / "tests/ops/test_simt.py").read_text(encoding="utf-8")
    for name, operator in OPERATORS.items():
        if "cuda" in operator.backends:
            assert re.search(rf"\b{name}\b", text)
            assert f'"{name}.h"' in (ROOT / f"tests/ops/simt/{name}.cpp").read_text(encoding="utf-8")


def test_the_gpu_check_runs_every_operators_tests() -> None:
    listed = gpu_check.tests_with_gpu_parts()
    assert {f"ops/test_{name}.py" for name in OPERATORS} <= set(listed)
    assert len(listed) == len(set(listed))


def test_the_readmes_table_has_a_row_for_every_operator() -> None:
    rows = kernel_table.table()[2:]
    assert [row.split("`")[1] for row in rows] == sorted(OPERATORS)
    for row in rows:
        assert row.count(" | ") == 4
        for name in re.findall(r"`((?:csrc|kernels)/[\w.]+)`", row):
            assert (ROOT / name).is_file()
        operator = OPERATORS[row.split("`")[1]]
        unproven = {"cuda", "triton"} & set(operator.backends) - set(operator.on_gpu)
        assert row.count("not yet run on a GPU") == len(unproven)


def test_a_name_is_registered_once_and_kernels_go_with_triton() -> None:
    before = dict(OPERATORS)
    with pytest.raises(ValueError, match="sgd_ema: an operator of this name is registered already"):
        register(OPERATORS["sgd_ema"])
    for backends, kernels in (({"triton": "forward"}, ()), ({"cpu": "default on CPU"}, ("pool",))):
        with pytest.raises(ValueError, match="other: kernels are named where, and only where"):
            register(Operator("other", len, "", backends, kernels))
    assert before == OPERATORS
