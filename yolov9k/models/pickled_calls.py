"""All that a name in a pickle can mean: tensors, arrays and plain values are made here, other classes give stand-ins.

A tensor is held against the numbers that are stored for it before it is made: torch would enlarge them to what a file declares.
"""

from __future__ import annotations

import datetime
import math
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolov9k.models.stand_ins import Damaged, Reference, Refused, StandIn

MAX_DIMS = 32


@dataclass(frozen=True)
class Stored:
    """The numbers behind tensors: their bytes, how many values of `dtype` they are, and the size of the whole file."""

    data: torch.UntypedStorage
    dtype: torch.dtype
    count: int
    file_size: int


_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_LAYOUTS = {str(value): value for value in vars(torch).values() if isinstance(value, torch.layout)}
_SCHEMES = {
    str(value): value for value in (torch.per_tensor_affine, torch.per_tensor_symmetric, torch.per_channel_affine,
                                    torch.per_channel_symmetric, torch.per_channel_affine_float_qparams)
}  # fmt: skip
# Names of Python 2, in which pickles up to protocol 2 are written, and those that numpy has moved.
_RENAMED = {**IMPORT_MAPPING, "numpy.core.multiarray": "numpy._core.multiarray", "numpy.core.numeric": "numpy._core.numeric"}
# Modules whose classes do something to the machine: a checkpoint that makes one is none.
_HOSTILE = re.compile(
    r"(builtins|os|posix|nt|sys|subprocess|importlib|runpy|pty|socket|shutil|ctypes|code|codeop|pickle|marshal|webbrowser|signal"
    r"|multiprocessing|threading|asyncio|concurrent|tempfile|ftplib|http|urllib|requests|pip|timeit|pdb|bdb|cProfile|profile"
    r"|trace|torch\.hub|torch\.jit|torch\.utils\.cpp_extension)\."
)


def referred(path: str) -> Any:
    """What a name means by itself: torch's own constants, else a Reference."""
    module, _, name = path.rpartition(".")
    module, name = NAME_MAPPING.get((module, name), (_RENAMED.get(module, module), name))
    path = f"{module}.{name}"
    constant = _DTYPES.get(path, _SCHEMES.get(path))
    return Reference(path) if constant is None else constant


def call(path: str, arguments: tuple[Any, ...]) -> Any:
    """What a call of a name gives. Raises Refused for a function that is none of those known, Damaged for wrong arguments."""
    if make := _CALLS.get(path):
        return make(*arguments)
    if path == "builtins.getattr" and len(arguments) == 2:
        return _attribute(*arguments)
    if path == "copyreg._reconstructor" and arguments and isinstance(arguments[0], Reference):
        return _object_of(arguments[0].path, arguments[1:])
    return _object_of(path, arguments)


def _attribute(owner: Any, name: Any) -> StandIn:
    """A method of a fused module, or a member of an enumeration: its name, by which nothing is looked up."""
    path = owner.class_path if isinstance(owner, StandIn) else owner.path if isinstance(owner, Reference) else ""
    if not isinstance(name, str) or not name.isidentifier() or not _is_class(path):
        raise Refused("builtins.getattr")
    return StandIn(f"{path}.{name[:100]}", (owner,))


def _object_of(path: str, arguments: tuple[Any, ...]) -> StandIn:
    """A stand-in where a name is a class's by the custom of capitals: more cannot be known without importing it."""
    if not _is_class(path) and path not in _LOWER_CLASSES:
        raise Refused(path)
    return StandIn(path, arguments)


def _is_class(path: str) -> bool:
    return path.rpartition(".")[2].lstrip("_")[:1].isupper() and not _HOSTILE.match(path)


def restore(target: Any, state: Any, spend: Callable[[int], None]) -> None:
    """Give an object the state that a pickle tells. Raises Damaged for an object that has none."""
    if isinstance(target, StandIn):
        attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        if isinstance(attributes, Mapping | None) and isinstance(slots, Mapping | None):
            both = {**(attributes or {}), **(slots or {})}
        else:
            both = {"": state}
        spend(240 + 100 * len(both))
        target.state.update(both)
    elif isinstance(target, np.ndarray) and isinstance(state, tuple) and len(state) == 5:
        _fill(target, *state[1:])
    elif isinstance(target, np.dtype):
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise Damaged("an array in it is of another order of bytes")
    elif not isinstance(target, Tensor | OrderedDict):  # a state dict's notes of versions, a parameter's attributes
        raise Damaged(f"its pickle gives a {type(target).__name__} a state")


def _int(*values: Any) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value < 2**62:
            raise Damaged("a tensor's size, stride or offset is no number")


def _tensor(stored: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of stored numbers, as torch._utils._rebuild_tensor_v2 makes it, without gradient or hooks."""
    return _view(stored, None, offset, size, stride)


def _tensor_v2(stored: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, notes: Any = None) -> Tensor:
    tensor = _view(stored, None, offset, size, stride)
    if isinstance(notes, Mapping) and notes.get("conj"):
        tensor = tensor.conj()
    return torch._neg_view(tensor) if isinstance(notes, Mapping) and notes.get("neg") else tensor


def _tensor_v3(stored: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any) -> Tensor:
    return _view(stored, dtype, offset, size, stride)


def _view(stored: Any, dtype: torch.dtype | None, offset: Any, size: Any, stride: Any) -> Tensor:
    if not isinstance(stored, Stored) or not isinstance(dtype, torch.dtype | None):
        raise Damaged("a tensor in it is made of no stored numbers")
    dtype = dtype or stored.dtype
    _check_view(offset, size, stride, stored.data.nbytes() // dtype.itemsize, stored.file_size)
    return torch.empty(0, dtype=dtype).set_(stored.data, offset, size, stride)


def _check_view(offset: Any, size: Any, stride: Any, held: int, most: int) -> None:
    """Raise Damaged unless a tensor lies within its `held` stored values, and has at most as many as the file has bytes."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > MAX_DIMS:
        raise Damaged("a tensor's size and stride do not go together")
    _int(offset, *size, *stride)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else offset - 1
    if last >= held or math.prod(size) > most:
        raise Damaged(f"a tensor of {' x '.join(map(str, size))} is larger than the {held:,} values stored for it")


def _parameter(tensor: Any, *_: Any) -> Any:
    """The numbers of a parameter: whether it was to be trained is for who takes them to say."""
    return tensor


def _subclass(function: Any, _kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes, or of a class of its own: the tensor."""
    if not isinstance(function, Reference) or not isinstance(arguments, tuple) or not function.path.startswith("torch._utils."):
        raise Damaged("a tensor in it is made of no stored numbers")
    return call(function.path, arguments)


def _sparse(layout: Any, data: Any) -> Tensor:
    if not isinstance(data, tuple) or not all(isinstance(part, Tensor) for part in data[:2]):
        raise Damaged("a sparse tensor in it has no values")
    if layout == torch.sparse_coo:
        return torch.sparse_coo_tensor(*data[:3], check_invariants=False)
    return torch.sparse_compressed_tensor(*data[:4], layout=layout, check_invariants=False)


def _quantized(stored: Any, offset: Any, size: Any, stride: Any, scheme: Any, *_: Any) -> Tensor:
    """Without its scales: who needs the numbers refuses it by its kind."""
    if not isinstance(stored, Stored):
        raise Damaged("a tensor in it is made of no stored numbers")
    _check_view(offset, size, stride, stored.count, stored.file_size)
    empty = torch._empty_affine_quantized((0,), scale=1.0, zero_point=0, dtype=stored.dtype)
    return empty.set_(stored.data, offset, size, stride)


def _without_values(dtype: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    _int(*size, *stride)
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")


def _layout(name: Any) -> Any:
    return _LAYOUTS[name]


def _bytes(text: Any = b"", encoding: Any = "latin1") -> bytes:
    """Bytes, which older pickles hold as text."""
    if isinstance(text, bytes | bytearray):
        return bytes(text)
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("_codecs.encode")
    return text.encode("latin1")


def _listed(values: Any = (), *_: Any) -> list[Any]:
    if not isinstance(values, list | tuple):
        raise Damaged("a list in it is none")
    return list(values)


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    if not isinstance(pairs, list | tuple | dict):
        raise Damaged("a table in it is none")
    return OrderedDict(pairs)


def _default(*_: Any) -> dict[Any, Any]:
    return {}


def _counted(counts: Any = None) -> Counter[Any]:
    if not isinstance(counts, dict | None):
        raise Damaged("a table in it is none")
    return Counter(counts)


def _dtype(name: Any, *_: Any) -> np.dtype[Any]:
    """A dtype of plain numbers or texts; one of objects would be a pickle in the pickle."""
    if not isinstance(name, str) or not re.fullmatch(r"[<|=]?[biufcSU]\d{1,3}", name):
        raise Damaged("an array in it is of no plain numbers")
    return np.dtype(name)


def _scalar(dtype: Any, data: Any) -> Any:
    return _array_of(data, dtype, (1,))[0]


def _array(_kind: Any, _shape: Any, _dtype: Any) -> np.ndarray[Any, Any]:
    """An empty array, filled where its state comes."""
    return np.empty(0, np.uint8)


def _fill(target: np.ndarray[Any, Any], shape: Any, dtype: Any, fortran: Any, data: Any) -> None:
    plain = _array_of(data, dtype, shape)  # checks them
    state: Any = (1, plain.shape, plain.dtype, bool(fortran), _bytes(data))
    target.__setstate__(state)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    return _array_of(data, dtype, shape).reshape(-1).reshape(shape, order="F" if order == "F" else "C")


def _array_of(data: Any, dtype: Any, shape: Any) -> np.ndarray[Any, Any]:
    raw = _bytes(data)
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(shape, tuple):
        raise Damaged("an array in it is of no plain numbers")
    _int(*shape)
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise Damaged("an array in it is larger than what is stored for it")
    return np.frombuffer(raw, dtype).reshape(shape) if raw else np.empty(shape, dtype)


def _plain(make: Callable[..., Any], *kinds: type) -> Callable[..., Any]:
    """A maker of plain values, given arguments of some kinds alone."""

    def made(*arguments: Any) -> Any:
        if not all(type(argument) in kinds for argument in arguments):
            raise Damaged(f"a {getattr(make, '__name__', 'value')} in it is made of what is none")
        return make(*arguments)

    return made


# Functions of torch, numpy and Python, and what is done in their place.
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor, "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3, "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter, "torch.nn.parameter.Parameter": _parameter,
    "torch.nn.parameter.Buffer": _parameter, "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch._utils._rebuild_sparse_tensor": _sparse, "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_meta_tensor_no_storage": _without_values, "torch.serialization._get_layout": _layout,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
    "torch.Size": _plain(torch.Size, tuple, list), "torch.device": _plain(torch.device, str, int),
    "numpy.dtype": _dtype, "numpy._core.multiarray.scalar": _scalar, "numpy._core.multiarray._reconstruct": _array,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _bytes, "builtins.bytes": _bytes, "builtins.bytearray": lambda *a: bytearray(_bytes(*a)),
    "builtins.complex": _plain(complex, int, float), "builtins.set": lambda *a: set(_listed(*a)),
    "builtins.frozenset": lambda *a: frozenset(_listed(*a)), "collections.OrderedDict": _ordered,
    "collections.defaultdict": _default, "collections.Counter": _counted, "collections.deque": _listed,
    "datetime.datetime": _plain(datetime.datetime, bytes, int, datetime.timezone),
    "datetime.date": _plain(datetime.date, bytes, int),
    "datetime.time": _plain(datetime.time, bytes, int), "datetime.timedelta": _plain(datetime.timedelta, int),
    "datetime.timezone": _plain(datetime.timezone, datetime.timedelta, str),
}  # fmt: skip
# Classes whose names look like functions', and functions that only describe a type.
_LOWER_CLASSES = {
    "functools.partial",
    "ultralytics.nn.modules.head.v10Detect",
    "operator.getitem",
    "operator.or_",
    "datetime.tzinfo",
    "builtins.slice",
    "builtins.range",
    "builtins.object",
}
