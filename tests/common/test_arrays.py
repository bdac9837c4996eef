"""One gray for everybody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from yolov9k.common.arrays import FILL

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("file", "name"), [("csrc/augment.cuh", r"kGray ="), ("kernels/augment.py", r"GRAY: tl\.constexpr = tl\.constexpr\(")]
)
def test_kernels_fill_with_the_same_gray(file: str, name: str) -> None:
    """They have it as one word, a byte a channel, in a constant of their own language."""
    found = re.search(rf"{name} ?(0x[0-9a-f]{{6}})", (ROOT / file).read_text(encoding="utf-8"))
    assert found is not None
    assert list(int(found[1], 16).to_bytes(3, "big")) == [FILL] * 3


def test_no_other_module_states_it() -> None:
    for path in (ROOT / "yolov9k").rglob("*.py"):
        if path.name != "arrays.py":
            assert not re.search(r"(?<![\d.])114(?!\d)(?!\))", path.read_text(encoding="utf-8")), path
