"""YAML that states too much, or values that are none, is one short line, whatever the loader makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from yolov9k.common import bounded_yaml
from yolov9k.common.bounded_yaml import DEEPEST, load_yaml
from yolov9k.common.errors import UserError


def aliases(levels: int, item: str) -> str:
    """Lines of which each names the one before nine times."""
    lines = [f"a0: &a0 {item}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], y{n}: 2}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


HOSTILE = {
    "boolean": "a: !!bool maybe",
    "float": "a: !!float abc",
    "integer": "a: !!int abc",
    "empty integer": 'a: !!int ""',
    "impossible date": "a: 2001-99-99",
    "impossible day": "a: 2024-02-30 10:00:00",
    "timestamp": "a: !!timestamp x",
    "Python's object": "a: !!python/object:os.system x",
    "long tag": f"a: !{'x' * 100_000} y",
    "bytes": 'a: !!binary "é"',
    "ordered map": "a: !!omap [1]",
    "5,000 digits": f"a: {'9' * 5000}",
    "4,000 digits": f"a: {'9' * 4000}",
    "hexadecimal": f"a: 0x{'f' * 5000}",
    "binary": f"a: 0b{'1' * 9000}",
    "sexagesimal": f"a: 1{':1' * 200_000}",
    "sexagesimal float": f"a: 1{':1' * 200_000}.5",
    "flow lists": "[" * 100_000,
    "flow maps": "{a: " * 5_000,
    "block lists": "- " * 100_000,
    "block maps": "\n".join(f"{' ' * level}a:" for level in range(DEEPEST + 1)),
    "itself": "a: &a [*a, *a]",
    "itself in a map": "a: &a {x: *a}",
    "chain": "- &n0 []\n" + "".join(f"- &n{n + 1} [*n{n}]\n" for n in range(200)),
    "aliases": "a: &a [x, x, x, x]\n" + "".join(f"{n}: &b{n} [{'*a, *a, ' * 9}]\n" for n in range(40_000)),
    "merged aliases": aliases(12, "{x: 1}"),
    "anchors": "".join(f"- &a{n} x\n" for n in range(20_000)),
    "half a surrogate pair": 'a: "\\ud800"',
    "no such alias": "a: *b",
    "list as a key": "{[a]: 1}",
    "open quotes": '"' * 100_001,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_beyond_bounds_is_one_short_line(kind: str) -> None:
    with pytest.raises(UserError) as caught:
        load_yaml(HOSTILE[kind], "x.yaml")
    message = str(caught.value)
    assert message.startswith("x.yaml:")
    assert len(message) < 400
    assert "\n" not in message


def test_without_the_compiled_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML may be installed without libyaml; only what it says of a mistake in the writing differs."""

    class Plain(bounded_yaml._Bounded, yaml.SafeLoader):
        pass

    monkeypatch.setattr(bounded_yaml, "_Loader", Plain)
    for kind, text in HOSTILE.items():
        if len(text) < 10_000 and kind != "half a surrogate pair":
            with pytest.raises(UserError, match=r"^x\.yaml:"):
                load_yaml(text, "x.yaml")
    assert load_yaml("names: [a, b]\nnc: 2\n", "x.yaml") == {"names": ["a", "b"], "nc": 2}


def test_a_huge_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_yaml, "LONGEST", 100)
    with pytest.raises(UserError, match=r"x\.yaml: 103 characters, a YAML file has at most 100"):
        load_yaml("a: " + "x" * 100, "x.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"a: {10**99}\nb: -9223372036854775809", {"a": 10**99, "b": -(2**63) - 1}),
        ("base: &b {x: 1}\nown: {<<: *b, y: 2}", {"base": {"x": 1}, "own": {"x": 1, "y": 2}}),
        ("names: &n [a, b]\nagain: *n", {"names": ["a", "b"], "again": ["a", "b"]}),
        ("a: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1), None),
        ("", None),
    ],
)
def test_what_is_within_bounds_is_read(text: str, value: Any) -> None:
    read = load_yaml(text, "x.yaml")
    assert value is None or read == value
