"""Augmented images: layers on canvases, seen through matrices, mixed and recolored in one pass.

The augmentations are those of arXiv 2402.13616, appendix A, table 1: mosaic, affine and perspective views, flips, copy and
paste, mix-up, and gains of hue, saturation and value.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from yolov9k.common.checks import expect, expect_device, expect_dtype, expect_shape
from yolov9k.common.device import is_cpu
from yolov9k.native import augment as run_native
from yolov9k.ops.backends import choose
from yolov9k.ops.library import define
from yolov9k.ops.reference import augment as reference
from yolov9k.ops.registry import Operator, register

DTYPES = (torch.uint8, torch.float32, torch.bfloat16, torch.float16)
LAYER = 8  # columns of `layers`


def augment(
    pixels: Tensor | Sequence[Tensor],
    layers: Tensor,
    ranges: Tensor,
    matrices: Tensor,
    mix_weights: Tensor,
    hsv_gains: Tensor,
    size: tuple[int, int],
    dtype: torch.dtype = torch.uint8,
    channels_last: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Make images [B, 3, height, width], RGB, of `size` (height, width), from decoded ones.

    A sample shows one view or a mixture of two. A view is a canvas, gray (114) wherever no layer lies, seen through a
    matrix. A layer is an image at a whole pixel of the canvas: a tile of a mosaic, a letterboxed image, or an object
    that is pasted in, with a mask. Later layers hide earlier ones.

    pixels: uint8 [N], all images, each rows of BGR pixels, and all masks, each rows of bytes (not 0: opaque); or several
    such, through which starts count as if they were one: the compiled backend reads them where they lie.
    layers: int64 [L, 8], each (start of its image in pixels, height, width, left, top, start of its mask or -1: opaque,
    bytes from one row of the image to the next, the same of the mask).
    ranges: int64 [B, 2, 2], the layers of either view: from the first, up to and without the second number.
    matrices: float32 [B, 2, 3, 3], from the center of output pixel (x, y), counted from 0, to the canvas, where a whole
    number is a pixel's center too; flips, scale and rotation are all in there. Where the third coordinate is 0 there is gray.
    mix_weights: float32 [B], of the first view in the mixture; 1: the second view is not looked at.
    hsv_gains: float32 [B, 3], 0 to 2, by which OpenCV's hue, saturation and value (8 bits) are multiplied, rounded down; hue
    goes round, the others end at 255. All three 1: colors stay as they are.
    dtype: torch.uint8, or a floating one for values in 0..1. channels_last: the memory format of the result.

    Everything but pixels is small. All lie on one device, contiguous. Coordinates are computed in float32, rounded to
    1/2048 pixel, from there on all is integers: weights of the four neighbors, of the mixture and gains (1/32768), each result
    rounded once (`reference.augment` is the definition, every backend gives the same bytes). OpenCV's warpAffine and
    warpPerspective may round positions to 1/32 pixel instead and blend in another order, so at sharp edges they differ by some
    levels of 255; at a border both blend with gray over the last pixel, OpenCV at those coarser places. Layers must lie within
    pixels: checked on the CPU, trusted on a device, where nothing is read on the host. Without gradient. Raises ValueError
    or TypeError naming the argument.
    """
    op = "augment"
    height, width = size
    expect_shape(ranges, (None, 2, 2), op, "ranges")
    batch = len(ranges)
    sources = [pixels] if isinstance(pixels, Tensor) else list(pixels)
    expect(len(sources) > 0, op, "pixels", "a tensor or several", "none")
    shapes: dict[str, tuple[Tensor, tuple[int | None, ...], torch.dtype]] = {
        "layers": (layers, (None, LAYER), torch.int64),
        "ranges": (ranges, (batch, 2, 2), torch.int64),
        "matrices": (matrices, (batch, 2, 3, 3), torch.float32),
        "mix_weights": (mix_weights, (batch,), torch.float32),
        "hsv_gains": (hsv_gains, (batch, 3), torch.float32),
    }
    if not all(part.dtype == torch.uint8 and part.dim() == 1 and part.device == ranges.device for part in sources):
        shapes |= {f"pixels[{i}]" if i else "pixels": (part, (None,), torch.uint8) for i, part in enumerate(sources)}
    for name, (tensor, shape, kind) in shapes.items():
        expect_shape(tensor, shape, op, name)
        expect_device(tensor, ranges, op, name)
        expect_dtype(tensor, (kind,), op, name)
    expect(height >= 1 and width >= 1, op, "size", "at least 1 x 1", tuple(size))
    expect(max(height, width) <= 2**15, op, "size", f"at most {2**15} x {2**15}", tuple(size))
    if dtype not in DTYPES:
        raise TypeError(f"{op}: dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    backend = choose(op, backend, ranges.device)
    return torch.ops.yolov9k.augment(  # type: ignore[no-any-return]
        sources, layers, ranges, matrices, mix_weights, hsv_gains, height, width, dtype, channels_last, backend
    )


def check_layers(sizes: Sequence[int], layers: Tensor, ranges: Tensor) -> None:
    """Raise ValueError unless layers lie within pixels, of so many bytes, and ranges within layers; reads the tensors."""
    op, most = "augment", 2**18
    ends = list(accumulate(sizes))

    def held(start: int, extent: int) -> bool:
        return start >= 0 and any(end - size <= start and start + extent <= end for end, size in zip(ends, sizes, strict=True))

    for row in layers.tolist():
        start, height, width, left, top, mask, stride, mask_stride = row
        sound = 0 <= height < most and 0 <= width < most and abs(left) < most and abs(top) < most
        if sound and height and width:
            extent = (height - 1) * stride + 3 * width
            sound = 3 * width <= stride < 3 * most and extent < 2**31 and held(start, extent)
            covers = width <= mask_stride < 3 * most and held(mask, (height - 1) * mask_stride + width)
            sound = sound and (mask == -1 or covers)
        expect(sound, op, "layers", f"within pixels {list(sizes)}, their sides and places below {most}", row)
    ordered = all(0 <= first <= last <= len(layers) for views in ranges.tolist() for first, last in views)
    expect(ordered, op, "ranges", f"rising, from 0 to at most {len(layers)}", ranges.tolist())


def _run(
    pixels: Sequence[Tensor], layers: Tensor, ranges: Tensor, matrices: Tensor, mix_weights: Tensor, hsv_gains: Tensor,
    height: int, width: int, dtype: torch.dtype, channels_last: bool, backend: str,
) -> Tensor:  # fmt: skip
    if backend == "cpu":  # it checks for itself
        return run_native(pixels, layers, ranges, matrices, mix_weights, hsv_gains, height, width, dtype, channels_last)
    if is_cpu(ranges.device):
        check_layers([len(part) for part in pixels], layers, ranges)
    if backend == "triton":
        from yolov9k.kernels.augment import augment as run  # Triton takes a second to import
    else:
        run = reference.augment
    whole = pixels[0] if len(pixels) == 1 else torch.cat(list(pixels))
    return run(whole, layers, ranges, matrices, mix_weights, hsv_gains, height, width, dtype, channels_last)


def _fake(
    pixels: Sequence[Tensor], layers: Tensor, ranges: Tensor, matrices: Tensor, mix_weights: Tensor, hsv_gains: Tensor,
    height: int, width: int, dtype: torch.dtype, channels_last: bool, backend: str,
) -> Tensor:  # fmt: skip
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape = (ranges.shape[0], 3, height, width)
    return torch.empty(shape, dtype=dtype, device=ranges.device, memory_format=memory_format)


define(
    "augment(Tensor[] pixels, Tensor layers, Tensor ranges, Tensor matrices, Tensor mix_weights, Tensor hsv_gains, int height, "
    "int width, ScalarType dtype, bool channels_last, str backend) -> Tensor",
    _run,
    _fake,
)
register(
    Operator(
        "augment",
        augment,
        "images of a batch from decoded ones: letterbox, mosaic, affine, mixture, recoloring",
        {"cpu": "default on CPU", "triton": "one pass from decoded bytes to the batch"},
        kernels=("augment",),
    )
)
