"""The detection loss of Ultralytics' kind, run by our operator: assignment, three parts and their gradients in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolov9k.compat.accelerate.assigner import options_of
from yolov9k.compat.accelerate.head import maps_of
from yolov9k.compat.accelerate.probe import close
from yolov9k.compat.accelerate.swap import Swapped
from yolov9k.losses import DetectionLoss
from yolov9k.ops import LossOptions, detection_loss

_CLOSE = 1e-4  # float32 sums over anchors and classes in two orders
_SIZES = (12, 6, 3)  # of the levels that a loss is tried on


class AcceleratedLoss(Swapped):
    """A loss whose call is our operator; options: its assigner's settings and bins, as ours."""

    options: LossOptions

    def __call__(self, predictions: Any, batch: Any, *arguments: Any, **named: Any) -> Any:
        """Predictions and batch as the original takes them; whatever else it is given, the original runs."""
        maps = _maps(predictions)
        if maps is None or arguments or named:
            return super().__call__(predictions, batch, *arguments, **named)  # type: ignore[misc]
        return evaluated(self, maps, batch, self.options)


def evaluated(loss: Any, maps: list[Tensor], batch: Any, options: LossOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """Parts [3] times gains and images, and the parts by name, detached."""
    strides = [int(stride) for stride in loss.stride]
    index, label = (batch[key].to(maps[0].device).view(-1, 1).float() for key in ("batch_idx", "cls"))
    rows = torch.cat((index, label, batch["bboxes"].to(maps[0].device).float()), 1)
    operands, _ = DetectionLoss(loss.nc, strides, options=options)._prepared([maps], rows)
    parts = detection_loss(maps, *operands, strides, options=options)
    parts = parts * torch.tensor([loss.hyp.box, loss.hyp.cls, loss.hyp.dfl], device=parts.device)
    return parts * len(maps[0]), dict(zip(loss.loss_names, parts.detach(), strict=True))


def loss_options(loss: Any) -> LossOptions | None:
    """Settings with which our operator gives this loss's value, parts and gradients on drawn predictions; None for none."""
    try:
        found = options_of(loss.assigner)
        if found is None or not (loss.reg_max > 1 and loss.hyp.box + loss.hyp.cls + loss.hyp.dfl > 0):
            return None
        options, case = LossOptions(int(loss.reg_max), found[0]), _drawn(loss)
        wanted = _with_gradient(case, lambda predictions: loss(predictions, _targets(loss)))
        ours = _with_gradient(case, lambda predictions: evaluated(loss, _maps(predictions) or [], _targets(loss), options))
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError):
        return None
    return options if close(ours, wanted, _CLOSE) else None


def _maps(predictions: Any) -> list[Tensor] | None:
    """Levels of predictions by name, alone or beside what was decoded."""
    return maps_of(predictions[1] if isinstance(predictions, tuple) and len(predictions) == 2 else predictions)


def _drawn(loss: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    anchors = sum(size * size for size in _SIZES)
    widths = {"boxes": 4 * loss.reg_max, "scores": loss.nc}
    drawn = {name: torch.randn(2, width, anchors, generator=generator) for name, width in widths.items()}
    device = loss.device if hasattr(loss, "device") else "cpu"
    return {name: tensor.to(device) for name, tensor in drawn.items()} | {
        "feats": [torch.zeros(2, 1, size, size, device=device) for size in _SIZES]
    }


def _targets(loss: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sides = torch.rand(10, 2, generator=generator) * 0.4 + 0.03
    boxes = torch.cat((torch.rand(10, 2, generator=generator) * 0.6 + 0.2, sides), 1)
    return {"batch_idx": torch.arange(10) // 5, "cls": torch.randint(0, loss.nc, (10, 1), generator=generator), "bboxes": boxes}


def _with_gradient(case: dict[str, Any], run: Any) -> Any:
    leaves = {key: case[key].clone().requires_grad_() for key in ("boxes", "scores")}
    value, items = run({**case, **leaves})
    value.sum().backward()
    return value.detach(), items, leaves["boxes"].grad, leaves["scores"].grad
