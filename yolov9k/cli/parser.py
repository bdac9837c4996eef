"""Commands from dataclasses of options: typer parses, the options' fields say what."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from typing import Annotated, Any

import typer

from yolov9k.common.console import PlainConsole
from yolov9k.common.errors import note
from yolov9k.config import COMMANDS, Options, option_fields
from yolov9k.config.keys import normal, own_names, plain_name
from yolov9k.config.option import OptionField

console = PlainConsole()


UsageError: Any = typer.BadParameter.__bases__[0]  # click's own, or that of the copy which later versions of typer hold


def command(options: type[Options], run: Callable[[Any], None]) -> Callable[..., None]:
    """A function that typer makes a command of: its flags are the fields of `options`, of which `run` gets an object."""

    def parsed(context: typer.Context, **values: Any) -> None:
        made = options(**{field.name: field.parse(values[field.name]) for field in option_fields(options)})
        made.given = frozenset(name for name in values if str(context.get_parameter_source(name)).endswith("COMMANDLINE"))
        try:
            run(made)
        except KeyboardInterrupt as error:  # typer has an ending of its own for it
            note(str(error) or "interrupted")
            raise SystemExit(getattr(error, "status", 130)) from None

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
    parameters += [
        inspect.Parameter(field.name, keyword, default=_default(field), annotation=_annotation(field))
        for field in option_fields(options)
    ]
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    parsed.__doc__ = run.__doc__
    return parsed


def _annotation(field: OptionField) -> Any:
    kind = str if field.is_text else bool  # where None may come, the default None says it
    names = [f"{name}/--no-{field.key}" if field.default is True else name for name in field.flags]
    number = field.is_text and not field.many and not field.option.words and str not in field.kinds
    metavar = f"<{field.kinds[0].__name__}>" if number else None
    help_ = field.option.help
    info = typer.Argument(help=help_) if field.option.argument else typer.Option(*names, help=help_, metavar=metavar)
    return Annotated[kind, info]


def _default(field: OptionField) -> Any:
    """What typer shows as the default, None where there is nothing to show."""
    if field.default is MISSING:
        return inspect.Parameter.empty
    if field.default in (None, "", ()):
        return None
    shown = field.show(field.default)
    return str(shown) if field.is_text else shown


def usage_message(error: Any) -> str:
    """What typer says of flags, arguments or a command that there are not, and where to look; empty where it says nothing."""
    said = error.format_message().strip().rstrip(".")
    return said and with_help(said, error.ctx.command_path if error.ctx else "yolov9k")


def with_help(said: str, place: str) -> str:
    """A message about flags or commands, and where to look."""
    return f"{said}{'' if said.endswith('?') else ';'} see '{place} --help'"


def as_spelled(message: str, given: Sequence[str], command: str) -> str:
    """A message about a command's options by their first names, each by the name that the command line gave it."""
    if command not in COMMANDS:
        return message
    names = [one.partition("=")[0] for one in given if one.startswith("-") or "=" in one]
    for field in option_fields(COMMANDS[command]):
        used = [name for name in names if plain_name(command, normal(name)) in own_names(field)]
        if used and f"--{field.key}" not in used:
            message = re.sub(rf"(?<![\w/-])--{field.key}(?![\w/-])", used[0].lstrip("+"), message)
    return message
