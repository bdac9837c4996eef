"""accelerate: what of a live model computes what our kernels compute runs by them from then on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from yolov9k.common.errors import UserError
from yolov9k.compat.accelerate import head
from yolov9k.compat.accelerate.modules import AcceleratedModule, methods_of, view_of
from yolov9k.compat.accelerate.probe import agrees
from yolov9k.compat.accelerate.swap import Swapped, swap, unswap
from yolov9k.compat.accelerate.views import guesses
from yolov9k.models.block import Block

_HOLDERS = ("model", "net", "network", "module")  # where an object that is no module may keep its network


class Acceleration:
    """What was done to a model. As a context manager it undoes that at the end.

    replaced: name of each module that runs by our kernels, and as what. left: name of each that does not, and why; parts of
    a replaced one are in neither.
    """

    def __init__(self) -> None:
        self.replaced: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self._undo: list[Callable[[], object]] = []
        self._seen: list[Any] = []
        self.known: dict[tuple[type, str], Any] = {}  # what was found out about modules of one class and signature

    def swap(self, name: str, kind: str, target: Any, *arguments: Any, **facts: Any) -> None:
        """Swap an object's class and note it under its name."""
        swap(target, *arguments, **facts)
        self.on_restore(lambda: unswap(target))
        self.replaced[name] = kind

    def patch(self, name: str, kind: str, owner: Any, attribute: str, value: Any) -> None:
        """Put a function in another's place and note it."""
        self.on_restore(functools.partial(setattr, owner, attribute, getattr(owner, attribute)))
        setattr(owner, attribute, value)
        self.replaced[name] = kind

    def has_seen(self, part: Any) -> bool:
        """Whether this object has been looked at before; from now on it has."""
        seen = any(part is other for other in self._seen)
        self._seen += [] if seen else [part]
        return seen

    def on_restore(self, undo: Callable[[], object]) -> None:
        """What `restore` has to do, the last first."""
        self._undo.append(undo)

    def restore(self) -> None:
        """Give everything that was replaced its own class back."""
        self._seen.clear()
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def __str__(self) -> str:
        """A line for each kind that was replaced, and one for each module that was left."""
        kinds: dict[str, int] = {}
        for kind in self.replaced.values():
            kinds[kind] = kinds.get(kind, 0) + 1
        lines = [f"replaced {count} x {kind}" for kind, count in kinds.items()] or ["replaced nothing"]
        return "\n".join([*lines, *(f"left {name or 'the model itself'}: {why}" for name, why in self.left.items())])


def accelerate(model: Any, backend: str = "auto") -> Acceleration:
    """Let our kernels run what they can of another implementation's model, in place.

    model: a torch module, or an object whose `.model` is one: of Ultralytics, LibreYOLO, the MIT rewrite, the published
    code, or anything made of such blocks. A module is told by its parts and by its numbers: in float64, with weights drawn
    anew, it must give our block's output, statistics and gradients, in training and evaluation; nothing is told by a name.
    Its class is exchanged for a subclass of the same name: parameters, state-dict keys, hooks and `isinstance` stay as they
    are. A deep copy is accelerated too; a pickle holds the original classes and opens without this package.

    backend: of the blocks. "auto" runs them on a GPU and leaves a CPU to the model's own code, which was measured to be faster
    there; "cpu" runs our compiled BatchNorm and SiLU, "reference" plain torch. Returns what was replaced and what was left,
    with reasons. Raises UserError for what holds no torch module.
    """
    found = Acceleration()
    accelerate_module(network_of(model), found, backend)
    return found


def accelerate_module(network: nn.Module, found: Acceleration, backend: str, prefix: str = "") -> None:
    """Replace what is recognized of a module, and note it under names that begin with `prefix`."""
    signatures: dict[int, str] = {}
    for name, module in _parts_first(network):
        if isinstance(module, (Block, Swapped)) or _is_container(module):
            continue
        guess = _recognized(module, found.known, signatures)
        if guess is not None:
            facts = {"make_view": guess.make, "backend": backend}
            found.swap(prefix + name, guess.kind, module, AcceleratedModule, methods_of(type(module)), **facts)
            view_of(module)
        elif (seen := head.facts_of(module)) is not None:
            found.swap(prefix + name, "head decode", module, head.AcceleratedHead, {}, backend=backend, **seen)
    found.left |= {prefix + name: why for name, why in _left(network).items()}


def network_of(model: Any) -> nn.Module:
    """The module that `model` is or holds. Raises UserError for none."""
    holder = model
    for _ in range(4):
        if isinstance(holder, nn.Module):
            return holder
        parts = [getattr(holder, name, None) for name in _HOLDERS]
        holder = next((part for part in parts if part is not None and not isinstance(part, str)), None)
    raise UserError(f"accelerate: expected a torch module or an object whose .model is one, got {type(model).__name__}")


def _parts_first(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, after all that it is made of."""
    yield from reversed(list(network.named_modules()))


def _is_container(module: nn.Module) -> bool:
    """Whether this is one of torch's own: a convolution, a chain or a list of modules."""
    return type(module).__module__.startswith("torch.nn.")


def _recognized(module: nn.Module, known: dict[tuple[type, str], Any], signatures: dict[int, str]) -> Any:
    """The guess that the numbers bear out, None for none; asked once for all modules of one class and structure."""
    if hasattr(type(module), "__deepcopy__"):  # a way of its own of being copied, which ours would replace
        return None
    key = type(module), _signature(module, signatures)
    if key not in known:
        known[key] = next((guess for guess in guesses(module) if agrees(module, guess)), None)
    return known[key]


def _signature(module: nn.Module, signatures: dict[int, str]) -> str:
    """A digest of the classes, sizes and plain settings of a module and all its parts; those of parts are kept by their id."""
    if id(module) not in signatures:
        simple = (bool, int, float, str, tuple, type(None))
        settings = {key: value for key, value in module.__dict__.items() if isinstance(value, simple) and key != "training"}
        parts = [(name, part and _signature(part, signatures)) for name, part in module._modules.items()]
        text = f"{type(module).__module__}.{type(module).__qualname__} {module.extra_repr()} {settings} {parts}"
        signatures[id(module)] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return signatures[id(module)]


def _left(network: nn.Module) -> dict[str, str]:
    """What is neither replaced nor part of what is, containers and what holds no tensors aside."""
    covered: tuple[str, ...] = ()
    left = {}
    for name, module in network.named_modules():
        if name.startswith(covered) and covered:
            continue
        if isinstance(module, (AcceleratedModule, Block)):
            covered += (f"{name}." if name else "",)
            if isinstance(module, Block):
                left[name] = "ours already"
        elif isinstance(module, Swapped):
            continue  # a head: what is left of its towers is listed
        elif any(True for _ in module.parameters(recurse=False)) or not (_is_container(module) or _is_free(module)):
            left[name] = f"{type(module).__name__}: {_why(module)}"
    return left


def _is_free(module: nn.Module) -> bool:
    """Whether a module has no tensors at all: it costs no kernel of its own."""
    return not any(True for _ in module.parameters()) and not any(True for _ in module.buffers())


def _why(module: nn.Module) -> str:
    if _is_container(module):
        return "torch's own, outside of a block that we know"
    if any(isinstance(part, (Swapped, Block)) for part in module.modules()):
        return "no block of ours; parts of it were replaced"
    return "no block of ours"
