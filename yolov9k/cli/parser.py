"""Commands from dataclasses of options: typer parses, the options' fields say what."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING
from typing import Annotated, Any

import typer

from yolov9k.common.console import PlainConsole
from yolov9k.common.errors import note
from yolov9k.config import Options, option_fields
from yolov9k.config.option import OptionField

console = PlainConsole()


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
    kind: Any = str if field.is_text else field.kinds[0]  # where None may come, the default None says it
    names = [f"{name}/--no-{field.key}" if field.default is True else name for name in field.flags]
    info = typer.Argument(help=field.option.help) if field.option.argument else typer.Option(*names, help=field.option.help)
    return Annotated[kind, info]


def _default(field: OptionField) -> Any:
    """What typer shows as the default, None where there is nothing to show."""
    if field.default is MISSING:
        return inspect.Parameter.empty
    if field.default in (None, "", ()):
        return None
    shown = field.show(field.default)
    return str(shown) if field.is_text else shown
