"""Devices: one file asks what they are, and what cannot be used is refused in one line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import yolov9k.ops  # noqa: F401  (registers the operators)
from yolov9k.common.device import choose_amp, exact_dtype, has_cuda, identity, pick_device, to_host, why_unusable
from yolov9k.common.errors import UserError

PACKAGE = Path(__file__).resolve().parents[2] / "yolov9k"
EXEMPT = ("common/device.py", "native/", "kernels/")
TYPES = {"cpu", "cuda", "mps", "xpu"}


def offenses(source: str) -> list[str]:
    """Lines that call torch.cuda, ask a tensor whether it is on CUDA, or compare a device's type."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute | ast.Compare):  # unparse writes out whole bodies
            continue
        text = ast.unparse(node)
        asks = isinstance(node, ast.Attribute) and (
            text.startswith("torch.cuda") or node.attr in ("is_cuda", "is_mps", "is_xpu")
        )
        compares = isinstance(node, ast.Compare) and bool(re.search(r"\.type\b", text)) and "device" in text
        literal = isinstance(node, ast.Compare) and any(
            isinstance(part, ast.Constant) and part.value in TYPES for part in ast.walk(node)
        )
        if asks or (compares and literal):
            found.append(f"{getattr(node, 'lineno', 0)}: {text}")
    return found


def test_nothing_else_asks_what_a_device_is() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if not str(path.relative_to(PACKAGE)).startswith(EXEMPT)]
    assert len(files) > 60
    found = {str(path.relative_to(PACKAGE)): lines for path in files if (lines := offenses(path.read_text(encoding="utf-8")))}
    assert found == {}


@pytest.mark.parametrize(
    "line",
    ["torch.cuda.synchronize()", "x.is_cuda", "device.type == 'cuda'", "'cpu' != x.device.type", "x.device.type in ('cuda',)"],
)
def test_what_would_ask_is_found(line: str) -> None:
    assert offenses(line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mps", "torch sees 0 MPS devices; use --device cpu"),
        ("xpu", "torch sees 0 XPU devices; use --device cpu"),
        ("xpu:3", "torch sees 0 XPU devices; use --device cpu"),
        ("meta", "meta is not a device that models run on"),
        ("hpu", "hpu is not a device that models run on"),
        ("vulkan", "vulkan is not a device that models run on"),
        ("cpu:1", "there is one CPU device"),
        ("gpu", "no such device; give cpu, cuda, cuda:N, N, mps or xpu"),
        ("-1", "no such device"),
        ("²", "no such device"),
        ("0,1", "a run uses one device"),
        ("cuda:99", "CUDA devices?; use --device cpu"),
        ("99", "CUDA devices?; use --device cpu"),
    ],
)
def test_what_cannot_be_used_is_one_line(text: str, message: str) -> None:
    if why_unusable(torch.device("mps")) == "" and text == "mps":
        pytest.skip("this machine has MPS")
    with pytest.raises(UserError, match=message) as caught:
        pick_device(text)
    assert str(caught.value).startswith(f"--device {text}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["cpu", "CPU", " cpu ", torch.device("cpu")])
def test_what_can_be_used(text: str | torch.device) -> None:
    assert pick_device(text) == torch.device("cpu")


@pytest.mark.parametrize("text", [None, "", "auto"])
def test_automatic(text: str | None) -> None:
    assert pick_device(text).type == ("cuda" if has_cuda() else "cpu")


def test_operators_reach_their_reference_on_every_device() -> None:
    """MPS and XPU cannot be tried here; that the dispatcher would find an operator's function there can."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("yolov9k::")]
    assert len(names) >= 10
    composite = [name for name in names if has(name, "CompositeImplicitAutograd")]
    missing = [(n, key) for n in names if n not in composite for key in ("CPU", "CUDA", "MPS", "XPU") if not has(n, key)]
    assert missing == []


def test_precision_by_device() -> None:
    assert exact_dtype(torch.device("cpu")) == torch.float64
    assert exact_dtype(torch.device("mps")) == torch.float32
    assert choose_amp("auto", torch.device("mps")) == "off"
    assert choose_amp("bf16", torch.device("cpu")) == "bf16"


def test_the_hosts_own_tensors_are_not_copied() -> None:
    tensor = torch.ones(3)
    (same,), event = to_host([tensor])
    assert same is tensor
    assert event is None
    assert to_host([]) == ([], None)


def test_a_processor_has_an_identity() -> None:
    assert identity(torch.device("cpu")) == identity(torch.device("cpu"))
    assert all(identity(torch.device("cpu")))
