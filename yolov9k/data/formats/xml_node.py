"""XML within bounds, each element with its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn
from xml.parsers import expat

from yolov9k.common.text import decode_xml

_DEEPEST = 64  # levels of elements


@dataclass(slots=True)
class Node:
    """An XML element that knows its line; `texts` are the pieces of what stands between its tags."""

    tag: str
    line: int
    texts: list[str] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    def find(self, path: str) -> Node | None:
        """The first element at `path`, tags joined by slashes."""
        node: Node | None = self
        for tag in path.split("/"):
            node = next((child for child in node.children if child.tag == tag), None) if node else None
        return node

    def repeated(self, tags: Sequence[str]) -> str:
        """The first of `tags` that several children have, empty if there is none."""
        present = [child.tag for child in self.children]
        return next((tag for tag in tags if present.count(tag) > 1), "")

    def value(self, path: str) -> str:
        """The text at `path` without blanks around it, empty if there is none."""
        node = self.find(path)
        return "".join(node.texts).strip() if node else ""


class BoundsError(ValueError):
    """An XML file holds what no annotation needs: deep nesting, or entities and defaults, few of which stand for gigabytes."""


def parse_xml(data: bytes) -> Node:
    """The root element. Raises `expat.ExpatError` with the line of what is wrong, BoundsError, and what `decode_xml`
    raises."""
    stack = [Node("", 0)]
    parser = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        node = Node(tag, parser.CurrentLineNumber)
        if len(stack) > _DEEPEST:
            raise BoundsError(f"line {node.line} has more than {_DEEPEST} levels")
        stack[-1].children.append(node)
        stack.append(node)

    def refuse(*_: Any) -> NoReturn:
        raise BoundsError(f"line {parser.CurrentLineNumber} declares entities or attributes")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = lambda data: stack[-1].texts.append(data)
    parser.EntityDeclHandler = parser.AttlistDeclHandler = refuse
    parser.buffer_text = True
    parser.Parse(decode_xml(data), True)  # of multi-byte encodings expat itself knows UTF-8 and UTF-16 alone
    return stack[0].children[0]
