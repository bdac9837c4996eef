"""What a training run is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from yolov9k.common.errors import UserError, warn
from yolov9k.config import flags
from yolov9k.config.base import Options
from yolov9k.config.flavors import FLAVORS
from yolov9k.config.option import LARGEST, Option

# What a resumed run may take up anew: where and how it runs, and for how long, but not what is trained.
RESUMABLE = ("epochs", "data", "device", "workers", "cache", "decode", "mode", "amp", "noplots", "time")


@dataclass
class TrainOptions(Options):
    """Options of a training run."""

    data: flags.Data = ""
    cfg: Annotated[str | None, Option(flags.CFG_HELP, path=True)] = None
    weights: Annotated[str | None, Option("checkpoint to start from", path=True, single=flags.ONE_CHECKPOINT)] = None
    img: flags.Img = 640
    batch: Annotated[
        int,
        Option(
            "images an iteration; auto (or -1): the most that fit in memory", ("--batch", "--batch-size"), low=1,
            words={"auto": 0, "-1": 0},
        ),
    ] = 16  # fmt: skip
    epochs: Annotated[int, Option("passes over the training data", low=1)] = 500
    hyp: Annotated[str | None, Option("a YAML, or default, small (a few hundred images), demo", path=True)] = None
    flavor: Annotated[
        str, Option(f"whose defaults are meant: {', '.join(FLAVORS)}", choices=tuple(FLAVORS))
    ] = "published"  # fmt: skip
    device: flags.Device = "auto"
    workers: flags.Workers = 8
    project: flags.Project = "runs/train"
    name: flags.Name = "exp"
    exist_ok: flags.ExistOk = False
    close_mosaic: Annotated[int, Option("so many last epochs are without mosaic", low=0, unit="epochs")] = 15
    resume: Annotated[
        str | None,
        Option(
            f"go on with the latest run, or with a last.pt; of other flags {', '.join(RESUMABLE)} count",
            bare="latest",
            path=True,
        ),
    ] = None
    cache: Annotated[
        str | None,
        Option(
            "keep decoded images in ram (also without a value) or on disk", choices=flags.CACHES, bare="ram",
            otherwise="no such cache; choose 'ram' or 'disk'",
        ),
    ] = None  # fmt: skip
    decode: Annotated[
        str, Option("what fills the cache for training: cpu, or nvjpeg of torchvision", choices=flags.DECODERS)
    ] = "cpu"  # fmt: skip
    rect: Annotated[bool, Option("rectangular batches, without mosaic")] = False
    multi_scale: Annotated[bool, Option("vary the image size by half, up and down")] = False
    single_cls: flags.SingleCls = False
    freeze: Annotated[tuple[int, ...], Option("freeze the first N layers, or those listed: 0 1 2")] = ()
    patience: Annotated[
        int, Option("stop after so many epochs without better fitness; 0: never", low=0, unit="epochs")
    ] = 100  # fmt: skip
    amp: flags.Amp = "auto"
    mode: flags.Mode = "auto"
    checkpoint: Annotated[bool, Option("keep fewer activations and compute them again: less memory, more time")] = False
    bad_steps: Annotated[int, Option("stop after N consecutive non-finite steps", low=1, unit="steps")] = 10
    label_smoothing: Annotated[float | None, Option("class label smoothing, 0 to 0.999")] = None  # the recipe checks it
    seed: Annotated[int, Option("of weights and augmentation", low=0)] = 0
    strict: flags.Strict = False
    difficult: flags.Difficult = False
    keep_empty_classes: flags.KeepEmptyClasses = False
    noval: Annotated[bool, Option("validate after the last epoch alone")] = False
    noplots: Annotated[bool, Option("draw no images or curves")] = False
    min_items: Annotated[int, Option("leave out training images with fewer objects", low=0, unit="objects")] = 0
    optimizer: Annotated[
        str, Option(f"{', '.join(flags.OPTIMIZERS)}; the last two want a smaller lr0, such as 0.001", choices=flags.OPTIMIZERS)
    ] = "SGD"  # fmt: skip
    lr_curve: Annotated[
        str, Option(f"learning rate by epoch: {', '.join(flags.LR_CURVES)}", choices=flags.LR_CURVES)
    ] = "linear"  # fmt: skip
    save_period: Annotated[
        int, Option("also keep the weights of every so many epochs; below 1: not", unit="epochs")
    ] = -1  # fmt: skip
    fraction: Annotated[
        float, Option("share of the training images, drawn by --seed", low=1e-6, high=1)
    ] = 1.0  # fmt: skip
    time: Annotated[
        float | None, Option("train as many epochs as fit into so many hours, in place of --epochs", low=1e-6, unit="hours")
    ] = None  # fmt: skip
    override: Annotated[
        tuple[str, ...], Option("hyper-parameters in place of those of --hyp, as lr0=0.02 mosaic=0; train lr0=0.02 does it too")
    ] = ()  # fmt: skip

    def check(self) -> None:
        """Raises UserError for values that cannot be; ends mosaic for a quarter of the epochs at most, and says so.

        What needs the models, the data's folder or the device is checked by the trainer.
        """
        if not self.data:
            raise UserError(f"give --data: a {flags.DATA_HELP}")
        super().check()
        if self.seed > LARGEST:
            raise UserError(f"--seed {self.seed}: expected at most {LARGEST}")
        if self.cfg is None and self.weights is None:
            raise UserError("give --cfg (a model's name or YAML file), --weights (a checkpoint), or both")
        if self.decode == "nvjpeg" and self.cache is None:
            raise UserError("--decode nvjpeg: it fills a cache; add --cache ram or --cache disk")
        if self.close_mosaic > self.epochs // 4:
            few = self.epochs // 4
            warn(f"--close-mosaic {self.close_mosaic}: {few} of {self.epochs} epochs are without mosaic, a quarter at most")
            self.close_mosaic = few

    def plain(self) -> dict[str, Any]:
        """What a checkpoint and opt.yaml hold: all but `resume`, which is of one call and not of the run."""
        values = {**asdict(self), "freeze": list(self.freeze), "override": list(self.override)}
        del values["resume"]
        return values
