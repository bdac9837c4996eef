"""Validation end to end: `validate` of yolov9-t on drawn images against the same measurement without its shortcuts."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.config import load_split
from yolov9k.data.letterbox import map_to_image
from yolov9k.data.loader import Batch, Loader, make_loader
from yolov9k.data.records import Split
from yolov9k.data.synthetic import NAMES, generate
from yolov9k.engine.evaluate.validator import Criterion, validate
from yolov9k.engine.train.trainer import make_criterion
from yolov9k.models import DetectionModel
from yolov9k.ops import batched_nms
from yolov9k.tasks.detect.coco import CocoEvaluator
from yolov9k.tasks.detect.metrics import Metrics

# Images, their side and the batch: enough for a GPU to be busy, few enough for a CPU.
SCALES = {"cpu": (32, 320, 16), "cuda": (256, 640, 32)}


class Ready:
    """A loader whose batches lie in memory, page-locked where there is a GPU: reading files is not what is measured."""

    def __init__(self, loader: Loader) -> None:
        self.dataset, self.batches = loader.dataset, list(loader)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> object:
        return iter(self.batches)


@functools.cache
def random_case(device: str) -> tuple[DetectionModel, Ready, Split]:
    """The model, its statistics those of the images, and the images: the same in every run."""
    count, side, batch = SCALES[device]
    with tempfile.TemporaryDirectory() as folder:
        split = load_split(generate(Path(folder) / "data", train=1, val=count, size=side), "val")
        loader = make_loader(split, TrainRecipe(), img_size=side, batch=batch, augment=False, rect=True, workers=0)
        ready = Ready(loader)
    torch.manual_seed(0)
    model = create_model("yolov9-t", len(NAMES)).to(device).to(memory_format=torch.channels_last)
    model.names = list(NAMES)
    with torch.no_grad():
        for part in ready.batches[:2]:
            model.train().branches(part.images.to(device) / 255)
    return model.eval(), ready, split


@torch.no_grad()
def plain(model: DetectionModel, batches: list[Batch], split: Split, criterion: Criterion | None, amp: bool) -> Metrics:
    """The model as it was trained, every anchor decoded, every batch waited for, every image mapped by itself."""
    evaluator = CocoEvaluator(split.names, split.category_ids, split.records)
    device = next(model.parameters()).device
    for batch in batches:
        x = (batch.images.to(device).float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            branches = model.branches(x, main_only=criterion is None)
        if criterion:
            criterion(branches, (batch.boxes.to(device), batch.counts.to(device)))[1].cpu()
        kept = batched_nms(model.decode([level.float() for level in branches[-1]]), 0.001, 0.7, multi_label=True)
        detections, counts = kept.detections.cpu(), kept.counts.cpu()
        for row, index in enumerate(batch.indices):
            record, found = split.records[index], detections[row, : int(counts[row])]
            boxes = map_to_image(found[:, :4], batch.scale[row], batch.pad[row], (record.height, record.width))
            evaluator.update(record.image_id, torch.cat([boxes, found[:, 4:]], 1))
    return evaluator.compute()


@pytest.mark.parametrize("variant", ["validate", "plain"])
@pytest.mark.parametrize("loss", [False, True], ids=["detections", "with_loss"])
def bench_validation(measure: Callable[..., None], device: str, loss: bool, variant: str) -> None:
    """Batches in memory to metrics, the making of the fused copy included; bf16 on a GPU. Bytes are the images'."""
    model, ready, split = random_case(device)
    criterion, amp = (make_criterion(model, TrainRecipe()) if loss else None), device == "cuda"

    def run() -> Metrics:
        if variant == "plain":
            return plain(model, ready.batches, split, criterion, amp)
        options = {"split": split, "criterion": criterion, "amp": "bf16" if amp else "off"}
        return validate(model, ready, progress=False, **options).metrics  # type: ignore[arg-type]

    measure(run, device, sum(batch.images.numel() for batch in ready.batches), 20 if device == "cuda" else 5)
