"""Options, each declared once: `epochs: Annotated[int, Option("passes over the training data", low=1)] = 500`.

Such fields of a dataclass give the command line its flags and help, the checks, args.yaml and the tables of the documentation.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from yolov9k.common.errors import UserError, check_range, one_line, shown
from yolov9k.common.numbers import is_plain, is_whole, parse_number

LARGEST = 2**63 - 1  # whole number that torch, numpy and files hold
LIST_SEPARATOR = "\x1f"  # between the values of a list on its way to `OptionField.parse`: no name holds it


@dataclass(frozen=True, eq=False)  # equal only to itself, so that it has a hash, which `typing` wants of what it holds
class Option:
    """What a field's type does not say.

    names: the flag's spellings, without any --field-name. low, high: the range of a number. choices: of a text. otherwise:
    what is said of a value that is none of the choices, in place of their list. words: texts that stand for a number, the
    first one for writing it. bare: what the flag means without a value. argument: given by its place, without a flag.
    path: whether a text is a path, in which `~` is the home folder. commas: whether commas part the values of a list, not so
    where names may hold them. single: what is said where several values are given for one.
    """

    help: str
    names: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    otherwise: str = ""
    words: Mapping[str, int] = field(default_factory=dict)
    bare: str | None = None
    unit: str = ""
    argument: bool = False
    path: bool = False
    commas: bool = True
    single: str = ""


@dataclass(frozen=True)
class OptionField:
    """A field with its Option, its type taken apart: `kinds` of the value, or of each of `many`; None where `optional`."""

    name: str
    option: Option
    kinds: tuple[type, ...]
    optional: bool
    many: bool
    default: Any  # dataclasses.MISSING where the option must be given

    @property
    def key(self) -> str:
        """The option's name in messages and in args.yaml."""
        return self.name.replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag's spellings on the command line."""
        return () if self.option.argument else self.option.names or (f"--{self.key}",)

    @property
    def is_text(self) -> bool:
        """Whether the command line hands it over as a text that `parse` reads."""
        return self.kinds != (bool,)

    def check(self, value: Any) -> None:
        """Raises UserError for a value out of the range or none of the choices."""
        option = self.option
        if value is None or value in option.words.values():
            return
        if option.choices and value not in option.choices:
            raise self._error(value, option.otherwise or f"expected one of {', '.join(option.choices)}")
        if (option.low, option.high) != (-math.inf, math.inf):
            check_range(self.key, value, option.low, option.high)

    def parse(self, given: Any) -> Any:
        """The value of what the command line hands over: None where the flag is absent, a text, or a bool. Raises UserError."""
        if given is None:
            return self.default
        if given == "" and self.optional:
            return self.option.bare
        if self.many:
            if not given.strip():
                raise UserError(f"--{self.key}: no value; give one or several, such as --{self.key} 0 2, or leave the flag out")
            values = given.replace(",", LIST_SEPARATOR) if self.option.commas else given
            return tuple(self._element(part, given) for part in values.split(LIST_SEPARATOR))
        if given in self.option.words:
            return self.option.words[given]
        return self._number(given) if self.is_text and str not in self.kinds else given

    def _number(self, given: str) -> float:
        """Where words stand for numbers below the range, the range is checked too."""
        words, whole = self.option.words, int in self.kinds
        try:
            value = parse_number(given, self.kinds[0])
        except ValueError:
            value = math.nan
        if whole and value > LARGEST:
            raise self._error(given, f"expected at most {LARGEST}")
        low = self.option.low if words else -LARGEST
        if (value >= low) if whole else math.isfinite(value):
            return value
        wanted = f"a number from {self.option.low:g} on, or {next(iter(words))}" if words else f"a {'whole ' * whole}number"
        raise self._error(given, f"expected {wanted}")

    def show(self, value: Any) -> Any:
        """The value as YAML and the command line's help hold it."""
        if self.many:
            return list(value)
        return next((word for word, number in self.option.words.items() if number == value), value)

    def read(self, value: Any, where: str) -> Any:
        """The value of what a YAML file holds; the message begins with `where`. Raises UserError."""
        if value is None and self.optional:
            return None
        if self.many:
            if not isinstance(value, list | tuple):
                raise UserError(f"{where}: {self.key} is {shown(value)}, expected a list")
            return tuple(self._read(element, where) for element in value)
        if type(value) in (int, str) and value in (*self.option.words, *self.option.words.values()):
            return self.option.words.get(value, value)
        return self._read(value, where)

    def _read(self, value: Any, where: str) -> Any:
        if str not in self.kinds and bool not in self.kinds:
            return read_number(value, self.kinds[0], self.option, f"{where}: {self.key}")
        if not isinstance(value, self.kinds) and self.kinds == (str,) and type(value) in (int, float):
            value = str(value)  # `device: 0`, and a run directory that is named by a number
        if not isinstance(value, self.kinds) or (isinstance(value, bool) and bool not in self.kinds):
            wanted = "true or false" if bool in self.kinds else "a text"
            raise UserError(f"{where}: {self.key} is {shown(value)}, expected {wanted}")
        return value

    def _element(self, text: str, given: str) -> Any:
        """One of many values: a number, or a name where names are taken too."""
        if str in self.kinds:
            return int(text) if int in self.kinds and is_whole(text) else text
        try:
            return parse_number(text, self.kinds[0])
        except ValueError:
            raise self._error(given, f"expected {'whole ' if int in self.kinds else ''}numbers") from None

    def _error(self, value: Any, wanted: str) -> UserError:
        return UserError(f"--{self.key} {one_line(str(value).replace(LIST_SEPARATOR, ' '), 60) or repr('')}: {wanted}")


def option_fields(options: type) -> tuple[OptionField, ...]:
    """The fields of a dataclass whose annotations hold an Option. Raises TypeError for a field without one."""
    hints = get_type_hints(options, include_extras=True)
    return tuple(
        _resolved(f"{options.__name__}.{item.name}", hints[item.name], item.name, item.default) for item in fields(options)
    )


def _resolved(where: str, hint: Any, name: str, default: Any) -> OptionField:
    option = next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Option)), None)
    if get_origin(hint) is not Annotated or option is None:
        raise TypeError(f"{where}: annotate it, Annotated[type, Option(help)]")
    kind = get_args(hint)[0]
    members = set(_members(kind))
    optional = type(None) in members
    (plain, *others) = members - {type(None)}
    many = not others and get_origin(plain) is tuple
    kinds = _members(get_args(plain)[0]) if many else (plain, *others)
    return OptionField(name, option, kinds, optional, many, default)


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def read_number(value: Any, kind: type, option: Option, what: str) -> float | int:
    """A finite number in the option's range, from a number or, since YAML reads 1e-3 as one, a text. Raises UserError."""
    try:
        number = math.nan if isinstance(value, bool) or not is_plain(str(value)) else float(value)
        exact = int(value) if kind is int and isinstance(value, int) else number  # a float would round a long seed
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{what} is {shown(value)}, expected a number") from None
    if not math.isfinite(number) or not option.low <= exact <= option.high or (kind is int and number != int(number)):
        raise UserError(
            f"{what} is {one_line(str(value), 60)}, expected {kind.__name__} from {option.low:g} to {option.high:g}"
        )
    return int(exact) if kind is int else number
