"""Writing pickled modules of classes that are not installed: a file names a class, and whoever has it finds it by that name."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from yolov9k.common.files import write_atomically


class Named(nn.Module):
    """A module of a class that a file names by `path`, such as "models.common.Conv"."""

    path = ""

    def __init__(self, modules: Mapping[str, nn.Module | None], attributes: Mapping[str, Any]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.__dict__.update(attributes)


@functools.cache
def _class_of(path: str) -> type[Named]:
    module, _, name = path.rpartition(".")
    return type(name, (Named,), {"__module__": module, "path": path})


def named(path: str, modules: Mapping[str, nn.Module | None] | None = None, **attributes: Any) -> Named:
    """An instance of the class at `path`: its submodules, and its other attributes."""
    return _class_of(path)(modules or {}, attributes)


_Python: Any = pickle._Pickler  # the one in Python: its way of naming classes can be changed


class _Pickler(_Python):  # type: ignore[misc]
    def save_global(self, obj: Any, name: str | None = None) -> None:
        path = obj.__dict__.get("path", "") if isinstance(obj, type) and issubclass(obj, Named) else ""
        if path:
            module, _, own = path.rpartition(".")
            self.write(pickle.GLOBAL + f"{module}\n{own}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def write_pickle(path: Path, content: Any) -> None:
    """Save as torch.save does, with `named` modules under the names of their classes. Raises UserError naming the file."""
    write_atomically(path, lambda temporary: _save(content, temporary))


def _save(content: Any, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(content, file, pickle_module=SimpleNamespace(__name__="pickle", Pickler=_Pickler))
