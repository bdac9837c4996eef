"""Options by any of their names: `imgsz=320`, `--imgsz 320` and `train(imgsz=320)` mean the same.

Names are our flags without their dashes, the hyper-parameters of a training recipe, and what `config.peers` lists of other
implementations. Dashes and underscores are alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from yolov9k.common.errors import UserError, one_line, warn
from yolov9k.config.base import Options
from yolov9k.config.command_options import COMMANDS
from yolov9k.config.option import LIST_SEPARATOR, OptionField, option_fields
from yolov9k.config.peers import MEANINGS, Absent, Alias, Idle, Meaning
from yolov9k.config.recipe import TrainRecipe

RECIPE_KEYS = frozenset(field.name for field in option_fields(TrainRecipe))
OVERRIDE = "override"  # the option that takes hyper-parameters
_BOOLS = {"true": "true", "1": "true", "yes": "true", "false": "false", "0": "false", "no": "false"}
_NOTHING = frozenset({"", "0", "0.0", "false", "none", "null", "no", "off"})  # values that ask for nothing


@cache
def own_keys(command: str) -> Mapping[str, OptionField]:
    """A command's options by each of our names for them."""
    return {name: field for field in option_fields(COMMANDS[command]) for name in own_names(field)}


def own_names(field: OptionField) -> list[str]:
    """Our names for an option."""
    return [normal(name) for name in (*field.flags, field.name)]


@cache
def known_keys(command: str) -> Mapping[str, OptionField | Meaning]:
    """All names that mean something to a command."""
    own = own_keys(command)
    recipe = {key: Alias(key) for key in RECIPE_KEYS - own.keys()} if OVERRIDE in own else {}
    return {**recipe, **own, **{normal(key): meaning for key, meaning in MEANINGS.get(command, {}).items()}}


def normal(name: str) -> str:
    """A name without what spellings differ in."""
    return name.lstrip("-+").replace("-", "_")


def plain_name(command: str, key: str) -> str:
    """The key of ours that a key means, itself where it is one or where its values differ."""
    meaning = known_keys(command).get(key)
    return meaning.option if isinstance(meaning, Alias) and isinstance(meaning.option, str) and not meaning.values else key


def is_switch(meaning: OptionField | Meaning) -> bool:
    """Whether a flag stands alone, without a value."""
    return not meaning.is_text if isinstance(meaning, OptionField) else meaning.switch


def unknown(name: str, command: str) -> str:
    """What is said of a name that means nothing to a command."""
    near = next(iter(difflib.get_close_matches(normal(name)[:100], known_keys(command), 1)), "")
    spelled = f"--{near.replace('_', '-')}" if name.startswith("-") else near
    return f"No such option: {one_line(name, 60)}" + (f". Did you mean '{spelled}'?" if near else "")


def resolve(command: str, name: str, value: str) -> list[tuple[str, str]]:
    """What one `name` and its value, a text, say of our options: pairs of a field's name and a text that it parses.

    No pair where nothing is to be done. A hyper-parameter becomes `override` and "key=value". Warns of what has no effect.
    Raises UserError for a name that is not known, with the likeliest one, and for what is not there, with what to do instead.
    """
    meaning = known_keys(command).get(normal(name))
    said = f"{name} {value}" if name.startswith("-") else f"{name}={value}"
    if meaning is None:
        raise UserError(unknown(name, command))
    if isinstance(meaning, OptionField):
        return _own(meaning, name, value)
    word = value.strip().lower()
    if isinstance(meaning, Absent):
        if word not in _NOTHING:
            raise UserError(f"{name}: not taken over; {meaning.advice}")
        return []
    if isinstance(meaning, Idle):
        if word not in _NOTHING:
            warn(f"{name if meaning.switch else said} has no effect: {meaning.why}")
        return []
    return _aliased(command, meaning, name, value)


def _own(field: OptionField, name: str, value: str) -> list[tuple[str, str]]:
    word = value.strip().lower()
    if not field.is_text:
        if word not in _BOOLS:
            raise UserError(f"{name} {one_line(value, 60) or repr('')}: expected true or false")
        return [(field.name, _BOOLS[word])]
    if value == "None" or (word in ("none", "null", "false") and (field.optional or field.many)):
        return []
    if word == "true" and field.option.bare is not None:
        return [(field.name, field.option.bare)]
    parts = _parts(field, value)
    if field.many:
        return [(field.name, LIST_SEPARATOR.join(parts))]
    if field.option.single and len(parts) > 1:
        if len(set(parts)) > 1:
            raise UserError(f"{name} {one_line(' '.join(parts), 60)}: {field.option.single}")
        parts = parts[:1]
    return [(field.name, ",".join(parts))]


def _parts(field: OptionField, value: str) -> list[str]:
    """The values in a text: of a list that this module made, or one in brackets, which no path is taken for."""
    if LIST_SEPARATOR not in value and value[:1] + value[-1:] in ("[]", "()") and not field.option.path:
        return [part.strip().strip("'\"") for part in value[1:-1].split(",")]
    return value.split(LIST_SEPARATOR)


def _aliased(command: str, alias: Alias, name: str, value: str) -> list[tuple[str, str]]:
    word = value.strip().lower()
    meant = alias.values.get(_BOOLS.get(word, word) if alias.switch else word, value)
    if meant is None:
        if alias.why and word not in _NOTHING:
            warn(f"{name}={value} has no effect: {alias.why}")
        return []
    option = alias.option(meant) if callable(alias.option) else alias.option
    if option in own_keys(command):
        return _own(own_keys(command)[option], name, meant)
    if option in RECIPE_KEYS and OVERRIDE in own_keys(command):
        return [(OVERRIDE, f"{option}={meant}")]
    raise UserError(f"{name} {one_line(value, 60)}: expected one of {', '.join(alias.values)}")


def options_from(command: str, values: Mapping[str, Any]) -> Options:
    """Options from values by any of their names, as a Python call gives them: options_from("train", {"imgsz": 320, ...}).

    None and empty lists leave an option at its default. `given` holds the fields that were named. Raises UserError as `resolve`
    does, and for values that cannot be read or are missing.
    """
    told = {name: value for name, value in values.items() if value is not None and value != [] and value != ()}
    texts = merged(pair for name, value in told.items() for pair in resolve(command, name, _text(value)))
    fields = {field.name: field for field in option_fields(COMMANDS[command])}
    made = COMMANDS[command].from_fields(
        {name: fields[name].parse(text if fields[name].is_text else text == "true") for name, text in texts.items()}
    )
    made.given = frozenset(texts)
    return made


def merged(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What `resolve` gave, by field: the last text of each, but all hyper-parameters."""
    texts: dict[str, str] = {}
    for name, text in pairs:
        texts[name] = LIST_SEPARATOR.join(filter(None, (texts.get(name), text))) if name == OVERRIDE else text
    return texts


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return LIST_SEPARATOR.join(map(_text, value))
    return str(value)
