"""The published code, through its own scripts `train_dual.py` and `train.py`; only the training loader is put in."""

from __future__ import annotations

import importlib
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from bench.baselines.measure import CONF, IOU, RepeatedBatch, Task, drawn_batch, main, repeat, say


def script(kind: str, model: str) -> Any:
    """Its script for a model: two branches, or GELAN's one."""
    return importlib.import_module(f"{kind}_dual" if model.startswith("yolov9") else kind)


def train(task: Task) -> None:
    """options: deterministic, which it is as shipped."""
    module = script("train", task.model)
    own, root = module.create_dataloader, Path(module.__file__).parent

    def relaxed() -> None:
        if not task.options["deterministic"]:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True

    def with_our_loader(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        module.create_dataloader = own  # the next that it makes is for validation
        loader, dataset = own(*args, **kwargs)
        return RepeatedBatch(task, _batch(task), loader, relaxed, lambda: {"version": version(root)}), dataset

    module.create_dataloader = with_our_loader
    module.run(
        data=task.data, cfg=str(root / f"models/detect/{task.model}.yaml"), weights="", imgsz=task.img,
        batch_size=task.batch, epochs=1, device=task.number, workers=0, noval=True, noplots=True,
        project=task.folder, name="run", exist_ok=True,
    )  # fmt: skip


def _batch(task: Task) -> tuple[Any, ...]:
    """Images and targets [N, 6]: image, class, cx, cy, w, h."""
    images, boxes, _ = drawn_batch(task)
    number = torch.arange(len(boxes)).view(-1, 1, 1).expand(-1, boxes.shape[1], 1)
    return images, torch.cat((number, boxes), -1).flatten(0, 1), [""] * task.batch, [None] * task.batch


def version(root: Path) -> str:
    """It has no numbers: the commit where the checkout knows it."""
    head = root / ".git" / "HEAD"
    return f"checkout {head.read_text().strip()}" if head.exists() else "checkout"


def val(task: Task) -> None:
    """Its `run`, half precision on a GPU. options: weights, images."""
    module = script("val", task.model)
    module.opt = Namespace(min_items=0)  # a global that it reads, which only its command line sets

    def once() -> Any:
        return module.run(
            task.data, task.options["weights"], task.batch, task.img, CONF, IOU, device=task.number, workers=task.workers,
            half=task.cuda, plots=False, project=task.folder, name="val", exist_ok=True,
        )  # fmt: skip

    (_, _, ap50, ap, *_), *_ = once()
    repeat(task, once, task.options["images"], version=version(Path(module.__file__).parent), ap=float(ap), ap50=float(ap50))


def plain(task: Task) -> None:
    """Write a checkpoint of its, which is a pickle of its classes, as a state dict. options: weights, to."""
    checkpoint = torch.load(task.options["weights"], map_location="cpu", weights_only=False)
    model = checkpoint.get("ema") or checkpoint["model"]
    torch.save(model.float().state_dict(), task.options["to"])
    say({"weights": task.options["to"]})


@torch.inference_mode()
def latency(task: Task) -> None:
    """From an image on the device to boxes on the host: fused, half precision on a GPU. options: weights."""
    common, general = importlib.import_module("models.common"), importlib.import_module("utils.general")
    model = common.DetectMultiBackend(task.options["weights"], device=torch.device(task.device), fp16=task.cuda)
    x = torch.rand(1, 3, task.img, task.img, device=task.device, dtype=torch.half if task.cuda else torch.float)

    def once() -> Any:
        given = model(x)[0]
        given = given[1] if isinstance(given, list) else given  # of two branches the second is the main one
        return [found.cpu() for found in general.non_max_suppression(given, 0.25, IOU)]

    repeat(task, once, 1, version=version(Path(str(common.__file__)).parents[1]))


if __name__ == "__main__":
    main({"train": train, "val": val, "latency": latency, "plain": plain})
