"""Reading pickles without running anything of them: tensors and plain values come back, all else as inert stand-ins.

Python's own module tells the instructions apart (pickletools); what each does is said here, and what it may cost is counted.
Nothing is imported, looked up or called by a name in the file: pickled_calls.py has all that a name can mean.
"""

from __future__ import annotations

import io
import pickletools
import sys
from collections.abc import Callable
from typing import Any, Protocol

from yolov9k.models.pickled_calls import Stored, call, referred, restore
from yolov9k.models.stand_ins import Damaged, Reference, Refused, StandIn

MAX_TEXT = 16 << 20  # bytes of one value
MAX_ODD_KEYS, MAX_LEAVES = 1_000, 64  # keys that are tuples or huge numbers, whose hashes a file can make equal; values in one


class Readable(Protocol):
    """What a pickle is read from."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


class _Bounded:
    """A file whose values are at most MAX_TEXT long: memory is taken for what is there, not for what is declared."""

    def __init__(self, file: Readable) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        if size > MAX_TEXT:
            raise Damaged(f"one of its values is {size:,} bytes long")
        return self.file.read(size)

    def readline(self) -> bytes:
        return self.file.readline(MAX_TEXT)


class Unpickler:
    """Runs the instructions of one pickle.

    storage: gives the numbers of a tensor by what the file calls them. room: bytes that plain values may take.
    """

    def __init__(self, file: Readable | bytes, storage: Callable[[Any], Stored | Any], room: int) -> None:
        self.file = _Bounded(io.BytesIO(file) if isinstance(file, bytes) else file)
        self.storage, self.room = storage, room
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.odd_keys = 0

    def load(self) -> Any:
        """What the pickle holds. Raises Damaged, Refused, and whatever a value of a wrong kind leads to."""
        for opcode, argument, _ in pickletools.genops(self.file):  # type: ignore[arg-type]
            name = opcode.name
            self.spend(_COSTS.get(name, 16))
            if name in _VALUES:
                self.spend(sys.getsizeof(argument))
                self.stack.append(argument)
            elif operation := _OPERATIONS.get(name):
                operation(self, argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise Damaged(f"its pickle has the instruction {name}, which no checkpoint's has")
        return self.stack.pop()

    def spend(self, cost: int) -> None:
        """Count the memory of a value before more of it is made."""
        self.room -= cost
        if self.room < 0:
            raise Damaged("its plain values take more memory than twice the file")

    def pop_mark(self) -> list[Any]:
        """The values since the last mark."""
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        self.spend(8 * len(values))
        return values

    def name(self, path: str) -> None:
        """Push what a name means."""
        if len(path) > 300 or not path.isprintable():
            raise Damaged("its pickle holds a name that is none")
        self.stack.append(referred(path))

    def make(self, function: Any, arguments: Any) -> None:
        """Push what a call gives, if it is one of those known."""
        if isinstance(function, StandIn):
            raise Refused(function.class_path)
        if not isinstance(function, Reference) or not isinstance(arguments, tuple):
            raise Damaged(f"its pickle calls a {type(function).__name__}")
        for key in _as_keys(function.path, arguments):
            self.check_key(key)
        value = call(function.path, arguments)
        self.spend(sys.getsizeof(value) + 300 * isinstance(value, StandIn))
        self.stack.append(value)

    def append(self, values: list[Any]) -> None:
        """Extend the list on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, StandIn):
            if target.items is None:
                target.items = []
            target = target.items
        if type(target) is not list:
            raise Damaged("its pickle appends to what is no list")
        self.spend(8 * len(values))
        target.extend(values)

    def set_items(self, values: list[Any], target: Any) -> None:
        """Set keys and values, one after another, in a dict."""
        if isinstance(target, StandIn):
            if target.items is None:
                target.items = {}
            target = target.items
        if not isinstance(target, dict) or len(values) % 2:
            raise Damaged("its pickle sets items of what is no table")
        self.spend(240 + 60 * len(values))
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.check_key(key)
            target[key] = value

    def add(self, values: list[Any], target: Any) -> None:
        """Add to a set."""
        if type(target) is not set:
            raise Damaged("its pickle adds to what is no set")
        self.spend(100 * len(values))
        for value in values:
            self.check_key(value)
            target.add(value)

    def check_key(self, key: Any) -> None:
        """Raise Damaged for keys that would take long to hash, or that are so many that their hashes may be made equal."""
        kind = type(key)
        if kind is str or kind is bool or key is None or (kind is int and -(2**60) < key < 2**60):
            return
        self.odd_keys += 1
        if self.odd_keys > MAX_ODD_KEYS:
            raise Damaged(f"more than {MAX_ODD_KEYS:,} keys of its tables are neither texts nor plain numbers")
        waiting, seen = [key], 0
        while waiting:
            part = waiting.pop()
            seen += 1
            if seen > MAX_LEAVES:
                raise Damaged("a key of its tables holds too many values")
            if isinstance(part, tuple | frozenset):
                waiting += list(part)[:MAX_LEAVES] if len(part) <= MAX_LEAVES else [None] * (MAX_LEAVES + 1)


def _as_keys(path: str, arguments: tuple[Any, ...]) -> list[Any]:
    """What a call is going to hash."""
    if not arguments or path not in ("builtins.set", "builtins.frozenset", "collections.OrderedDict", "collections.Counter"):
        return []
    first = arguments[0]
    if path == "collections.OrderedDict" and isinstance(first, list | tuple):
        return [pair[0] for pair in first]
    return list(first)


def _tuple_of(count: int) -> Callable[[Unpickler, Any], None]:
    def make(machine: Unpickler, _: Any) -> None:
        if len(machine.stack) < count:
            raise IndexError("pop from an empty stack")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return make


def _constant(make: Callable[[], Any]) -> Callable[[Unpickler, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _mark(machine: Unpickler, _: Any) -> None:
    machine.marks.append(len(machine.stack))


def _pop_mark(machine: Unpickler, _: Any) -> None:
    machine.pop_mark()


def _table(machine: Unpickler, _: Any) -> None:
    values: dict[Any, Any] = {}
    machine.set_items(machine.pop_mark(), values)
    machine.stack.append(values)


def _frozen_set(machine: Unpickler, _: Any) -> None:
    values: set[Any] = set()
    machine.add(machine.pop_mark(), values)
    machine.stack.append(frozenset(values))


def _set_item(machine: Unpickler, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value], machine.stack[-1])


def _set_items(machine: Unpickler, _: Any) -> None:
    values = machine.pop_mark()
    machine.set_items(values, machine.stack[-1])


def _add_items(machine: Unpickler, _: Any) -> None:
    values = machine.pop_mark()
    machine.add(values, machine.stack[-1])


def _put(machine: Unpickler, number: Any) -> None:
    machine.memo[len(machine.memo) if number is None else number] = machine.stack[-1]


def _get(machine: Unpickler, number: Any) -> None:
    machine.stack.append(machine.memo[number])


def _global(machine: Unpickler, names: str) -> None:
    machine.name(names.replace(" ", ".", 1))


def _stack_global(machine: Unpickler, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise Damaged("its pickle holds a name that is none")
    machine.name(f"{module}.{name}")


def _reduce(machine: Unpickler, _: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.make(function, arguments)


def _new_with_names(machine: Unpickler, _: Any) -> None:
    named, arguments, function = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    if not isinstance(arguments, tuple):
        raise Damaged("its pickle makes an object of what are no arguments")
    machine.make(function, (*arguments, named) if named else arguments)


def _object(machine: Unpickler, _: Any) -> None:
    function, *arguments = machine.pop_mark()
    machine.make(function, tuple(arguments))


def _instance(machine: Unpickler, names: str) -> None:
    arguments = tuple(machine.pop_mark())
    _global(machine, names)
    machine.make(machine.stack.pop(), arguments)


def _build(machine: Unpickler, _: Any) -> None:
    state = machine.stack.pop()
    restore(machine.stack[-1], state, machine.spend)


def _stored(machine: Unpickler, _: Any) -> None:
    machine.stack.append(machine.storage(machine.stack.pop()))


# Instructions whose argument is the value.
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
}  # fmt: skip
# Bytes that an instruction may take besides its argument, where these are more than a few: an entry of the memo, a container.
_COSTS = {
    "PUT": 128, "BINPUT": 128, "LONG_BINPUT": 128, "MEMOIZE": 128, "EMPTY_SET": 240, "FROZENSET": 240, "DICT": 80,
    "EMPTY_DICT": 80, "EMPTY_LIST": 80, "LIST": 80, "TUPLE": 64, "TUPLE1": 64, "TUPLE2": 72, "TUPLE3": 80, "GLOBAL": 200,
    "STACK_GLOBAL": 200, "INST": 200,
}  # fmt: skip
_OPERATIONS: dict[str, Callable[[Unpickler, Any], None]] = {
    "NONE": _constant(lambda: None), "NEWTRUE": _constant(lambda: True), "NEWFALSE": _constant(lambda: False),
    "EMPTY_TUPLE": _constant(tuple), "EMPTY_LIST": _constant(list), "EMPTY_DICT": _constant(dict), "EMPTY_SET": _constant(set),
    "TUPLE1": _tuple_of(1), "TUPLE2": _tuple_of(2), "TUPLE3": _tuple_of(3), "MARK": _mark, "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": _pop_mark, "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_mark())), "LIST": lambda m, _: m.stack.append(m.pop_mark()),
    "DICT": _table, "FROZENSET": _frozen_set, "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_mark()), "SETITEM": _set_item, "SETITEMS": _set_items, "ADDITEMS": _add_items,
    "PUT": _put, "BINPUT": _put, "LONG_BINPUT": _put, "MEMOIZE": _put, "GET": _get, "BINGET": _get, "LONG_BINGET": _get,
    "GLOBAL": _global, "STACK_GLOBAL": _stack_global, "REDUCE": _reduce, "NEWOBJ": _reduce, "NEWOBJ_EX": _new_with_names,
    "OBJ": _object, "INST": _instance, "BUILD": _build, "BINPERSID": _stored,
}  # fmt: skip
