"""From a checkpoint's content to its tensors by bare keys, wherever they are and however often they are wrapped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from yolov9k.common.errors import UserError
from yolov9k.compat.weights import Held, State
from yolov9k.models.stand_ins import StandIn, state_dict_of

# Where weights are, the average before the rest; a table may hold another one.
_PLACES = ("ema", "model_ema", "ema_state_dict", "model", "state_dict", "model_state_dict", "module", "weights")
# What wrappers put before a model's keys: DistributedDataParallel, torch.compile, Lightning, averages.
_WRAPPED = re.compile(r"(?:(?:module|_orig_mod|model|ema|ema_model|net)\.)*")


def hold(path: str | Path, content: Mapping[str, Any]) -> Held:
    """The tensors of a file and the facts beside them. Raises UserError where it has no tensors."""
    found = _weights(content)
    if isinstance(found, StandIn):
        tensors, facts = state_dict_of(found, path), {str(key): value for key, value in found.state.items()}
        facts["package"] = found.class_path
        classes = frozenset(part.class_path.rpartition(".")[2] for part in _parts(found))
        facts["eps"] = {part.state.get("eps") for part in _parts(found) if part.class_path.endswith("BatchNorm2d")}
    else:
        tensors, facts, classes = _tensors(found), dict(content), frozenset[str]()
    if not tensors:
        raise UserError(f"{path}: holds no weights; give a checkpoint of a trained model")
    return Held(str(path), _unwrapped(tensors), facts, classes)


def _weights(content: Mapping[str, Any], depth: int = 0) -> StandIn | Mapping[str, Any]:
    """The module or the table of tensors in a file's content, itself where it is one."""
    for place in _PLACES if depth < 3 else ():
        found = content.get(place)
        if isinstance(found, StandIn) and found.state.get("_modules"):
            return found
        if isinstance(found, Mapping) and found and (_tensors(_weights(found, depth + 1)) or _is_module(found, depth)):
            return _weights(found, depth + 1)
    return content


def _is_module(content: Mapping[str, Any], depth: int) -> bool:
    return isinstance(_weights(content, depth + 1), StandIn)


def _tensors(found: object) -> State:
    given = found if isinstance(found, Mapping) else {}
    return {key: value for key, value in given.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _parts(module: StandIn) -> Iterator[StandIn]:
    """A pickled module and all within it."""
    waiting, seen = [module], set[int]()
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            inner = part.state.get("_modules")
            waiting += [value for value in inner.values() if isinstance(value, StandIn)] if isinstance(inner, Mapping) else []


def _unwrapped(tensors: State) -> State:
    """The tensors without the wrappers' prefixes: those of the average where there are two models, as Lightning saves them."""
    groups: dict[str, State] = {}
    for key, tensor in tensors.items():
        match = _WRAPPED.match(key)
        prefix = match[0] if match else ""
        groups.setdefault(prefix, {})[key[len(prefix) :]] = tensor
    largest = max(len(group) for group in groups.values())
    averages = [group for prefix, group in groups.items() if "ema" in prefix and len(group) == largest]
    return averages[0] if averages else next(group for group in groups.values() if len(group) == largest)
