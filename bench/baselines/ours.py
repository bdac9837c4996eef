"""yolov9k's own variants, and its reference model under torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import yolov9k
from bench.baselines.measure import CLASSES, CONF, IOU, RepeatedBatch, Task, drawn_batch, main, repeat, say
from bench.reference_step import reference
from yolov9k.compat import load, load_weights
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.config import load_split
from yolov9k.data.loader import make_loader
from yolov9k.engine import TrainStep
from yolov9k.engine.evaluate.validator import ValidationResult, validate
from yolov9k.engine.inference import detect, exact, inference_form
from yolov9k.engine.train.trainer import make_criterion


def train(task: Task) -> None:
    """options: mode, of TrainStep, or "reference eager", "reference compiled"; one_branch: the lean form with a dense head."""
    mode, device = task.options["mode"], torch.device(task.device)
    torch.manual_seed(0)
    step: Callable[..., Tensor]
    if mode.startswith("reference"):
        step = reference(task.model, task.device, mode.endswith("compiled"))
    else:
        lean = task.options.get("one_branch")
        name = task.model.replace("yolov9", "gelan") if lean else task.model
        model = yolov9k.create_model(name, CLASSES, flavor="ultralytics" if lean else "published").to(device).train()
        amp = "bf16" if task.cuda else "off"
        step = TrainStep(model, make_criterion(model, TrainRecipe()), TrainRecipe(), mode, batch=task.batch, amp=amp)
    loader = RepeatedBatch(
        task, drawn_batch(task), extra=lambda: {"version": yolov9k.__version__, "ran": getattr(step, "mode", mode)}
    )
    for batch in loader:
        step(*(tensor.to(device, non_blocking=True) for tensor in batch))


def val(task: Task) -> None:
    """From the labels' files to the AP, as the baselines' `val` does each time. options: weights, amp, images."""
    model, amp = load(task.options["weights"]).to(task.device), task.options["amp"] if task.cuda else "off"

    def once() -> ValidationResult:
        split = load_split(task.data, "val")
        loader = make_loader(
            split, TrainRecipe(), img_size=task.img, batch=task.batch, augment=False, rect=True, workers=task.workers
        )
        result = validate(model, loader, split=split, conf=CONF, iou=IOU, amp=amp, progress=False)
        loader.close()
        return result

    metrics = once().metrics
    repeat(task, once, task.options["images"], version=yolov9k.__version__, ap=metrics.ap, ap50=metrics.ap50)


@torch.inference_mode()
def latency(task: Task) -> None:
    """From an image on the device to boxes on the host, half precision on a GPU. options: weights, fused, graph.

    What is not fused is the model in plain torch.
    """
    device = torch.device(task.device)
    model = load(task.options["weights"]).to(device).eval()
    model = inference_form(model, device) if task.options["fused"] else model.use("reference")
    model = model.half() if task.cuda else model
    x = torch.rand(1, 3, task.img, task.img, device=device, dtype=next(model.parameters()).dtype)
    x = x.contiguous(memory_format=torch.channels_last) if task.options["fused"] else x

    def found() -> tuple[Tensor, Tensor]:
        return detect(model, exact(model.branches(x, main_only=True)[-1]), 0.25, IOU)

    run = _graph(found) if task.options["graph"] else found
    repeat(task, lambda: [tensor.cpu() for tensor in run()], 1, version=yolov9k.__version__)


def _graph(run: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], tuple[Tensor, Tensor]]:
    """The call as a CUDA graph: kernels are chosen first, on a stream of their own."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> tuple[Tensor, Tensor]:
        graph.replay()
        return result

    return replay


def evaluate(task: Task) -> None:
    """Our evaluator on weights of ours or of the published code. options: weights."""
    split = load_split(task.data, "val")
    weights = Path(task.options["weights"])
    if task.options["own"]:
        model = load(weights)
    else:
        model = yolov9k.create_model(task.model, len(split.names))
        load_weights(model, weights)
    loader = make_loader(
        split, TrainRecipe(), img_size=task.img, batch=task.batch, augment=False, rect=True, workers=task.workers
    )
    metrics = validate(model.to(task.device), loader, split=split, conf=CONF, iou=IOU, progress=False).metrics
    loader.close()
    say({"ap": metrics.ap, "ap50": metrics.ap50})


if __name__ == "__main__":
    main({"train": train, "val": val, "latency": latency, "evaluate": evaluate})
