"""Signals that ask for an end: raised once, and not within what is held."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import typer

from yolov9k.cli.parser import command
from yolov9k.common.signals import Interrupted, SignalGuard
from yolov9k.config import DemoOptions

ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_is_raised_with_its_status(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, SignalGuard():
        send(number)
    assert (caught.value.status, caught.value.clean) == (128 + number, True)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", ENDS)
def test_what_is_held_comes_to_its_end(number: int) -> None:
    done: list[str] = []

    def work(guard: SignalGuard) -> None:
        with guard.held():
            with guard.held():
                send(number)
                send(number)
            send(number)
            done.append("work")

    with SignalGuard() as guard:
        with pytest.raises(Interrupted) as caught:
            work(guard)
        send(number)
        done.append("saved")
    assert (done, caught.value.status) == (["work", "saved"], 128 + number)


def test_what_may_be_broken_off_ends_at_the_third_signal() -> None:
    def hang() -> None:
        with SignalGuard() as guard, guard.held(breakable=True):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                send(number)
            raise AssertionError("not reached")

    with pytest.raises(Interrupted) as caught:
        hang()
    assert (caught.value.status, caught.value.clean) == (130, False)


def test_an_ignored_signal_stays_ignored() -> None:
    """As a shell's background jobs have it, and nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalGuard():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_are_left_alone() -> None:
    entered = []

    def work() -> None:
        with SignalGuard() as guard, guard.held():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGINT)]


def test_ctrl_c_ends_a_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command()(command(DemoOptions, lambda _: send(signal.SIGINT)))
    with pytest.raises(SystemExit) as ended:
        app(args=[])
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "interrupted\n")
