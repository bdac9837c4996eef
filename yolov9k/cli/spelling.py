"""Command lines as users of other implementations write them, turned into one of ours that typer reads.

`yolov9k detect train data=d.yaml model=yolov9-t imgsz=320`, `yolov9k train_dual.py --img 640 640 --cos-lr`,
`yolov9k task=inference task.data.source=images`: the command's other names, `key=value` beside flags, flags of several values
or of none, and names that `config.peers` lists.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from yolov9k.cli.parser import with_help
from yolov9k.common.errors import UserError
from yolov9k.config import COMMANDS
from yolov9k.config.keys import is_switch, known_keys, merged, normal, own_keys, resolve, unknown
from yolov9k.config.option import LIST_SEPARATOR, OptionField
from yolov9k.config.peers import Absent, Alias, Meaning

# Scripts and modes that others have, and what is the same here.
_SAME = {
    **{f"{name}{suffix}": name for name in ("train", "val") for suffix in ("_dual", "_triple")},
    **dict.fromkeys(("detect", "detect_dual", "detect_triple", "inference", "test"), "predict"),
    **dict.fromkeys(("validate", "validation", "evaluate", "eval"), "val"),
    **dict.fromkeys(("checks", "doctor", "env"), "info"),
    "version": "--version",
    "help": "--help",
}
_MODES = ("train", "val", "predict")
_WORDS = {words.partition(" ")[0] for words in COMMANDS}
_STATED = re.compile("(?:mode|task)=(\\w+)")  # where no word comes first
_OTHER_TASKS = ("segment", "classify", "pose", "obb", "panoptic")
_KEY_VALUE = re.compile(r"\+?([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)
_HELP = ("--help", "--version")


def as_ours(arguments: list[str]) -> list[str]:
    """A command line of ours that means the same; one that is ours stays as it is.

    Warns of what has no effect. Raises UserError for what is not there, with what to do instead, and for a name that is not
    known, with the likeliest one.
    """
    words, rest = _command(arguments)
    command = " ".join(words)
    return [*words, *_rewritten(command, rest)] if command in COMMANDS else [*words, *rest]


def command_of(ours: list[str]) -> str:
    """The command's words that a command line of ours begins with; empty where it has none."""
    return next((words for words in COMMANDS if ours[: words.count(" ") + 1] == words.split()), "")


def _command(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words of our command, and what follows them."""
    first, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if match := _STATED.fullmatch(first):
        stated = [found[1] for one in arguments if (found := _STATED.fullmatch(one)) and found[1] != "detect"]
        rest = [one for one in arguments if not _STATED.fullmatch(one)]
        word = stated[0] if stated else match[1]
        return [_SAME.get(word, word)], rest
    name = first.removesuffix(".py")
    if name == "detect" and rest and rest[0] in _MODES:
        return [rest[0]], rest[1:]
    if name in _OTHER_TASKS:
        raise UserError(f"{first}: yolov9k detects objects; leave the word out, or give 'detect'")
    word = _SAME.get(name, name)
    if first and not word.startswith("-") and word not in _WORDS:
        near = difflib.get_close_matches(word[:100].lower(), [*_WORDS, *_SAME], 1)
        raise UserError(with_help(f"No such command {first!r}" + (f". Did you mean {near[0]!r}?" if near else ""), "yolov9k"))
    if rest and f"{word} {rest[0]}" in COMMANDS:
        return [word, rest[0]], rest[1:]
    return [word] if first else [], rest


def _rewritten(command: str, rest: list[str]) -> Iterator[str]:
    texts = list[tuple[str, str, str]]()  # name as it was spelled, our field, its text
    waiting = list(rest)
    while waiting:
        token = waiting.pop(0)
        if token == "--":
            yield from (token, *waiting)
            break
        if token in _HELP or (not token.startswith("--") and not _is_key(token, command)):
            yield token
            continue
        name, value = _pair(token, command, waiting)
        place = f"yolov9k {command}"
        if normal(name) not in known_keys(command):
            raise UserError(with_help(unknown(name, command), place))
        if value is None:
            raise UserError(with_help(f"{name}: no value", place))
        texts += [(name, field, text) for field, text in resolve(command, name, value)]
    last = merged((field, text) for _, field, text in texts)
    spelled = {field: name for name, field, _ in texts}
    for field, text in last.items():
        yield from _tokens(own_keys(command)[field], spelled[field], text)


def _is_key(token: str, command: str) -> bool:
    """Whether a word is key=value, or the key of a switch. A command that takes an argument by its place may mean that."""
    known = known_keys(command)
    if match := _KEY_VALUE.fullmatch(token):
        return normal(match[1]) in known or not _takes_argument(command)
    return not _takes_argument(command) and token in known and is_switch(known[token])


def _takes_argument(command: str) -> bool:
    return any(field.option.argument for field in own_keys(command).values())


def _pair(token: str, command: str, waiting: list[str]) -> tuple[str, str | None]:
    """A name and its value, taken from what follows the flag if need be; None where none follows."""
    name, equals, value = token.removeprefix("+").partition("=")
    known = known_keys(command)
    if equals:
        return name, value
    meaning = known.get(normal(name))
    if meaning is None:
        positive = known.get(normal(name.removeprefix("--no-"))) if name.startswith("--no-") else None
        return (f"--{name[5:]}", "false") if positive is not None and _can_be_false(positive) else (name, "")
    if is_switch(meaning):
        return name, "true"
    if isinstance(meaning, OptionField):
        return name, _value(meaning, waiting, command)
    if isinstance(meaning, Absent) and not _follows(waiting, command):
        return name, "true"
    return name, waiting.pop(0) if waiting else None


def _can_be_false(meaning: OptionField | Meaning) -> bool:
    return is_switch(meaning) or (isinstance(meaning, Alias) and "false" in meaning.values)


def _value(field: OptionField, waiting: list[str], command: str) -> str | None:
    if field.many or (field.option.single and not _takes_argument(command)):
        values = [] if field.many else waiting[:1]
        del waiting[: len(values)]
        while _follows(waiting, command):
            values.append(waiting.pop(0))
        return LIST_SEPARATOR.join(values) if values or field.many else None
    if field.option.bare is not None and not _follows(waiting, command):
        return field.option.bare
    return waiting.pop(0) if waiting else None


def _follows(waiting: list[str], command: str) -> bool:
    """Whether a value comes next, and not another flag or key."""
    if not waiting or waiting[0].startswith("-"):
        return False
    match = _KEY_VALUE.fullmatch(waiting[0])
    return match is None or normal(match[1]) not in known_keys(command)


def _tokens(field: OptionField, name: str, text: str) -> Iterator[str]:
    """What typer is given: the flag as it was spelled where it is one of ours."""
    if field.option.argument:
        yield text
        return
    flag = next((flag for flag in field.flags if normal(flag) == normal(name)), field.flags[0])
    if field.is_text:
        yield from (flag, text)
    elif text == "true":
        yield flag
    elif field.default is True:
        yield f"--no-{field.key}"
