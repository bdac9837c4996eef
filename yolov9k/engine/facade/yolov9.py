"""The facade: `YOLOv9("yolov9-c" or a file)` with train, val, predict and export."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch

from yolov9k.common.console import PlainConsole, literal
from yolov9k.common.device import model_device, pick_device
from yolov9k.common.errors import UserError, warn
from yolov9k.compat import load, load_weights
from yolov9k.config import PredictOptions, TrainOptions, ValOptions
from yolov9k.config.keys import options_from
from yolov9k.config.train_options import RESUMABLE
from yolov9k.data.letterbox import rounded_size
from yolov9k.engine.events import Callbacks, Event, Listener
from yolov9k.engine.facade.metrics import Validation
from yolov9k.engine.facade.validation import run_validation
from yolov9k.engine.predict.inputs import One, frames_of, is_endless
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.sources import Source
from yolov9k.engine.predict.writers import results_shown, results_written, writing
from yolov9k.engine.train.run_dir import run_directory
from yolov9k.engine.train.trainer import Trainer
from yolov9k.models import DetectionModel, create_model
from yolov9k.models.analysis import summary
from yolov9k.models.checkpoints import save
from yolov9k.models.spec import load_spec
from yolov9k.models.tables import NAMES
from yolov9k.tasks import Result
from yolov9k.tasks.detect.boxes import Names

_FILES = (".pt", ".pth", ".ckpt", ".safetensors")
_ABSENT = {
    "export": "there is no export yet; model.model.to_lean().fuse() is a torch module that torch.export and torch.onnx take",
    "track": "there is no tracking yet; results go into a tracker of your own: result.boxes.data",
    "tune": "there is no tuning yet; train with several hyper-parameters and compare",
    "benchmark": "there is no benchmark of formats; 'yolov9k profile' measures training, result.speed prediction",
}


class YOLOv9:
    """A YOLOv9 that trains, validates and predicts.

    model: a variant's name ("yolov9-c", fresh weights), a YAML file of a model, a checkpoint's file, or a network. Options of
    the methods are those of the command line by any of their names, ours or those of other implementations (`imgsz`, `batch`,
    `epochs` ...); a mistyped one is told with the likeliest name. All raise UserError with one line for what a user can mend.
    """

    def __init__(self, model: str | Path | DetectionModel = "yolov9-c", task: str | None = None, verbose: bool = True) -> None:
        """task: "detect", the only one; verbose: whether training and validation print what the command line prints."""
        if task not in (None, "detect"):
            raise UserError(f"task {task}: only detect is there")
        self.verbose, self.callbacks = verbose, Callbacks()
        self.ckpt_path: Path | None = None
        self.trainer: Trainer | None = None
        self.metrics: Validation | None = None
        self._name: str | None = None
        self._data: str | None = None
        self._device: torch.device | None = None
        self._network: DetectionModel | None = None
        self._warned = False  # that its weights are fresh
        self._lent = False  # whether the network has left our hands, and may be another one than its name or file says
        self._predictor: tuple[Any, Predictor] | None = None
        if isinstance(model, DetectionModel):
            self._network, self._lent = model, True
        elif isinstance(model, str | Path) and Path(model).suffix.lower() in _FILES:
            self.ckpt_path, self._network = Path(model), load(model)
        elif isinstance(model, str | Path):
            load_spec(model)  # says at once that there is none
            self._name = str(model)
        else:
            kind = type(model).__name__
            raise UserError(f"YOLOv9: expected a model's name, a file or a network, got {kind}; {_renamed(kind)}")

    def __repr__(self) -> str:
        return f"YOLOv9({self._called()!r})"

    def _called(self) -> str:
        return str(self.ckpt_path or self._name or self._held().spec.name)

    def _held(self) -> DetectionModel:
        if self._network is None:
            self._network = create_model(cast(str, self._name)).eval()
        return self._network

    def _judged(self) -> DetectionModel:
        """The network for prediction or validation. Says once where nobody has trained it."""
        if self._name and not self._lent and not self._warned:
            self._warned = True
            fetch = f" ('yolov9k download {self._name}' fetches published ones)" if self._name in NAMES else ""
            warn(f"{self._name} has fresh weights, which find nothing: train it, or give a file of weights{fetch}")
        return self._held()

    @property
    def model(self) -> DetectionModel:
        """The network, a torch module; training starts from what it holds then."""
        self._lent = True
        return self._held()

    @property
    def names(self) -> Names:
        """Class names by number."""
        return Names(self._held().names)

    @property
    def task(self) -> str:
        """What the model is trained for."""
        return "detect"

    @property
    def device(self) -> torch.device:
        """Where the network lies, or where `to` has said that all is to run."""
        return self._device or model_device(self._held())

    def to(self, device: str | int | torch.device) -> YOLOv9:
        """Run all on a device from now on, unless a call says another. Returns itself."""
        self._device = pick_device(str(device))
        self._held().to(self._device)
        return self

    def cpu(self) -> YOLOv9:
        """Run all on the CPU."""
        return self.to("cpu")

    def cuda(self, number: int = 0) -> YOLOv9:
        """Run all on a GPU."""
        return self.to(number)

    def fuse(self) -> YOLOv9:
        """Nothing to do: prediction and validation run a fused copy anyway. Returns itself."""
        return self

    def load(self, weights: str | Path) -> YOLOv9:
        """Take over the weights of a file, as `--weights` beside `--cfg` does. Returns itself."""
        load_weights(self.model, weights)
        return self

    def save(self, path: str | Path = "saved_model.pt") -> None:
        """Write the network to a checkpoint, a .pt or .safetensors."""
        save(path, self._held())

    def info(self, detailed: bool = False, imgsz: int = 640) -> tuple[int, int, int, float]:
        """Print what the network costs, the table of its layers if `detailed`.

        Returns the numbers of layers, parameters and parameters that are trained, and GFLOPs.
        """
        network, size = self._held(), rounded_size(imgsz, "imgsz")
        parameters, gflops = summary.cost(network, size)
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        if detailed:
            self._console().print(summary.table(network, size))
        text = f"{network.spec.name}: {len(network.model)} layers, {parameters:,} parameters, {gflops:.1f} GFLOPs"
        self._console().print(literal(text))
        return len(network.model), parameters, trained, gflops

    def add_callback(self, event: str | type[Event], function: Listener) -> None:
        """Call a function with each event of a class of `engine.events`, or of Ultralytics' name for it."""
        self.callbacks.add(event, function)

    def clear_callback(self, event: str | type[Event]) -> None:
        """Forget the functions of an event."""
        self.callbacks.clear(event)

    def reset_callbacks(self) -> None:
        """Forget all functions."""
        self.callbacks.clear()

    def train(self, *, augment: Any = None, **options: Any) -> Validation:
        """Train, and hold the best weights from then on; returns their validation.

        options: those of `yolov9k train` and keys of a recipe (`lr0`, `mosaic` ...). augment: a function of (image, boxes,
        classes) that returns the three, called before all other augmentation (`data.transform.UserTransform`). A named model
        begins with fresh weights of `seed`, a file or network with its own. resume=True goes on with this object's file,
        otherwise with the latest run.
        """
        with ExitStack() as stack:
            made = cast(TrainOptions, options_from("train", self._start(options, stack)))
            console = self._console()
            if made.resume is None:
                self.trainer = Trainer(made, console, callbacks=self.callbacks, augment=augment)
            else:
                changes = {name: getattr(made, name) for name in RESUMABLE if name in made.given}
                path = self._resumed_file() if made.resume == "latest" else made.resume
                self.trainer = Trainer.resume(
                    path, made.project, console, callbacks=self.callbacks, augment=augment, **changes
                )  # fmt: skip
            result = self.trainer.fit()
        weights = self.trainer.directory / "weights"
        self.ckpt_path = weights / ("best.pt" if (weights / "best.pt").exists() else "last.pt")
        self._network, self._lent, self._name = load(self.ckpt_path).to(self.trainer.device), False, None
        self._data = self.trainer.options.data
        self.metrics = Validation(result, self.trainer.directory, self.names)
        return self.metrics

    def _start(self, options: dict[str, Any], stack: ExitStack) -> dict[str, Any]:
        """The options, and among them what training starts from; a network without a file of its own gets one for the while."""
        if options.get("resume"):
            return options
        given = self._placed(options)
        if not self._lent:
            return {**({"cfg": self._name} if self._name else {"weights": self.ckpt_path}), **given}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yolov9k-")))
        save(folder / "network.pt", self._held())
        return {"weights": folder / "network.pt", **given}

    def _resumed_file(self) -> Path | None:
        return self.ckpt_path.with_name("last.pt") if self.ckpt_path and self.ckpt_path.parent.name == "weights" else None

    def val(self, data: str | Path | None = None, **options: Any) -> Validation:
        """Validate: COCO's figures over a split.

        data: by default what this object was trained on. options: those of `yolov9k val`.
        """
        chosen = data if data is not None else self._data
        if chosen is None:
            raise UserError("val: give data, a data.yaml or a folder")
        values = {**self._placed(options), "data": chosen, "weights": self._called()}
        made = cast(ValOptions, options_from("val", values))
        result, directory = run_validation(made, self._console(), self._judged(), self.callbacks)
        self.metrics = Validation(result, directory, self.names)
        return self.metrics

    def predict(
        self, source: One | Source | Iterable[One] | None = None, *, stream: bool = False, verbose: bool = False, **options: Any
    ) -> Any:
        """Results of a source, one for each image or frame: a list, or with stream=True a generator that reads as it goes.

        source: a path, a folder, a pattern, a video, an array in BGR, a tensor in RGB, a Pillow image, the bytes of a file, a
        camera's number, or a list or generator of these. options: those of `yolov9k predict`. Nothing is written unless
        save, save_txt, save_crop or save_json asks for it. verbose: a line for each image.
        """
        if source is None:
            raise UserError("predict: give a source: a path, an array, an image or a list of these")
        if is_endless(source) and not stream:
            raise UserError(f"predict: camera {source} does not end; give stream=True and take its results one by one")
        values = {"save": False, **self._placed(options), "source": "source", "weights": self._called()}
        made = cast(PredictOptions, options_from("predict", values))
        made.check()
        frames = frames_of(source)
        if isinstance(frames, Source):
            frames.max_frames, frames.stride = made.max_frames, made.vid_stride
        results = self._results(self._predictor_of(made), frames, made, verbose)
        return results if stream else list(results)

    __call__ = predict

    def _results(self, predictor: Predictor, frames: Any, options: PredictOptions, verbose: bool) -> Iterator[Result]:
        with ExitStack() as stack:
            found: Iterable[Result] = predictor(frames)
            if not options.nosave or options.save_txt or options.save_json or options.save_crop:
                directory = stack.enter_context(run_directory(options.project, options.name, options.exist_ok))
                source = frames if isinstance(frames, Source) else None
                found = results_written(found, directory, source, **writing(options))
            elif options.view_img:
                found = results_shown(found)
            for result in found:
                if verbose:
                    self._console().print(literal(f"{result.path}: {', '.join(result.found()) or 'nothing'}"))
                yield result

    def _predictor_of(self, options: PredictOptions) -> Predictor:
        """A predictor of the network as it is now: the one before, unless options or weights are others."""
        network = self._judged()
        settings: dict[str, Any] = {
            "img_size": options.img, "conf": options.conf, "iou": options.iou, "classes": options.classes or None,
            "agnostic": options.agnostic_nms, "max_det": options.max_det, "device": options.device, "amp": options.amp,
            "batch": options.batch, "augment": options.augment,
        }  # fmt: skip
        key = (id(network), tuple(network.names), *settings.values(), *_versions(network))
        if self._predictor is None or self._predictor[0] != key:
            self._predictor = key, Predictor(network, callbacks=self.callbacks, **settings)
        return self._predictor[1]

    def export(self, **options: Any) -> Any:
        """Not there yet: says what to do instead."""
        raise UserError(f"export: {_ABSENT['export']}")

    def track(self, *source: Any, **options: Any) -> Any:
        """Not there yet: says what to do instead."""
        raise UserError(f"track: {_ABSENT['track']}")

    def tune(self, **options: Any) -> Any:
        """Not there yet: says what to do instead."""
        raise UserError(f"tune: {_ABSENT['tune']}")

    def benchmark(self, **options: Any) -> Any:
        """Not there: says what to do instead."""
        raise UserError(f"benchmark: {_ABSENT['benchmark']}")

    def _placed(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options with the device that `to` has chosen, unless they name one."""
        return options if self._device is None else {"device": str(self._device), **options}

    def _console(self) -> PlainConsole:
        return PlainConsole(quiet=not self.verbose)


def _versions(network: DetectionModel) -> Iterator[tuple[int, int]]:
    """What changes when a tensor of the network is replaced or written to; torch does not count for inference tensors."""
    for tensor in (*network.parameters(), *network.buffers()):
        yield id(tensor), 0 if tensor.is_inference() else tensor._version


def _renamed(kind: str) -> str:
    """What is told to code that took this for the network's class, as it was named once."""
    plan = kind == "ModelSpec"
    return "the network's class is yolov9k.DetectionModel" if plan else "yolov9k.load and yolov9k.create_model give networks"
