"""Ultralytics, through its trainer class; only the training loader is put in. Its YOLOv9 has one branch, not two."""

from __future__ import annotations

from typing import Any

import torch

from bench.baselines.measure import CONF, IOU, RepeatedBatch, Task, drawn_batch, main, repeat

NOTE = "its own variant: one branch"


def config(model: str) -> str:
    """yolov9-t -> yolov9t.yaml, as it names them."""
    return model.replace("-", "") + ".yaml"


def train(task: Task) -> None:
    """options: those of its configuration, and channels_last, which it has not."""
    import ultralytics
    from ultralytics.models.yolo.detect import DetectionTrainer

    given = dict(task.options)
    last = given.pop("channels_last", False)

    class FedTrainer(DetectionTrainer):  # type: ignore[misc]
        fed = False

        def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
            loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
            if mode != "train":
                return loader
            if self.fed:  # it tries again with half the batch
                raise MemoryError("its trainer ran out of memory")
            self.fed = True
            return RepeatedBatch(task, _batch(task, last), loader, self._laid_out, extra=self._told)

        def _laid_out(self) -> None:
            if last:
                self.model.to(memory_format=torch.channels_last)

        def _told(self) -> dict[str, Any]:
            compiled = hasattr(self.model, "_orig_mod")
            return {"version": ultralytics.__version__, "note": NOTE, "ran": "compiled" if compiled else "eager"}

    trainer = FedTrainer(overrides={
        "model": config(task.model), "data": task.data, "imgsz": task.img, "batch": task.batch, "nbs": task.batch,
        "epochs": 1, "device": task.number, "workers": 0, "val": False, "plots": False, "save": False,
        "project": task.folder, "name": "run", "exist_ok": True, "pretrained": False, "optimizer": "SGD", "lr0": 0.01,
        "amp": "bf16" if task.cuda else False, **given,
    })  # fmt: skip
    trainer.train()


def _batch(task: Task, last: bool) -> dict[str, Any]:
    images, boxes, _ = drawn_batch(task)
    images = images.contiguous(memory_format=torch.channels_last) if last else images
    rows = boxes.flatten(0, 1)
    index = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1]).float()
    sizes = [(task.img, task.img)] * task.batch
    return {
        "img": images, "cls": rows[:, :1], "bboxes": rows[:, 1:], "batch_idx": index,
        "im_file": [""] * task.batch, "ori_shape": sizes, "resized_shape": sizes,
    }  # fmt: skip


def _loaded(task: Task) -> tuple[Any, dict[str, Any]]:
    """Its model, and what both uses of it are given: half precision on a GPU, its own options."""
    from ultralytics import YOLO

    options = {
        key: value for key, value in task.options.items() if key not in ("weights", "images", "classes", "channels_last")
    }
    common = {"imgsz": task.img, "device": task.number, "iou": IOU, "verbose": False, "save": False}
    precision = {"quantize": 16} if task.cuda else {}
    return YOLO(task.options["weights"]), common | precision | options


def val(task: Task) -> None:
    """Its `val`. options: weights, images, its own."""
    import ultralytics

    model, common = _loaded(task)
    places = {"project": task.folder, "name": "val", "exist_ok": True}

    def once() -> Any:
        return model.val(data=task.data, batch=task.batch, conf=CONF, workers=task.workers, plots=False, **places, **common)

    box = once().box
    repeat(
        task,
        once,
        task.options["images"],
        version=ultralytics.__version__,
        note=NOTE,
        ap=float(box.map),
        ap50=float(box.map50),
    )


def latency(task: Task) -> None:
    """Its `predict` of a tensor: from an image on the device to boxes on the host. options: weights, its own."""
    import ultralytics

    model, common = _loaded(task)
    x = torch.rand(1, 3, task.img, task.img, device=task.device)
    if task.options.get("channels_last"):
        model.predict(x, **common)  # its predictor, and the fused model in it, are made at the first call
        model.predictor.model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    repeat(
        task,
        lambda: [found.cpu() for found in model.predict(x, conf=0.25, **common)],
        1,
        version=ultralytics.__version__,
        note=NOTE,
    )


if __name__ == "__main__":
    main({"train": train, "val": val, "latency": latency})
