"""The training loss of one, two or three branches (arXiv 2402.13616, section 4.1: the auxiliary branches; table 1: gains)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k.ops import AssignOptions, LossOptions, detection_loss, detection_loss_and_gradient
from yolov9k.ops.library import label
from yolov9k.ops.task_aligned_assign import one_of

Targets = Tensor | tuple[Tensor, Tensor]


def pad_targets(rows: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Rows [N, 6] (image, class, cx, cy, w, h) to boxes [B, G, 5] (class, cx, cy, w, h) and counts [B], order kept."""
    image = rows[:, 0].long()
    if len(rows) and (int(image.min()) < 0 or int(image.max()) >= batch):
        raise ValueError(f"targets: image numbers must be in 0..{batch - 1}, got {int(image.min())}..{int(image.max())}")
    counts = torch.bincount(image, minlength=batch)
    boxes = rows.new_zeros((batch, int(counts.max()) if len(rows) else 0, 5))
    order = image.argsort(stable=True)
    slot = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[image[order]]
    boxes[image[order], slot] = rows[order, 1:]
    return boxes, counts


class DetectionLoss:
    """Total and parts of the loss over all branches.

    Each part is main + auxiliary * (sum over the other branches), times its gain; total = (box + class + dfl) * batch.
    Every branch is assigned on its own predictions. options: reg_max, topk, alpha, beta, label_smoothing and pos_weight in
    one object, in place of them. Raises ValueError naming the argument.
    """

    def __init__(
        self,
        num_classes: int,
        strides: Sequence[int] = (8, 16, 32),
        reg_max: int = 16,
        *,
        box: float = 7.5,
        cls: float = 0.5,
        dfl: float = 1.5,
        auxiliary: float = 0.25,
        topk: int = 10,
        alpha: float = 0.5,
        beta: float = 6.0,
        label_smoothing: float = 0.0,
        pos_weight: float = 1.0,
        backend: str = "auto",
        options: LossOptions | None = None,
    ) -> None:
        given = LossOptions(reg_max, AssignOptions(topk, alpha, beta), label_smoothing, pos_weight)
        self.options = one_of(options, given, "DetectionLoss")
        self.num_classes, self.strides, self.backend = num_classes, tuple(strides), backend
        self.gains, self.auxiliary = (box, cls, dfl), auxiliary

    def __call__(self, branches: Sequence[Sequence[Tensor]], targets: Targets) -> tuple[Tensor, Tensor]:
        """Loss of raw maps.

        branches: auxiliary ones first, main last, each a list of [B, 4*reg_max + nc, h, w]. targets: rows [N, 6] (image,
        class, cx, cy, w, h normalized), or a pair: boxes [B, G, 5] (class, cx, cy, w, h normalized) and counts [B].
        Returns total (scalar) and parts [3] (box, class, dfl, detached). Raises ValueError naming the argument.
        """
        operands, weights = self._prepared(branches, targets)
        parts = torch.stack([
            weight * detection_loss(branch, *operands, self.strides, backend=self.backend, options=self.options)
            for weight, branch in zip(weights, branches, strict=True)
        ]).sum(0)  # fmt: skip
        parts = parts * self._gains(branches[-1][0])
        total = parts.sum() * branches[-1][0].shape[0]
        return total, parts.detach()

    def backward(self, branches: Sequence[Sequence[Tensor]], targets: Targets, scale: Tensor | None = None) -> Tensor:
        """Loss and its gradient in one pass over the maps, propagated to what they came from; returns parts [3].

        As calling it and total.backward(), with total multiplied by `scale` (a scalar on the maps' device) where given.
        """
        operands, weights = self._prepared(branches, targets)
        first = branches[-1][0]
        gains = self._gains(first)
        factors = gains * first.shape[0] if scale is None else gains * first.shape[0] * scale
        parts = torch.zeros_like(gains)
        maps, grads = list[Tensor](), list[Tensor]()
        with label("step/loss"):
            for weight, branch in zip(weights, branches, strict=True):
                found, gradients = detection_loss_and_gradient(
                    branch, *operands, self.strides, factors * weight, backend=self.backend, options=self.options
                )
                parts += weight * found
                maps, grads = [*maps, *branch], [*grads, *gradients]
        with label("step/backward"):
            torch.autograd.backward(maps, grads)
        return parts * gains

    def _gains(self, level: Tensor) -> Tensor:
        """Gains [3] beside a map, filled in there: a tensor from the host would be waited for."""
        dtype = torch.float64 if level.dtype == torch.float64 else torch.float32
        return torch.stack([torch.full((), gain, dtype=dtype, device=level.device) for gain in self.gains])

    def _prepared(
        self, branches: Sequence[Sequence[Tensor]], targets: Targets
    ) -> tuple[tuple[Tensor, Tensor, Tensor], list[float]]:
        """Labels, boxes in pixels and counts; the weight of each branch."""
        if not 1 <= len(branches) <= 3:
            raise ValueError(f"DetectionLoss: branches must be one, two or three lists of maps, got {len(branches)}")
        channels = 4 * self.options.reg_max + self.num_classes
        for branch in branches:
            if branch[0].shape[1] != channels:
                raise ValueError(f"DetectionLoss: maps must have {channels} channels, got {branch[0].shape[1]}")
        batch, _, height, width = branches[-1][0].shape
        boxes, counts = pad_targets(targets, batch) if isinstance(targets, Tensor) else targets
        labels, xyxy = self._to_pixels(boxes, width * self.strides[0], height * self.strides[0])
        return (labels, xyxy, counts), [self.auxiliary] * (len(branches) - 1) + [1.0]

    @staticmethod
    def _to_pixels(boxes: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
        """Class [B, G] and xyxy in pixels [B, G, 4] of normalized boxes [B, G, 5]."""
        label, x, y, w, h = boxes.unbind(-1)
        x, y, w, h = x * width, y * height, w * width / 2, h * height / 2
        return label, torch.stack((x - w, y - h, x + w, y + h), -1)
