"""Prediction on images and videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from yolov9k.common.device import autocast, pick_device
from yolov9k.common.errors import UserError, check_range, one_line, warn
from yolov9k.common.numbers import is_whole
from yolov9k.common.timing import Clock, Speed
from yolov9k.compat import load
from yolov9k.config.flags import MOST_DETECTIONS
from yolov9k.data.letterbox import letterbox, rounded_size
from yolov9k.engine.events import Callbacks, PredictBatchEnd, PredictBatchStart, PredictEnd, PredictStart
from yolov9k.engine.inference import inference_form, to_input
from yolov9k.engine.predict.inputs import One, frames_of
from yolov9k.engine.predict.sources import Frame, Source
from yolov9k.models import DetectionModel
from yolov9k.tasks import DecodeOptions, Result, task_of


class Predictor:
    """A model made ready for prediction: lean, fused, on its device.

    model: a network (left as it is) or the path of its weights. img_size: the long side that images are resized to,
    the other side follows, rounded up to the stride. classes: numbers or names to keep, None for all. batch: so many
    consecutive images of one shape share a pass. device: pick_device. amp: "off", "fp16", "bf16". augment: three sizes of
    each image, one of them mirrored, are taken together. callbacks: are told of each call and pass. Raises UserError.
    """

    def __init__(
        self,
        model: DetectionModel | str | Path,
        img_size: int = 640,
        conf: float = 0.25,
        iou: float = 0.45,
        classes: Sequence[int | str] | None = None,
        agnostic: bool = False,
        max_det: int = 1000,
        device: str | torch.device | None = None,
        amp: str = "off",
        batch: int = 1,
        channels_last: bool = True,
        augment: bool = False,
        callbacks: Callbacks | None = None,
    ) -> None:
        check_range("conf", conf, 0, 1)
        check_range("iou", iou, 0, 1)
        check_range("max-det", max_det, 1, MOST_DETECTIONS)
        check_range("batch", batch, 1)
        self.device = pick_device(device)
        autocast(self.device, amp)  # says at once when there is no such precision
        loaded = load(model) if isinstance(model, (str, Path)) else model
        self.model = inference_form(loaded, self.device, channels_last=channels_last)
        self.names = list(self.model.names)
        self.img_size = rounded_size(img_size, "--img", self.model.stride)
        self.task = task_of(self.model)
        chosen = None if classes is None else [index for c in classes for index in _class_indices(c, self.names)]
        self.options = DecodeOptions(conf, iou, max_det, chosen, agnostic)
        self.amp, self.batch, self.channels_last, self.augment = amp, batch, channels_last, augment
        self.clock, self.images = Clock(self.device), 0
        self.callbacks = callbacks or Callbacks()

    @property
    def speed(self) -> Speed:
        """Mean over all images so far."""
        return self.clock.speed(self.images)

    def __call__(self, source: One | Source | Iterable[One]) -> Iterator[Result]:
        """Results one after the other.

        source: what open_source takes, a camera's number, a uint8 array [H, W, 3] in BGR or [H, W] in gray, a tensor [3, H, W]
        or [B, 3, H, W] in RGB, uint8 or 0..1, a Pillow image, the bytes of an image's file, or any iterable of these, of which
        one is read at a time. Raises UserError for a source that is not there or of another kind.
        """
        return self._predict(frames_of(source))

    def _predict(self, frames: Iterable[Frame]) -> Iterator[Result]:
        self.callbacks.emit(PredictStart(self))
        waiting: list[Frame] = []
        for frame in frames:
            if waiting and waiting[0].image.shape != frame.image.shape:
                yield from self._run(waiting)
                waiting = []
            waiting.append(frame)
            if len(waiting) == self.batch:
                yield from self._run(waiting)
                waiting = []
        if waiting:
            yield from self._run(waiting)
        self.callbacks.emit(PredictEnd(self))

    def _run(self, frames: list[Frame]) -> list[Result]:
        """Results of frames of one shape."""
        paths = [frame.path for frame in frames]
        self.callbacks.emit(PredictBatchStart(self, paths))
        results = self._results(frames)
        self.callbacks.emit(PredictBatchEnd(self, paths, results))
        return results

    @torch.no_grad()
    def _results(self, frames: list[Frame]) -> list[Result]:
        before = self.clock.speed(1)
        with self.clock.phase("preprocess"):
            square, model = (self.img_size, self.img_size), self.model
            fitted = [letterbox(f.image, square, stride=model.stride, placement=model.letterbox) for f in frames]
            planes = np.stack([image[..., ::-1].transpose(2, 0, 1) for image, _, _ in fitted])
            x = to_input(torch.from_numpy(planes), self.model, self.device, self.channels_last)
        with self.clock.phase("inference"), autocast(self.device, self.amp):
            maps = self.task.views(self.model, x) if self.augment else self.model.branches(x, main_only=True)[-1]
        with self.clock.phase("postprocess"):
            decode = self.task.decode_views if self.augment else self.task.decode
            found, counts = decode(self.model, maps, self.options)
            if not (self.augment or self.images) and bool(self.task.nonfinite(self.model, maps).any()):
                warn("the model gives NaN or infinity; such predictions are left out")
            rows, (_, gain, pad) = found.cpu(), fitted[0]
            results = [
                self.task.result(frame, mine[:n], gain, pad, self.names)
                for frame, mine, n in zip(frames, rows, counts.tolist(), strict=True)
            ]
        self.images += len(frames)
        spent = self.clock.speed(1).since(before, len(frames))  # nothing is waited for: the results are on the host
        for result in results:
            result.speed = dict(spent)
        return results


def _class_indices(wanted: int | str, names: Sequence[str]) -> list[int]:
    """Numbers of a class, or of several with commas between them; a name may hold commas, the longest one that fits counts."""
    parts, found = str(wanted).split(","), list[int]()
    while parts:
        ends = range(len(parts), 0, -1)
        end, index = next(((end, i) for end in ends if (i := _class_index(",".join(parts[:end]), names)) is not None), (0, -1))
        if not end:
            known = f"the model knows 0..{len(names) - 1}: {', '.join(names[:100])}"
            raise UserError(f"--classes {one_line(','.join(parts), 60)}: {known}")
        found.append(index)
        parts = parts[end:]
    return found


def _class_index(text: str, names: Sequence[str]) -> int | None:
    for name in (text, text.strip()):
        if name in names:
            return names.index(name)
    number = text.strip()
    return int(number) if is_whole(number) and int(number) < len(names) else None
