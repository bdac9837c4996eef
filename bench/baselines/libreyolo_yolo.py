"""LibreYOLO, through its model's `train`; only the training loader is put in. Its second branch is its own."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from bench.baselines.measure import CLASSES, CONF, IOU, RepeatedBatch, Task, drawn_batch, main, repeat

NOTE = "its own variant: one branch and an auxiliary head"


def make(task: Task) -> Any:
    """Its model: fresh, or with the weights of the options."""
    from libreyolo.models.yolo9.model import LibreYOLO9

    size = task.model.removeprefix("yolov9-")
    return LibreYOLO9(task.options.get("weights"), size, nb_classes=task.options.get("classes", CLASSES), device=task.device)


def train(task: Task) -> None:
    """options: those of its `train`."""
    from libreyolo.models.yolo9.trainer import YOLO9Trainer

    class FedTrainer(YOLO9Trainer):  # type: ignore[misc]
        def setup(self) -> Any:
            done = super().setup()
            self.train_loader = RepeatedBatch(task, _batch(task), self.train_loader, extra=told)
            return done

    def told() -> dict[str, Any]:
        return {"version": version("libreyolo"), "note": NOTE}

    model = make(task)
    model._trainer_class = lambda: FedTrainer
    model.train(
        task.data, epochs=1, batch=task.batch, imgsz=task.img, device=task.number, workers=0,
        project=task.folder, name="run", exist_ok=True, eval_interval=0, pretrained=False, **task.options,
    )  # fmt: skip


def _batch(task: Task) -> tuple[Any, ...]:
    """Images 0..1 and targets [B, 300, 5]: class, x1, y1, x2, y2 normalized, class -1 where there is no box."""
    images, boxes, _ = drawn_batch(task)
    targets: Tensor = torch.zeros(task.batch, 300, 5)
    targets[..., 0] = -1
    centers, sides = boxes[..., 1:3], boxes[..., 3:]
    targets[:, : boxes.shape[1]] = torch.cat((boxes[..., :1], centers - sides / 2, centers + sides / 2), -1)
    made = images.float() / 255, targets
    images, targets = (tensor.pin_memory() for tensor in made) if task.cuda else made
    return images, targets, [(task.img, task.img)] * task.batch, list(range(task.batch))


def val(task: Task) -> None:
    """Its `val`, half precision on a GPU. options: weights, images, classes."""
    model = make(task)

    def once() -> Any:
        return model.val(
            task.data, task.batch, task.img, CONF, IOU, task.workers, half=task.cuda, verbose=False,
            project=task.folder, name="val", exist_ok=True,
        )  # fmt: skip

    metrics = once()
    ap, ap50 = (float(metrics[f"metrics/mAP50{end}"]) for end in ("-95", ""))
    repeat(task, once, task.options["images"], version=version("libreyolo"), note=NOTE, ap=ap, ap50=ap50)


def latency(task: Task) -> None:
    """Its `predict` of a tensor: from an image on the device to boxes on the host. options: weights, classes, cuda_graph."""
    model, graph = make(task), task.options["cuda_graph"]
    x = torch.rand(1, 3, task.img, task.img, device=task.device)

    def once() -> Any:
        return [found.cpu() for found in _listed(model.predict(x, conf=0.25, iou=IOU, imgsz=task.img, cuda_graph=graph))]

    repeat(task, once, 1, version=version("libreyolo"), note=f"{NOTE}; float32, its predict has no other")


def _listed(results: Any) -> list[Any]:
    return results if isinstance(results, list) else [results]


if __name__ == "__main__":
    main({"train": train, "val": val, "latency": latency})
