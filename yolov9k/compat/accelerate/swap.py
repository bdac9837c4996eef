"""Give a live object a class of ours that knows its own: nothing else of it changes.

The new class is a subclass of the old one with the same name. Parameters, buffers, hooks, keys of state dicts and `isinstance`
hold therefore. A pickle names the old class alone, so it opens where this package is absent; a deep copy (an average of the
weights, say) keeps the new one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

STATE = "_yolov9k"  # key in the object's __dict__ under which what the new class keeps lies; neither copied nor pickled


class Swapped:
    """What every swapped class has beside its original. No slots: Python exchanges classes of one layout alone."""

    original: ClassVar[type]

    # pickle holds what is asked of an object to its `__class__`; assignments go where they always went
    __class__ = property(lambda self: self.original, lambda self, value: _set_class(self, value))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As the original class pickles, under the original's name."""
        reduced: Any = super().__reduce_ex__(protocol)
        made, arguments, *rest = reduced
        arguments = tuple(self.original if argument is type(self) else argument for argument in arguments)
        return (made, arguments, *(_without_ours(part) for part in rest))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(_without_ours(self.__dict__), memo))
        return twin


def _set_class(target: Any, value: type) -> None:
    vars(object)["__class__"].__set__(target, value)


def _without_ours(state: Any) -> Any:
    return {key: value for key, value in state.items() if key != STATE} if isinstance(state, dict) else state


def swap(target: Any, mixin: type[Swapped], methods: dict[str, Callable[..., Any]], **facts: Any) -> None:
    """Turn `target` into an instance of a new class: `mixin` and `methods` over its own.

    facts: attributes of the new class. An instance's own `forward`, bound to a method by name, is bound anew.
    """
    _set_class(target, swapped(type(target), mixin, methods, **facts))
    _rebind(target)


def swapped(original: type, mixin: type[Swapped], methods: dict[str, Callable[..., Any]], **facts: Any) -> type:
    """The class of `swap`: `mixin`, `methods` and `facts` over the original's own."""
    body = {"__module__": original.__module__, "__qualname__": original.__qualname__, "__doc__": original.__doc__}
    return type(original.__name__, (mixin, original), {**body, **methods, **facts, "original": original})


def unswap(target: Any) -> None:
    """Give a swapped object its own class back."""
    if isinstance(target, Swapped):
        target.__dict__.pop(STATE, None)
        _set_class(target, target.original)
        _rebind(target)


def _rebind(target: Any) -> None:
    """Methods kept in the instance (`m.forward = m.forward_fuse`) are those of the class that it has now."""
    for key, value in list(target.__dict__.items()):
        if getattr(value, "__self__", None) is target and hasattr(value, "__func__"):
            target.__dict__[key] = getattr(target, value.__func__.__name__)
