"""What is wrong on the command line is one line with exit status 2, and names the flag as it was spelled."""

from __future__ import annotations

from dataclasses import MISSING

import pytest

from tests.command_line import run
from yolov9k.cli.parser import as_spelled
from yolov9k.config import COMMANDS, option_fields
from yolov9k.config.option import OptionField

TRAIN = ["train", "--data", "d", "--cfg", "yolov9-t"]
FLAGS = [
    (name, flag)
    for name, options in COMMANDS.items()
    for field in option_fields(options)
    for flag in field.flags
    if field.is_text and not field.many and str not in field.kinds
]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("error: ").rstrip()


def needed(field: OptionField) -> list[str]:
    """What typer wants beside, where a flag or argument has no default."""
    if field.default is not MISSING:
        return []
    return ["x"] if field.option.argument else [field.flags[0], "x"]


@pytest.mark.parametrize(("name", "flag"), FLAGS, ids=lambda value: value)
def test_what_is_no_number_is_refused_in_the_flags_spelling(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    beside = [part for field in option_fields(COMMANDS[name]) for part in needed(field)]
    for given in ("nan", "x", "1e3x", "1,5", "٣x", "--"):
        message = error_of(capsys, *name.split(), *beside, f"{flag}={given}")
        assert message.startswith(f"{flag} {given}: expected a ")
        assert "number" in message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--epochs="], "--epochs '': expected a whole number"),
        (["--epochs", "1e3"], "--epochs 1e3: expected a whole number"),
        (["--epochs", "2.5"], "--epochs 2.5: expected a whole number"),
        (["--epochs", "9" * 30], f"--epochs {'9' * 30}: expected at most 9223372036854775807"),
        (["--epochs", f"-{'9' * 400}"], f"--epochs -{'9' * 58}…: expected a whole number"),
        (["--epochs", "9" * 5000], f"--epochs {'9' * 59}…: expected a whole number"),
        (["--batch", "9" * 5000], f"--batch {'9' * 59}…: expected a number from 1 on, or auto"),
        (["--batch-size", "0"], "--batch-size 0: expected a number from 1 on, or auto"),
        (["--imgsz", "0"], "--imgsz 0: expected at least 1"),
        (["--img-size=0"], "--img-size 0: expected at least 1"),
        (["--img", "0"], "--img 0: expected at least 1"),
        (["--label-smoothing", "inf"], "--label-smoothing inf: expected a number"),
        (["--bogus"], "No such option: --bogus; see 'yolov9k train --help'"),
        (["extra"], "Got unexpected extra argument(s) (extra); see 'yolov9k train --help'"),
        (["--rect=3"], "--rect 3: expected true or false"),
    ],
)
def test_a_training_that_cannot_be(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, *TRAIN, *given).startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("bogus", "No such command 'bogus'; see 'yolov9k --help'"),
        ("data checks", "No such command 'checks'. Did you mean 'check'? see 'yolov9k data --help'"),
        ("val", "Missing option '--data'; see 'yolov9k val --help'"),
        ("predict --weights w --source s --conf-thres 2", "--conf-thres 2: expected a number from 0 to 1"),
        ("detect --weights w --source s --imgsz 0", "--imgsz 0: expected at least 1"),
    ],
)
def test_other_commands(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, *given.split()) == message


def test_help_for_want_of_a_command_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["data"]):
        run(*arguments)
        printed = capsys.readouterr()
        assert "Usage" in printed.out + printed.err
        assert "error:" not in printed.err
    assert run("--version") == run("info", "--help") == 0


def test_other_words_of_a_message_stay() -> None:
    text = "/data/--img/x: --img 3, --img-size, a--img; give a smaller --img"
    for name in ("--imgsz", "imgsz"):
        message = as_spelled(text, ["train", f"{name}=3"], "train")
        assert message == f"/data/--img/x: {name} 3, --img-size, a--img; give a smaller {name}"
    assert as_spelled(text, ["train", "--img", "3"], "train") == as_spelled(text, ["train"], "train") == text
    assert as_spelled(text, ["train", "--data", "img", "--imgsz", "3"], "train").endswith("smaller --imgsz")
    assert as_spelled(text, ["--imgsz", "3"], "") == text
