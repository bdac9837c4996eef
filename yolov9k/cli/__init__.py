"""The command line, `yolov9k` or `python -m yolov9k`: parses, calls the library, prints one line for what a user can mend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from yolov9k.cli import convert, data, demo, download, info, predict, profile, train, val
from yolov9k.cli.parser import UsageError, as_spelled, command, console, usage_message
from yolov9k.cli.spelling import as_ours, command_of
from yolov9k.common.console import hush_pillow
from yolov9k.common.errors import USAGE, UserError, report
from yolov9k.config import COMMANDS

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="YOLOv9: train, validate, predict.", rich_markup_mode="rich")
_GROUPS = {"data": typer.Typer(no_args_is_help=True, help="Look at a data set before training on it.")}
_RUN: dict[str, Callable[[Any], None]] = {
    "train": train.run,
    "val": val.run,
    "predict": predict.run,
    "info": info.run,
    "convert": convert.run,
    "profile": profile.run,
    "demo": demo.run,
    "data check": data.check,
    "download": download.run,
}


def _version(wanted: bool) -> None:
    if wanted:
        from yolov9k import __version__

        console.print(__version__)
        raise typer.Exit


@app.callback()
def _main_options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """YOLOv9: train, validate, predict."""


for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name)
for _words, _options in COMMANDS.items():
    _first, _, _rest = _words.partition(" ")
    (_GROUPS[_first] if _rest else app).command(_rest or _first)(command(_options, _RUN[_words]))


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: an error that the user can mend is one line on stderr.

    Exit status 1: the run failed; 2: the command line is wrong; 3: the data; 4: the model or its file; 130: interrupted.
    """
    hush_pillow()
    given = sys.argv[1:] if arguments is None else arguments
    ours = list[str]()
    try:
        ours = as_ours(given)
        status = app(args=ours, prog_name="yolov9k", standalone_mode=False)
    except UserError as error:
        report("error", "red", as_spelled(str(error), given, command_of(ours)))
        raise SystemExit(error.status or USAGE) from None
    except UsageError as error:
        if message := usage_message(error):  # empty where the help was printed for want of a command
            report("error", "red", message)
        raise SystemExit(USAGE) from None
    except (KeyboardInterrupt, typer.Abort):  # the latter is what early versions of typer make of the former
        raise SystemExit(130) from None
    raise SystemExit(status or 0)
