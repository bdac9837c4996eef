"""Signals that ask a process to end, held back while something is in work that must not be cut in two."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, what schedulers and `kill` send, a terminal that is closed
IMPATIENT = 3  # signals that end a step that hangs


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end. status: what a shell expects of it. clean: nothing was cut in two."""

    def __init__(self, number: int, clean: bool = True) -> None:
        super().__init__()
        self.status, self.clean = 128 + number, clean


class SignalGuard:
    """While entered, the first signal that asks for an end raises Interrupted: at once, or after what is `held`.

    Those that follow are ignored, so that what was interrupted can save in peace.
    Signals that are ignored already stay so. Outside the main thread, where Python has no signals, nothing is done.
    """

    def __init__(self) -> None:
        self._held = self._received = self._number = 0
        self._breakable = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalGuard:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def held(self, breakable: bool = False) -> Iterator[None]:
        """Hold signals back; a third one ends what is `breakable`. Raises Interrupted after a body that came to its end."""
        self._held, self._breakable = self._held + 1, breakable
        try:
            yield
        finally:
            self._held -= 1
        if self._number and not self._held:
            self._raise()

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._received += 1
        if self._received == 1:
            self._number = number
            if not self._held:
                self._raise()
        elif self._held and self._breakable and self._number and self._received >= IMPATIENT:
            self._raise(clean=False)

    def _raise(self, clean: bool = True) -> None:
        number, self._number = self._number, 0
        raise Interrupted(number, clean)
