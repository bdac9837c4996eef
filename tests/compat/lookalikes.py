"""Modules that stand for those of other implementations: our own code, arranged and named as users' models are."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov9k.losses import DetectionLoss
from yolov9k.losses.detection import pad_targets
from yolov9k.ops import LossOptions
from yolov9k.ops.reference.batched_nms import batched_nms
from yolov9k.ops.reference.detection_loss import detection_loss
from yolov9k.ops.reference.task_aligned_assign import AssignOptions, task_aligned_assign


class TheirConv(nn.Module):
    """Convolution, BatchNorm, activation; `fuse_forward` after BatchNorm was folded, as two of the implementations do."""

    shared_act = nn.SiLU()

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool = True, eps: float = 1e-3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=eps, momentum=0.03)
        self.act = self.shared_act if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))

    def fold(self) -> None:
        self.conv = nn.utils.fusion.fuse_conv_bn_eval(self.conv.eval(), self.bn.eval())
        del self.bn
        self.forward = self.forward_fuse


class TheirRepConv(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.conv1 = TheirConv(c1, c2, 3, act=False)
        self.conv2 = TheirConv(c1, c2, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv1(x) + self.conv2(x))


class TheirBottleneck(nn.Module):
    def __init__(self, c: int, shortcut: bool = True) -> None:
        super().__init__()
        self.conv1 = TheirRepConv(c, c)
        self.conv2 = TheirConv(c, c, 3)
        self.residual = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.residual else y


class TheirCSP(nn.Module):
    def __init__(self, c1: int, c2: int, n: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = TheirConv(c1, c2 // 2), TheirConv(c1, c2 // 2), TheirConv(c2, c2)
        self.bottleneck = nn.Sequential(*(TheirBottleneck(c2 // 2) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat((self.bottleneck(self.conv1(x)), self.conv2(x)), dim=1))


class TheirELAN(nn.Module):
    def __init__(self, c1: int, c2: int, c3: int, c4: int, csp: bool = True) -> None:
        super().__init__()

        def stage(c: int) -> nn.Module:
            return nn.Sequential(TheirCSP(c, c4), TheirConv(c4, c4, 3)) if csp else TheirConv(c, c4, 3)

        self.cv1 = TheirConv(c1, c3)
        self.cv2 = stage(c3 // 2)
        self.cv3 = stage(c4)
        self.cv4 = TheirConv(c3 + 2 * c4, c2)
        self.m = nn.ModuleList()  # as one implementation leaves it where it has no more stages

    def forward(self, x: Tensor) -> Tensor:
        maps = list(self.cv1(x).split(self.cv1.conv.out_channels // 2, 1))
        for stage in (self.cv2, self.cv3):
            maps.append(stage(maps[-1]))
        return self.cv4(torch.cat(maps, 1))


class TheirSPP(nn.Module):
    def __init__(self, c1: int, c2: int, c3: int, k: int = 5) -> None:
        super().__init__()
        self.cv1 = TheirConv(c1, c3)
        self.cv2, self.cv3, self.cv4 = (nn.MaxPool2d(k, 1, k // 2) for _ in range(3))
        self.cv5 = TheirConv(4 * c3, c2)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.cv1(x)]
        for pool in (self.cv2, self.cv3, self.cv4):
            maps.append(pool(maps[-1]))
        return self.cv5(torch.cat(maps, 1))


class TheirADown(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = TheirConv(c1 // 2, c2 // 2, 3, 2), TheirConv(c1 // 2, c2 // 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.avg_pool2d(x, 2, 1).chunk(2, 1)
        return torch.cat((self.cv1(left), self.cv2(F.max_pool2d(right, 3, 2, 1))), 1)


class TheirAConv(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.avg_pool = nn.AvgPool2d(2, 1)
        self.conv = TheirConv(c1, c2, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.avg_pool(x))


class TheirDFL(nn.Module):
    def __init__(self, bins: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data = torch.arange(bins, dtype=torch.float32).view(1, bins, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, anchors = x.shape
        bins = self.conv.in_channels
        return self.conv(x.view(batch, 4, bins, anchors).transpose(1, 2).softmax(1)).view(batch, 4, anchors)


class Stranger(nn.Module):
    """Looks like AConv and is none: another pool."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1 = TheirConv(c1, c2, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv1(F.max_pool2d(x, 2, 1))


class TheirModel(nn.Module):
    """A little network with one of everything, and what no block of ours is."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            TheirConv(3, 8, 3, 2), TheirELAN(8, 16, 16, 8, csp=False), TheirAConv(16, 16), TheirELAN(16, 16, 16, 8),
            TheirADown(16, 24), TheirSPP(24, 16, 8), Stranger(16, 16), nn.Conv2d(16, 64, 1),
        )  # fmt: skip
        self.dfl = TheirDFL()

    def forward(self, x: Tensor) -> Any:
        return self.dfl(self.model(x).flatten(2))


BLOCKS: dict[str, Any] = {
    "Conv": lambda: TheirConv(8, 12, 3, 2), "RepConv": lambda: TheirRepConv(8, 12), "Bottleneck": lambda: TheirBottleneck(8),
    "Bottleneck without shortcut": lambda: TheirBottleneck(8, shortcut=False), "CSP": lambda: TheirCSP(8, 12, 2),
    "ELAN": lambda: TheirELAN(8, 16, 16, 8), "ELAN of convolutions": lambda: TheirELAN(8, 16, 16, 8, csp=False),
    "SPPELAN": lambda: TheirSPP(16, 16, 8), "ADown": lambda: TheirADown(8, 16), "AConv": lambda: TheirAConv(8, 16),
    "DFL": TheirDFL,
}  # fmt: skip


class TheirAssigner(nn.Module):
    """Settings as attributes, six tensors in, five out; anchors of no weight may be foreground, as topk fills up."""

    def __init__(self, contests: bool = True, small: float = 0.0, topk2: int | None = None) -> None:
        super().__init__()
        self.topk, self.topk2, self.num_classes, self.alpha, self.beta, self.stride = 10, topk2, 3, 0.5, 6.0, [8, 16, 32]
        self._hidden = AssignOptions(10, 0.5, 6.0, contests, small, small)

    def forward(self, scores: Tensor, boxes: Tensor, anchors: Tensor, labels: Tensor, gt_boxes: Tensor, mask: Tensor) -> Any:
        index, weight, _ = task_aligned_assign(scores, boxes, anchors, labels[..., 0], gt_boxes, mask[..., 0], self._hidden)
        owner = index.clamp(min=0)
        label = labels[..., 0].gather(1, owner)
        box = gt_boxes.gather(1, owner[..., None].expand(-1, -1, 4))
        target = torch.nn.functional.one_hot(label, self.num_classes) * weight[..., None]
        return label, box, target, index >= 0, owner


def non_max_suppression(
    prediction: Any, conf_thres: float = 0.25, iou_thres: float = 0.45, classes: Any = None, agnostic: bool = False,
    multi_label: bool = False, labels: Any = (), max_det: int = 300, nc: int = 0,
) -> list[Tensor]:  # fmt: skip
    """Lists of [n, 6]; `labels` are what ours does not have."""
    options = (conf_thres, iou_thres, classes, agnostic, multi_label, max_det)
    found, counts = batched_nms(prediction[0] if isinstance(prediction, tuple) else prediction, *options)
    return [rows[:count] + 0 * len(labels) for rows, count in zip(found, counts.tolist(), strict=True)]


class TheirLoss:
    def __init__(self) -> None:
        self.assigner = TheirAssigner(small=16.0)


class TheirDetectionLoss:
    """Predictions and targets by name; a vector of parts times images, and the parts by name."""

    loss_names = ("box", "cls", "dfl")

    def __init__(self, smoothing: float = 0.0) -> None:
        self.assigner, self.nc, self.reg_max, self.stride = TheirAssigner(small=16.0), 3, 16, torch.tensor([8.0, 16.0, 32.0])
        self.hyp = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
        self._hidden = LossOptions(16, self.assigner._hidden, smoothing)

    def __call__(self, predictions: Any, batch: Any) -> Any:
        whole, sizes = torch.cat((predictions["boxes"], predictions["scores"]), 1), [m.shape[2:] for m in predictions["feats"]]
        parts = whole.split([height * width for height, width in sizes], 2)
        maps = [part.unflatten(2, tuple(size)) for part, size in zip(parts, sizes, strict=True)]
        rows = torch.cat((batch["batch_idx"].view(-1, 1), batch["cls"].view(-1, 1), batch["bboxes"]), 1)
        boxes, counts = pad_targets(rows, len(whole))
        label, xyxy = DetectionLoss._to_pixels(boxes, 8 * sizes[0][1], 8 * sizes[0][0])
        found = detection_loss(maps, label, xyxy, counts, (8, 16, 32), self._hidden)
        found = found * torch.tensor([self.hyp.box, self.hyp.cls, self.hyp.dfl])
        return found * len(whole), dict(zip(self.loss_names, found.detach(), strict=True))


class TheirTrainer:
    """Makes its parts when training starts, and calls who waits for that."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Any]] = {"on_train_start": []}

    def train(self) -> None:
        self.model, self.criterion, self.validator = TheirModel(), TheirLoss(), TheirValidator()
        for call in self.callbacks["on_train_start"]:
            call(self)


class TheirAverage:
    """As Ultralytics': a copy of the model that follows it, at a pace that the number of updates tells."""

    def __init__(self, model: nn.Module) -> None:
        self.ema, self.updates, self._pairs = copy.deepcopy(model).eval().requires_grad_(False), 0, None
        self.decay = lambda updates: 0.9999 * (1 - math.exp(-updates / 2000))

    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay, state = self.decay(self.updates), model.state_dict()
        if self._pairs is None:
            self._pairs = [(mine, state[key]) for key, mine in self.ema.state_dict().items() if mine.is_floating_point()]
        for mine, theirs in self._pairs:
            mine.mul_(decay).add_(theirs, alpha=1 - decay)


class SteppingTrainer:
    """A trainer whose optimizer step is a method: Ultralytics'. kind: the optimizer's class."""

    def __init__(self, model: nn.Module, kind: Any = torch.optim.SGD, **options: Any) -> None:
        self.model, self.ema, self.device = model, TheirAverage(model), torch.device("cpu")
        weights, norms, biases = ([p for key, p in model.named_parameters() if kind_of(key, p) == k] for k in range(3))
        options = {"lr": 0.01, **({"momentum": 0.9, "nesterov": True} if kind is torch.optim.SGD else {}), **options}
        groups = [{"params": biases}, {"params": weights, "weight_decay": 5e-4}, {"params": norms}]
        self.optimizer = kind(groups, **options)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def optimizer_step(self) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.model)


def kind_of(key: str, parameter: Tensor) -> int:
    """0 for weights, 1 for those of normalization, 2 for biases."""
    return 2 if key.endswith("bias") else int(parameter.ndim == 1)


class TheirValidator:
    def postprocess(self, prediction: Tensor) -> list[Tensor]:
        return non_max_suppression(prediction, 0.1, 0.5)


class TheirMatcher:
    """As LibreYOLO's; the MIT rewrite keeps grid and factors elsewhere (`TheirOtherMatcher`)."""

    topk, cls_factor, iou_factor, reg_max, num_classes = 10, 0.5, 6.0, 16, 3

    def __init__(self, anchor_grid: Tensor, scaler: Tensor) -> None:
        self.anchor_grid, self.scaler = anchor_grid, scaler

    def __call__(self, target: Tensor, predict: tuple[Tensor, Tensor], return_indices: bool = False) -> Any:
        labels, boxes = target[..., 0].long().clamp(min=0), target[..., 1:]
        options = AssignOptions(self.topk, self.cls_factor, self.iou_factor)
        mask = torch.ones_like(labels)
        limits = self.scaler * (self.reg_max - 1.01)
        scores = predict[0].sigmoid()
        index, weight, _ = task_aligned_assign(
            scores, predict[1], self.anchor_grid, labels, boxes, mask, options, limits=limits
        )
        owner = index.clamp(min=0)
        classes = F.one_hot(labels.gather(1, owner), self.num_classes) * weight[..., None]
        found = torch.cat((classes, boxes.gather(1, owner[..., None].expand(-1, -1, 4))), -1)
        return (found, index >= 0, owner) if return_indices else (found, index >= 0)


class TheirOtherMatcher(TheirMatcher):
    """As the MIT rewrite's."""

    def __init__(self, anchor_grid: Tensor, scaler: Tensor) -> None:
        super().__init__(anchor_grid, scaler)
        self.vec2box = SimpleNamespace(anchor_grid=anchor_grid, scaler=scaler)
        self.factor, self.class_num = {"iou": 6.0, "cls": 0.5}, self.num_classes


class TheirMatchingLoss:
    """Makes a matcher for each size of images, as LibreYOLO's loss does."""

    def __init__(self) -> None:
        self.matcher: TheirMatcher | None = None

    def _init_vec2box(self, image_size: list[int]) -> None:
        levels = [torch.cartesian_prod(*[(torch.arange(side // s) + 0.5) * s for side in image_size]) for s in (8, 16, 32)]
        scaler = [torch.full((len(level),), float(s)) for level, s in zip(levels, (8, 16, 32), strict=True)]
        self.matcher = TheirMatcher(torch.cat(levels), torch.cat(scaler))
