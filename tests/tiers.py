"""Tiers of the test suite: quick (`make test`), slow (the rest of `make test-all`), nightly.

A file's mark puts its tests into the slow tier; `twin` on a test brings that one back into the quick tier, where it stands
for the proof that the file makes. Everything unmarked is quick.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

SLOW = ("toolchain", "compile", "interpret", "e2e", "big", "tools", "gpu", "peers", "long")
TIERS = ("quick", "slow", "nightly")
NIGHTLY_FACTOR = 10  # as many examples of a property as otherwise


def tier(marks: Iterable[str]) -> str:
    """The tier of a test with these marks."""
    names = set(marks)
    if "nightly" in names:
        return "nightly"
    return "slow" if names & set(SLOW) and "twin" not in names else "quick"


def examples(number: int) -> int:
    """How many examples hypothesis draws of a property that is given `number` by day."""
    return number * (NIGHTLY_FACTOR if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 1)


BY_DAY = os.environ.get("HYPOTHESIS_PROFILE") != "nightly"  # the same examples every time; by night always new ones

slow_case = functools.partial(pytest.param, marks=pytest.mark.long)  # a case of a quick test that the slow tier alone runs


def drawn(few: int, many: int, *strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """hypothesis's `given` for a property that takes its time: `few` examples in the quick tier, `many` in the slow one."""
    cases = [pytest.param(few, marks=pytest.mark.twin, id="few"), slow_case(examples(many), id="many")]

    def decorate(holds: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.hypothesis  # as pytest knows those that `given` decorates itself
        @pytest.mark.parametrize("number", cases)
        def test(number: int) -> None:
            settings(deadline=None, max_examples=number, derandomize=BY_DAY)(given(*strategies)(holds))()

        # Not by functools.wraps, after which pytest takes the property's arguments for fixtures.
        test.__name__, test.__doc__ = holds.__name__, holds.__doc__
        test.__module__, test.__dict__["place_as"] = holds.__module__, holds  # where pytest says that it stands
        return test

    return decorate
