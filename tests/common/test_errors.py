"""What messages show of a user's values: one short line whatever the value is, in no time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from yolov9k.common.errors import shown


def nested(levels: int, width: int = 9) -> list[Any]:
    """Lists of one list, so deep that writing them out would take width**levels items."""
    value: list[Any] = ["x"] * width
    for _ in range(levels):
        value = [value] * width
    return value


@pytest.mark.parametrize("value", [0, 1.5, "dog", "a\nb", [1, 2], {"a": [1]}, None, ("nc",)])
def test_a_short_value_is_its_repr(value: object) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    [nested(12), {"a": nested(12)}, tuple(nested(12)), 10**50_000, -(10**50_000), "x" * 10**7, b"x" * 10**6, [10**50_000],
     list(range(10**6)), {"k" * 10**6: "v" * 10**6}, torch.zeros(100, 100), ["\n" * 500]],
    ids=range(12),
)  # fmt: skip
def test_a_long_value_is_one_short_line(value: object) -> None:
    for limit in (20, 60, 200):
        text = shown(value, limit)
        assert len(text) <= limit
        assert "\n" not in text


def test_what_is_cut_off_says_so() -> None:
    assert shown("x" * 100, 20) == "'" + "x" * 18 + "…"
    assert shown(10**500) == "a number of 1661 bits"
