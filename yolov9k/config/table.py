"""The options as tables of the documentation: `python -m yolov9k.config.table`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING

from yolov9k.config.base import Options
from yolov9k.config.command_options import COMMANDS
from yolov9k.config.keys import RECIPE_KEYS, known_keys, own_keys
from yolov9k.config.option import OptionField, option_fields
from yolov9k.config.peers import NAMES, Absent, Alias, Idle
from yolov9k.config.recipe import TrainRecipe


def markdown_table(options: type) -> str:
    """A Markdown table with a row for each option of a class: spellings, values, default, meaning."""
    first = "flag" if issubclass(options, Options) else "key"
    lines = [f"| {first} | value | default | meaning |", "|---|---|---|---|"]
    for field in option_fields(options):
        names = field.flags or (field.key.upper(),) if first == "flag" else (field.name,)
        cells = (", ".join(f"`{name}`" for name in names), _values(field), _default(field), field.option.help)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _values(field: OptionField) -> str:
    option = field.option
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    if field.kinds == (bool,):
        return "given or not"
    names = {int: "whole number", float: "number", str: "text"}
    text = " or ".join(names[kind] + "s" * field.many for kind in sorted(field.kinds, key=list(names).index))
    low, high = option.low > -math.inf, option.high < math.inf
    bounds = f" from {option.low:g} to {option.high:g}" if low and high else f", at least {option.low:g}" if low else ""
    words = f", or `{next(iter(option.words))}`" if option.words else ""
    return text + bounds + words + (f" ({option.unit})" if option.unit else "")


def _default(field: OptionField) -> str:
    if field.default is MISSING:
        return "must be given"
    if field.default in (None, "", ()) or field.default is False:
        return ""
    return f"`{field.show(field.default)}`"


def pages() -> Iterator[str]:
    """The documentation's reference of options: a heading and a table for each command, and one for --hyp's file."""
    for command, options in COMMANDS.items():
        yield f"## yolov9k {command}\n\n{markdown_table(options)}"
    yield f"## The training recipe, a YAML file for --hyp\n\n{markdown_table(TrainRecipe)}"


def names_pages() -> Iterator[str]:
    """What each name of the other implementations stands for: a heading for each of them, a table for each command."""
    for peer, commands in NAMES.items():
        yield f"## {peer[0].upper()}{peer[1:]}\n"
        for command, names in commands.items():
            rows = [f"| `{name}` | {_meaning(command, name)} |" for name in names.split()]
            yield "\n".join((f"### yolov9k {command}\n", "| theirs | here |", "|---|---|", *rows)) + "\n"


def _meaning(command: str, name: str) -> str:
    meaning = known_keys(command)[name]
    if isinstance(meaning, OptionField):
        return f"`{(meaning.flags or (meaning.key.upper(),))[0]}`"
    if isinstance(meaning, Idle):
        return f"no effect: {meaning.why}"
    if isinstance(meaning, Absent):
        return f"refused: {meaning.advice}"
    return _alias(command, meaning)


def _alias(command: str, alias: Alias) -> str:
    values = [f"{value}: {'nothing to do' if meant is None else meant}" for value, meant in alias.values.items()]
    told = f" ({', '.join(values)})" if values else ""
    if callable(alias.option):
        return f"`--weights` for a checkpoint, `--cfg` for a model's name{told}"
    field = own_keys(command).get(alias.option)
    if field is None:
        return f"hyper-parameter `{alias.option}`" if alias.option in RECIPE_KEYS else f"as it is{told}"
    return f"`{(field.flags or (field.key.upper(),))[0]}`{told}"


if __name__ == "__main__":
    print("\n".join(pages()), end="")
