"""One model of another implementation, as it is or accelerated: times of its parts, its memory, an epoch of its trainer."""

from __future__ import annotations

import copy
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from bench.baselines import published
from bench.baselines.measure import CLASSES, CONF, IOU, Row, Task, main, say
from yolov9k import accelerate, accelerate_training
from yolov9k.compat.accelerate.swap import Swapped
from yolov9k.engine.train.synthetic_batch import synthetic_batch


def network(task: Task) -> nn.Module:
    """A fresh model of the subject's, for 80 classes."""
    torch.manual_seed(0)
    if task.options["peer"] == "ultralytics":
        from ultralytics import YOLO

        model = YOLO(task.model.replace("-", "") + ".yaml").model
        model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)
        return model  # type: ignore[no-any-return]
    if task.options["peer"] == "libreyolo":
        from libreyolo.models.yolo9.model import LibreYOLO9

        return LibreYOLO9(None, task.model[-1], nb_classes=CLASSES, device="cpu").model  # type: ignore[no-any-return]
    from models.yolo import Model  # type: ignore[import-not-found]

    return Model(f"{task.options['checkout']}/models/detect/{task.model}.yaml", ch=3, nc=CLASSES)  # type: ignore[no-any-return]


def parts(task: Task) -> None:
    """Inference, forward and backward, loss and assignment, suppression; beside them how exact the accelerated model is."""
    model = network(task)
    row: Row = {"parameters": sum(p.numel() for p in model.parameters())}
    images, boxes, _ = synthetic_batch(task.batch, task.img, CLASSES, torch.device("cpu"))
    x = images.float() / 255
    loss, losses = _loss(task, model, boxes)
    if task.options["accelerated"]:
        start = time.perf_counter()
        found = accelerate(model)
        row |= {"accelerate_s": round(time.perf_counter() - start, 2), **_exactness(model, x[:1])}
        if loss is not None:
            row["loss_replaced"] = " and ".join(sorted(set(accelerate_training(loss).replaced.values())))
        row["replaced"] = len(found.replaced)
    model.train()

    def step() -> None:
        model.zero_grad()
        _weigh(model(x)).backward()

    row["forward_backward_ms"] = _median(step, task.repeats)
    if loss is not None:
        row["loss_ms"] = _median(losses, task.repeats)
    model.eval()
    with torch.no_grad():
        row["inference_ms"] = _median(lambda: model(x[:1]), task.repeats)
    row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    say(row | _optimizer(task, model) | _suppression(task))


def _loss(task: Task, model: nn.Module, boxes: Tensor) -> tuple[Any, Callable[[], object]]:
    """A peer's loss with its assigner, and a call of it on drawn maps."""
    generator = torch.Generator().manual_seed(0)
    sides = [task.img // stride for stride in (8, 16, 32)]
    maps = [torch.randn(task.batch, 64 + CLASSES, side, side, generator=generator) for side in sides]
    rows = boxes.flatten(0, 1)
    image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1]).float()[:, None]
    loss: Any
    if task.options["peer"] == "ultralytics":
        loss = model.init_criterion()  # type: ignore[operator]
        flat = torch.cat([each.flatten(2) for each in maps], 2)
        drawn = {"boxes": flat[:, :64], "scores": flat[:, 64:], "feats": [each[:, :1] for each in maps]}
        batch = {"batch_idx": image[:, 0], "cls": rows[:, :1], "bboxes": rows[:, 1:]}
        return loss, lambda: loss(drawn, batch)
    if task.options["peer"] == "libreyolo":
        loss = model.head._get_loss_fn(torch.device("cpu"))  # type: ignore[operator, union-attr]
        loss.update_anchors([task.img, task.img])
        corners = torch.cat((boxes[..., :1], boxes[..., 1:3] - boxes[..., 3:] / 2, boxes[..., 1:3] + boxes[..., 3:] / 2), 2)
        return loss, lambda: loss(maps, corners)
    from utils.loss_tal import ComputeLoss  # type: ignore[import-not-found]

    model.hyp = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "cls_pw": 1.0, "fl_gamma": 0.0, "label_smoothing": 0.0}  # type: ignore[assignment]
    loss = ComputeLoss(model)
    return loss, lambda: loss(maps, torch.cat((image, rows), 1))


class _Stepping(SimpleNamespace):
    """What Ultralytics' trainer steps with."""


def _optimizer(task: Task, model: nn.Module) -> Row:
    """The optimizer step of Ultralytics' trainer, whose is a method; gradients are drawn beside the clock."""
    if task.options["peer"] != "ultralytics":
        return {}
    from ultralytics.engine.trainer import BaseTrainer
    from ultralytics.utils.torch_utils import ModelEMA

    model = network(task).train()  # one that nothing of ours has touched
    weights, norms, biases = (
        [p for key, p in model.named_parameters() if (2 if key.endswith("bias") else int(p.ndim == 1)) == kind]
        for kind in range(3)
    )
    groups = [{"params": biases}, {"params": weights, "weight_decay": 5e-4}, {"params": norms}]
    _Stepping.optimizer_step = BaseTrainer.optimizer_step
    trainer = _Stepping(
        model=model, optimizer=torch.optim.SGD(groups, lr=0.01, momentum=0.937, nesterov=True), ema=ModelEMA(model),
        scaler=torch.amp.GradScaler("cpu", enabled=False), device=torch.device("cpu"),
    )  # fmt: skip
    if task.options["accelerated"]:
        accelerate_training(trainer)

    def draw() -> None:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3) if parameter.requires_grad else None

    return {"optimizer_ms": _median(trainer.optimizer_step, task.repeats, draw)}


def _suppression(task: Task) -> Row:
    """Four decoded images at the thresholds of a validation."""
    try:
        if task.options["peer"] == "published":
            import utils.general as holder  # type: ignore[import-not-found]
        else:
            import ultralytics.utils.nms as holder
    except ImportError:
        return {}
    if task.options["peer"] == "libreyolo":
        return {}
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(4, 2, 8400, generator=generator) * 640
    sides = torch.rand(4, 2, 8400, generator=generator) * 100 + 8
    prediction = torch.cat((center, sides, torch.rand(4, CLASSES, 8400, generator=generator) ** 3000), 1)

    def run() -> Any:
        return holder.non_max_suppression(prediction.clone(), CONF, IOU, multi_label=True, max_det=300)

    theirs = run()
    if not task.options["accelerated"]:
        return {"nms_ms": _median(run, 3)}
    with accelerate_training(holder) as found:
        # scores alone: boxes of one score have an order in ours alone
        same = all(a.shape == b.shape and torch.equal(a[:, 4], b[:, 4]) for a, b in zip(theirs, run(), strict=True))
        return {"nms_ms": _median(run, 3), "nms_replaced": len(found.replaced), "nms_equal": same}


def _exactness(model: nn.Module, x: Tensor) -> Row:
    """Errors of output and gradients against float64, of the accelerated model and of the original."""
    x = x[:, :, :160, :160].repeat(2, 1, 1, 1)
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, Swapped):
            _undo(module)
    exact = copy.deepcopy(plain).double()
    wanted = _step(exact, x.double())
    errors = [float((_step(each, x).double() - wanted).norm() / wanted.norm()) for each in (copy.deepcopy(model), plain)]
    return {"deviation": errors[0], "deviation_before": errors[1], "within_rule": errors[0] <= 2 * errors[1] + 1e-7}


def _undo(module: Any) -> None:
    from yolov9k.compat.accelerate.swap import unswap

    unswap(module)


def _step(model: nn.Module, x: Tensor) -> Tensor:
    """Output and all gradients of a step in one vector."""
    model.train().zero_grad()
    y = model(x)
    _weigh(y).backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([*(t.detach().flatten() for t in _tensors(y)), *grads])


def _weigh(y: Any) -> Tensor:
    """A sum over all outputs in which none counts like another."""
    return torch.stack([(t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in _tensors(y)]).sum()


def _tensors(y: Any) -> Iterator[Tensor]:
    if isinstance(y, Tensor):
        yield from [y] if y.requires_grad else []
    elif isinstance(y, dict):
        for key in ("boxes", "scores") if "boxes" in y else sorted(y):
            yield from _tensors(y[key])
    elif isinstance(y, (list, tuple)):
        for part in y:
            yield from _tensors(part)


def _median(run: Callable[[], object], repeats: int, prepare: Callable[[], object] = int) -> float:
    """Milliseconds of the process's CPU time: other work on the machine moves it less than a clock's."""
    prepare()
    run()
    times = []
    for _ in range(repeats):
        prepare()
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return round(1000 * statistics.median(times), 2)


def epoch(task: Task) -> None:
    """One epoch of the trainer, from the call to its return, validation in it."""
    start, spent = time.perf_counter(), time.process_time()
    of = {"ultralytics": _ultralytics_epoch, "libreyolo": _libreyolo_epoch, "published": _published_epoch}
    row = of[task.options["peer"]](task)
    times = {"seconds": round(time.perf_counter() - start, 2), "cpu_seconds": round(time.process_time() - spent, 2)}
    say({**times, **row})


def _ultralytics_epoch(task: Task) -> Row:
    from ultralytics import YOLO

    model = YOLO(task.model.replace("-", "") + ".yaml")
    found = accelerate_training(model) if task.options["accelerated"] else None
    model.train(data=task.data, epochs=1, imgsz=task.img, batch=task.batch, device="cpu", workers=0, plots=False, amp=False,
                seed=0, project=task.folder, name="run", exist_ok=True, pretrained=False, optimizer="SGD")  # fmt: skip
    return {"replaced": len(found.replaced) if found else 0, **_losses(Path(task.folder) / "run" / "results.csv")}


def _libreyolo_epoch(task: Task) -> Row:
    from libreyolo.models.yolo9.model import LibreYOLO9

    model = LibreYOLO9(None, task.model[-1], device="cpu")
    found = accelerate_training(model) if task.options["accelerated"] else None
    model.train(task.data, epochs=1, batch=task.batch, imgsz=task.img, device="cpu", workers=0, seed=0, eval_interval=1,
                project=task.folder, name="run", exist_ok=True, pretrained=False)  # fmt: skip
    kept = sum(isinstance(module, Swapped) for module in model.model.modules())
    return {"replaced": len(found.replaced) if found else 0, "still_replaced": kept}


def _published_epoch(task: Task) -> Row:
    """Its `train.py`, whose model, loss and suppression are accelerated when it makes its loss: it has no callback for that."""
    vars(numpy).setdefault("trapz", getattr(numpy, "trapezoid", None))  # which it calls, and the newest NumPy has not
    module = published.script("train", task.model)
    theirs, found = module.ComputeLoss, []

    def make(model: nn.Module) -> Any:
        loss = theirs(model)
        found.append(accelerate_training(model, loss, module.validate))
        return loss

    if task.options["accelerated"]:
        module.ComputeLoss = make
    root = Path(task.options["checkout"])
    cfg, hyp = root / f"models/detect/{task.model}.yaml", root / "data/hyps/hyp.scratch-high.yaml"
    module.run(
        data=task.data, cfg=str(cfg), hyp=str(hyp), weights="", imgsz=task.img, batch_size=task.batch, epochs=1, device="cpu",
        workers=0, noplots=True, project=task.folder, name="run", exist_ok=True,
    )  # fmt: skip
    replaced = sum(len(each.replaced) for each in found)
    return {"replaced": replaced, **_losses(Path(task.folder) / "run" / "results.csv")}


def _losses(path: Path) -> Row:
    if not path.exists():
        return {}
    names, values = (line.split(",") for line in path.read_text().splitlines()[:2])
    return {name.strip(): float(value) for name, value in zip(names, values, strict=True) if "loss" in name or "mAP" in name}


if __name__ == "__main__":
    main({"parts": parts, "epoch": epoch})
