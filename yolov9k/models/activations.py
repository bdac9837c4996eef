"""Activations that a model file may ask for."""

from __future__ import annotations

import ast
import re

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    name: getattr(nn, name) for name in ("SiLU", "ReLU", "LeakyReLU", "ReLU6", "Hardswish", "GELU", "Mish", "ELU", "Identity")
}


def make_activation(text: str) -> nn.Module:
    """The module that a text like "nn.LeakyReLU(0.1)" names. The text is parsed, never executed. Raises ValueError."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body if isinstance(text, str) else None
        call = tree if isinstance(tree, ast.Call) else ast.Call(func=tree, args=[], keywords=[])
        name = re.fullmatch(r"(?:torch\.)?(?:nn\.)?(\w+)", ast.unparse(call.func))
        args = [ast.literal_eval(arg) for arg in call.args]
        options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, AttributeError, MemoryError, RecursionError):
        name = None
    if name is None or name[1] not in ACTIVATIONS:
        raise ValueError(f"unknown activation {text!r}")
    options.pop("inplace", None)  # a backward may need what it would overwrite
    return ACTIVATIONS[name[1]](*args, **options)
