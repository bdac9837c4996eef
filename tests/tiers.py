"""Tiers of the test suite: quick (`make test`), slow (the rest of `make test-all`), nightly.

A file's mark puts its tests into the slow tier; `twin` on a test brings that one back into the quick tier, where it stands
for the proof that the file makes. Everything unmarked is quick.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

SLOW = ("toolchain", "compile", "interpret", "e2e", "big", "tools", "gpu", "peers", "long")
TIERS = ("quick", "slow", "nightly")
NIGHTLY_FACTOR = 20  # as many examples of a property as otherwise


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
