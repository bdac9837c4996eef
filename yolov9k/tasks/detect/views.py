"""Test-time augmentation: predictions of an image at three sizes, one of them mirrored, taken together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov9k.common.arrays import FILL
from yolov9k.models import DetectionModel

# Sizes as shares of the image's, and whether left and right are exchanged: the published ones.
VIEWS = ((1.0, False), (0.83, True), (0.67, False))
Views = list[list[Tensor]]


def maps_of_views(model: DetectionModel, images: Tensor) -> Views:
    """The main branch's raw maps of each view of images [B, 3, H, W]."""
    return [model.branches(view(images, *how, model.stride), main_only=True)[-1] for how in VIEWS]


def view(images: Tensor, share: float, mirrored: bool, stride: int) -> Tensor:
    """Images at a share of their size, gray at the right and the bottom up to a multiple of the stride."""
    images = images.flip(3) if mirrored else images
    if share == 1:
        return images
    sides = [side * share for side in images.shape[2:]]
    high, wide = (int(side) for side in sides)
    small = F.interpolate(images, (high, wide), mode="bilinear", align_corners=False)
    bottom, right = (math.ceil(side / stride) * stride - int(side) for side in sides)
    return F.pad(small, (0, right, 0, bottom), value=FILL / 255)


def decode_views(model: DetectionModel, views: Sequence[Sequence[Tensor]]) -> Tensor:
    """What `model.decode` gives of all views, in pixels of the image: [B, 4 + nc, A].

    The full size leaves out its coarsest level, the smallest one its finest: large objects are found at the small size, small
    ones at the full size.
    """
    width = views[0][0].shape[-1] * model.head.strides[0]
    found = [
        _to_image(model.decode(maps), share, width if mirrored else None)
        for maps, (share, mirrored) in zip(views, VIEWS, strict=True)
    ]
    coarsest, finest = views[0][-1].shape[-2:].numel(), views[-1][0].shape[-2:].numel()
    found[0], found[-1] = found[0][..., : found[0].shape[-1] - coarsest], found[-1][..., finest:]
    return torch.cat(found, -1)


def _to_image(prediction: Tensor, share: float, mirrored_width: int | None) -> Tensor:
    boxes = prediction[:, :4] / share
    if mirrored_width is not None:
        boxes[:, 0] = mirrored_width - boxes[:, 0]
    return torch.cat((boxes, prediction[:, 4:]), 1)
