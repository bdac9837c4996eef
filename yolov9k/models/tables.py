"""Layer tables of the ten published variants.

A row is [sources, module, *arguments]: a source is a layer's number or -1, the layer before; layer 0's -1 is the image.
The single-branch gelan-t/s/m/c are what remains of yolov9-t/s/m/c when the auxiliary branch goes, so they are derived.
"""

from __future__ import annotations

import difflib
import re
from pathlib import PurePath
from typing import Any, NamedTuple

from yolov9k.common.errors import shown

IMAGE = -1  # the network's input, as a source
MAX_LAYERS = 2_000
MAX_REPEATS = 1000  # of a layer's module, one after another
Row = list[Any]
UP: Row = [-1, "nn.Upsample", None, 2, "nearest"]


class LayerSpec(NamedTuple):
    """One layer: the absolute numbers of what it reads (IMAGE for the input), its module's name and arguments."""

    sources: tuple[int, ...]
    module: str
    args: tuple[Any, ...]
    repeats: int = 1


def checked_layer(number: int, sources: Any, module: Any, args: Any, repeats: Any) -> LayerSpec:
    """A layer from values of a file, numbers of layers absolute. Raises ValueError for values of another kind."""
    listed = sources if isinstance(sources, (list, tuple)) else ()
    before = bool(listed) and all(type(source) is int and IMAGE <= source < number for source in listed)
    named = isinstance(module, str) and len(module) <= 60 and module.isprintable()
    if not before or not named or not isinstance(args, (list, tuple)):
        raise ValueError(f"layer {number} is {shown([sources, module, args])}, expected [layers before it, module, arguments]")
    if type(repeats) is not int or not 1 <= repeats <= MAX_REPEATS:
        raise ValueError(f"layer {number} {shown(module)} has the number {shown(repeats)}, expected 1 to {MAX_REPEATS}")
    return LayerSpec(tuple(listed), module, tuple(args), repeats)


def absolute(rows: list[Row]) -> tuple[LayerSpec, ...]:
    """The layers that a table's rows say, their sources as absolute numbers."""
    layers = []
    for i, (sources, module, *args) in enumerate(rows):
        listed = sources if isinstance(sources, list) else [sources]
        layers.append(LayerSpec(tuple(i + s if s < 0 else s for s in listed), module, tuple(args)))
    return tuple(layers)


def _elan(width: int, inner: int, depth: int) -> Row:
    return [-1, "RepNCSPELAN4", width, inner, inner // 2, depth]


def _t_s(stem: int, p3: int, p4: int, p5: int) -> list[Row]:
    """yolov9-t and -s: the auxiliary branch (22-28) is a second top-down path over the backbone."""
    top_down = [
        [-1, "SPPELAN", p5, p5 // 2],
        UP, [[-1, 6], "Concat", 1], _elan(p4, p4, 3),
        UP, [[-1, 4], "Concat", 1], _elan(p3, p3, 3),
    ]  # fmt: skip
    return [
        [-1, "Conv", stem, 3, 2],  # 0, stride 2
        [-1, "Conv", 2 * stem, 3, 2],  # 1, stride 4
        [-1, "ELAN1", 2 * stem, 2 * stem, stem],
        [-1, "AConv", p3], _elan(p3, p3, 3),  # 3-4, stride 8
        [-1, "AConv", p4], _elan(p4, p4, 3),  # 5-6, stride 16
        [-1, "AConv", p5], _elan(p5, p5, 3),  # 7-8, stride 32
        *top_down,  # 9-15
        [-1, "AConv", p4 // 2], [[-1, 12], "Concat", 1], _elan(p4, p4, 3),  # 16-18
        [-1, "AConv", p5 // 2], [[-1, 9], "Concat", 1], _elan(p5, p5, 3),  # 19-21
        [8, *top_down[0][1:]], *top_down[1:],  # 22-28
        [[28, 25, 22, 15, 18, 21], "DualDDetect", "nc"],
    ]  # fmt: skip


def _m_c(
    down: str, stem: int, s2: tuple[int, int], s3: tuple[int, int], p4: int, p5: int,
    downs: tuple[int, int, int], n3: int, bottom_up: tuple[int, int],
) -> list[Row]:  # fmt: skip
    """yolov9-m and -c: the auxiliary branch (23-37) is a second backbone, fed by CBLinear and CBFuse."""
    d3, d4, d5 = downs
    return [
        [-1, "Silence"],
        [-1, "Conv", stem, 3, 2],  # 1, stride 2
        [-1, "Conv", 2 * stem, 3, 2], _elan(*s2, 1),  # 2-3, stride 4
        [-1, down, d3], _elan(*s3, 1),  # 4-5, stride 8
        [-1, down, d4], _elan(p4, p4, 1),  # 6-7, stride 16
        [-1, down, d5], _elan(p5, p5, 1),  # 8-9, stride 32
        [-1, "SPPELAN", p5, p5 // 2],  # 10
        UP, [[-1, 7], "Concat", 1], _elan(p4, p4, 1),  # 11-13
        UP, [[-1, 5], "Concat", 1], _elan(n3, n3, 1),  # 14-16
        [-1, down, bottom_up[0]], [[-1, 13], "Concat", 1], _elan(p4, p4, 1),  # 17-19
        [-1, down, bottom_up[1]], [[-1, 10], "Concat", 1], _elan(p5, p5, 1),  # 20-22
        [5, "CBLinear", [d3]], [7, "CBLinear", [d3, d4]], [9, "CBLinear", [d3, d4, d5]],  # 23-25
        [0, "Conv", stem, 3, 2],  # 26
        [-1, "Conv", 2 * stem, 3, 2], _elan(*s2, 1),  # 27-28
        [-1, down, d3], [[23, 24, 25, -1], "CBFuse", [0, 0, 0]], _elan(*s3, 1),  # 29-31
        [-1, down, d4], [[24, 25, -1], "CBFuse", [1, 1]], _elan(p4, p4, 1),  # 32-34
        [-1, down, d5], [[25, -1], "CBFuse", [2]], _elan(p5, p5, 1),  # 35-37
        [[31, 34, 37, 16, 19, 22], "DualDDetect", "nc"],
    ]  # fmt: skip


def _e_backbones() -> list[Row]:
    """Layers 0-28 of the e variants: two backbones, the second fed by all levels of the first."""
    widths = [64, 128, 256, 512, 1024]
    first: list[Row] = [
        [-1, "Silence"],
        [-1, "Conv", 64, 3, 2],  # 1, stride 2
        [-1, "Conv", 128, 3, 2], _elan(256, 128, 2),  # 2-3, stride 4
        [-1, "ADown", 256], _elan(512, 256, 2),  # 4-5, stride 8
        [-1, "ADown", 512], _elan(1024, 512, 2),  # 6-7, stride 16
        [-1, "ADown", 1024], _elan(1024, 512, 2),  # 8-9, stride 32
    ]  # fmt: skip
    routes: list[Row] = [[source, "CBLinear", widths[: i + 1]] for i, source in enumerate((1, 3, 5, 7, 9))]  # 10-14
    second: list[Row] = [
        [0, "Conv", 64, 3, 2], [[10, 11, 12, 13, 14, -1], "CBFuse", [0, 0, 0, 0, 0]],  # 15-16
        [-1, "Conv", 128, 3, 2], [[11, 12, 13, 14, -1], "CBFuse", [1, 1, 1, 1]], _elan(256, 128, 2),  # 17-19
        [-1, "ADown", 256], [[12, 13, 14, -1], "CBFuse", [2, 2, 2]], _elan(512, 256, 2),  # 20-22
        [-1, "ADown", 512], [[13, 14, -1], "CBFuse", [3, 3]], _elan(1024, 512, 2),  # 23-25
        [-1, "ADown", 1024], [[14, -1], "CBFuse", [4]], _elan(1024, 512, 2),  # 26-28
    ]  # fmt: skip
    return [*first, *routes, *second]


def _e_neck(start: int, source: int, skips: tuple[int, int], bottom_up: bool = True) -> list[Row]:
    """Top-down path, and bottom-up path, over levels `source` and `skips`; `start` is the first layer's number."""
    top_down: list[Row] = [
        [source, "SPPELAN", 512, 256],
        UP, [[-1, skips[0]], "Concat", 1], _elan(512, 512, 2),
        UP, [[-1, skips[1]], "Concat", 1], _elan(256, 256, 2),
    ]  # fmt: skip
    if not bottom_up:
        return top_down
    return [
        *top_down,
        [-1, "ADown", 256], [[-1, start + 3], "Concat", 1], _elan(512, 512, 2),
        [-1, "ADown", 512], [[-1, start], "Concat", 1], _elan(512, 1024, 2),
    ]  # fmt: skip


DUAL: dict[str, list[Row]] = {
    "yolov9-t": _t_s(16, 64, 96, 128),
    "yolov9-s": _t_s(32, 128, 192, 256),
    "yolov9-m": _m_c("AConv", 32, (128, 128), (240, 240), 360, 480, (240, 360, 480), 240, (180, 240)),
    "yolov9-c": _m_c("ADown", 64, (256, 128), (512, 256), 512, 512, (256, 512, 512), 256, (256, 512)),
    "yolov9-e": [
        *_e_backbones(),
        *_e_neck(29, 9, (7, 5), bottom_up=False),
        *_e_neck(36, 28, (25, 22)),
        [[35, 32, 29, 42, 45, 48], "DualDDetect", "nc"],
    ],
}
GELAN_E: list[Row] = [*_e_backbones(), *_e_neck(29, 28, (25, 22)), [[35, 38, 41], "DDetect", "nc"]]
NAMES = (*DUAL, *(name.replace("yolov9", "gelan") for name in DUAL))

_ALIKE = re.compile(r"(?:(?:libre)?yolo[-_ ]?v?9|v9|(gelan))[-_ ]?([tsmce])(?:[-_]converted)?")


def likely_name(text: str) -> str:
    """The variant that a mistyped name means, such as yolov9c, v9-c, YOLOv9-C or yolov9c.pt; empty where none is near."""
    name = PurePath(text).name[:100].lower()
    name = re.sub(r"\.(pt|pth|ckpt|safetensors|ya?ml)$", "", name)
    if match := _ALIKE.fullmatch(name):
        return f"{match[1] or 'yolov9'}-{match[2]}"
    return next(iter(difflib.get_close_matches(name, NAMES, 1, cutoff=0.9)), "")  # yolov9-x is no slip of the fingers
