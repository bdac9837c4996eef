"""--time: as many epochs as fit into so many hours."""

from __future__ import annotations

import time


class TimeLimit:
    """hours: of all processes that a run had, None for no limit. spent: seconds of those before this one."""

    def __init__(self, hours: float | None, spent: float = 0.0) -> None:
        self.hours, self._before, self._began = hours, spent, time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self._before + time.perf_counter() - self._began

    def epochs(self, done: int) -> int | None:
        """Epochs that fit if all take as long as the `done` first ones did, these at least; None without a limit."""
        if self.hours is None:
            return None
        spent = self.spent
        return done + max(int((self.hours * 3600 - spent) / (spent / done)), 0)
