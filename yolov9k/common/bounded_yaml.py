"""YAML within bounds: no more values than a file of settings has, aliases counted as what they stand for.

A few lines of aliases can stand for gigabytes, and PyYAML's own errors for values that are none are Python's: KeyError,
IndexError, AttributeError.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from yolov9k.common.errors import UserError, one_line, shown

LONGEST = 1 << 24  # characters of a file
MOST_VALUES = 1_000_000  # of a file, with every alias counted as what it stands for
DEEPEST = 64  # levels of lists within lists
MOST_ANCHORS = 10_000
LONGEST_INTEGER = 100  # digits: a float holds it, whatever its base


class _Bounded:
    """Before a SafeLoader: it raises YAMLError alone, and no integer is too large for a float."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()  # type: ignore[misc]
        if node is not None:
            _count(node, {}, 0)
            self._check_keys(node)
        return node

    def _check_keys(self, root: Any) -> None:
        """Before merges (``<<``) put mappings together, in which keys do come twice."""
        waiting, seen = [root], set()
        while waiting:
            node = waiting.pop()
            if id(node) in seen or isinstance(node.value, str):
                continue
            seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                self._check_mapping(node)
            waiting += [child for item in node.value for child in (item if isinstance(item, tuple) else (item,))]

    def _check_mapping(self, node: Any) -> None:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if not isinstance(key, Hashable):
                continue  # reading on refuses it
            if key in lines:
                raise _error(key_node, f"key {shown(key)} stands twice, first in line {lines[key]}")
            lines[key] = key_node.start_mark.line + 1

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            if node.tag == "tag:yaml.org,2002:int" and len(node.value) > LONGEST_INTEGER:
                raise ValueError(f"longer than {LONGEST_INTEGER} digits")
            return super().construct_object(node, deep)  # type: ignore[misc]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            kind, why = str(node.tag).rpartition(":")[2], f": {error}" if type(error) is ValueError else ""
            given = f"{shown(node.value)} is " if isinstance(node.value, str) else ""
            raise _error(node, f"{given}no {kind}{why}") from None


class _Loader(_Bounded, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's where PyYAML has it: eight times as fast."""


def load_yaml(text: str, source: str) -> Any:
    """The value that a YAML text states.

    Raises UserError, which begins with `source` and the line, for what is no YAML, for keys that stand twice and for what
    is beyond the bounds above.
    """
    if len(text) > LONGEST:
        raise UserError(f"{source}: {len(text):,} characters, a YAML file has at most {LONGEST:,}; list images in .txt files")
    try:
        _check_depth(text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{source}{line}: not a YAML file ({one_line(what)}); mend the file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: not a YAML file ({one_line(str(error))}); mend the file") from None


def _check_depth(text: str) -> None:
    """Before a tree is made of it: making one calls itself at each level, and PyYAML's time goes with the square of anchors."""
    depth = anchors = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        anchors += bool(getattr(event, "anchor", None))
        for count, most, what in ((depth, DEEPEST, "levels"), (anchors, MOST_ANCHORS, "anchors and aliases")):
            if count > most:
                raise _error(event, f"more than {most:,} {what}")


def _count(node: Any, counted: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """How many values a node stands for, in how many levels."""
    if depth + counted.get(id(node), (0, 0))[1] > DEEPEST:  # an alias within what it stands for has no end
        raise _error(node, f"more than {DEEPEST} levels by aliases")
    if id(node) in counted:
        return counted[id(node)]
    values, levels = 1, 0
    for item in [] if isinstance(node.value, str) else node.value:
        for child in item if isinstance(item, tuple) else (item,):
            inner = _count(child, counted, depth + 1)
            values, levels = values + inner[0], max(levels, inner[1] + 1)
        if values > MOST_VALUES:
            raise _error(node, f"stands for more than {MOST_VALUES:,} values")
    counted[id(node)] = values, levels
    return counted[id(node)]


def _error(place: Any, problem: str) -> yaml.MarkedYAMLError:
    """What is wrong with a node or an event, at its line."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)
