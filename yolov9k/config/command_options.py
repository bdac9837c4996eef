"""What the other commands are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from yolov9k.config import flags
from yolov9k.config.base import Options
from yolov9k.config.option import Option
from yolov9k.config.train_options import TrainOptions


@dataclass
class ValOptions(Options):
    """Options of a validation."""

    data: flags.Data
    weights: Annotated[str, Option("checkpoint to validate", path=True, single=flags.ONE_CHECKPOINT)]
    cfg: flags.CfgOfWeights = None
    img: flags.Img = 640
    batch: flags.Batch = 32
    task: Annotated[
        str,
        Option(
            "split: train, val or test", choices=flags.SPLITS,
            otherwise=f"expected one of {', '.join(flags.SPLITS)}; speed is printed with each of them",
        ),
    ] = "val"  # fmt: skip
    conf: flags.Conf = 0.001
    iou: flags.Iou = 0.7
    max_det: flags.MaxDet = 300
    augment: flags.Augment = False
    device: flags.Device = "auto"
    workers: flags.Workers = 8
    project: flags.Project = "runs/val"
    name: flags.Name = "exp"
    exist_ok: flags.ExistOk = False
    single_cls: flags.SingleCls = False
    amp: flags.FixedAmp = "off"
    save_json: Annotated[bool, Option("write detections as COCO JSON")] = False
    save_txt: flags.SaveTxt = False
    save_conf: flags.SaveConf = False
    strict: flags.Strict = False
    difficult: flags.Difficult = False
    keep_empty_classes: flags.KeepEmptyClasses = False


@dataclass
class PredictOptions(Options):
    """Options of a prediction."""

    source: Annotated[str, Option("image, folder, glob, video, or .txt list of them", path=True)]
    weights: Annotated[str, Option("checkpoint", path=True, single=flags.ONE_CHECKPOINT)]
    cfg: flags.CfgOfWeights = None
    img: flags.Img = 640
    conf: flags.Conf = 0.25
    iou: flags.Iou = 0.45
    max_det: flags.MaxDet = 1000
    classes: Annotated[
        tuple[int | str, ...], Option("keep these classes alone, by number or name: 0 2 3", commas=False)
    ] = ()  # fmt: skip
    agnostic_nms: Annotated[bool, Option("boxes of different classes compete")] = False
    batch: flags.Batch = 1
    augment: flags.Augment = False
    device: flags.Device = "auto"
    amp: flags.FixedAmp = "off"
    project: flags.Project = "runs/predict"
    name: flags.Name = "exp"
    exist_ok: flags.ExistOk = False
    save_txt: flags.SaveTxt = False
    save_conf: flags.SaveConf = False
    save_crop: Annotated[bool, Option("write what each box shows into crops/CLASS")] = False
    save_json: Annotated[bool, Option("write predictions.json")] = False
    nosave: Annotated[bool, Option("write no annotated images or videos")] = False
    hide_labels: Annotated[bool, Option("draw boxes without names")] = False
    hide_conf: Annotated[bool, Option("draw names without scores")] = False
    line_thickness: Annotated[
        int | None, Option("width of the boxes' lines in pixels", low=1, high=flags.THICKEST, unit="pixels")
    ] = None  # fmt: skip
    max_frames: Annotated[int | None, Option("most frames of each video that are looked at", low=1)] = None
    vid_stride: Annotated[int, Option("of a video's frames every so many-th is looked at", low=1, unit="frames")] = 1
    view_img: Annotated[bool, Option("show results in a window, which q or Esc closes, where there is a display")] = False


@dataclass
class InfoOptions(Options):
    """Options of the report on a model or on this machine."""

    model: Annotated[
        str | None, Option("model's name, YAML file or checkpoint; without one, the machine", argument=True, path=True)
    ] = None  # fmt: skip
    cfg: flags.CfgOfWeights = None
    img: flags.Img = 640
    nc: Annotated[int | None, Option("number of classes; left out: the YAML's, else 80")] = None
    plan: Annotated[bool, Option("print the steps that each block runs on a GPU, and their cost")] = False


@dataclass
class ConvertOptions(Options):
    """Options of a conversion."""

    source: Annotated[str, Option("checkpoint of this or another implementation", argument=True, path=True)]
    out: Annotated[str, Option("file to write", argument=True, path=True)]
    to: Annotated[str, Option(f"whose file: {', '.join(flags.TARGETS)}", choices=flags.TARGETS)]
    cfg: flags.CfgOfWeights = None


@dataclass
class ProfileOptions(Options):
    """Options of the profile of a training step."""

    cfg: Annotated[str, Option(f"{flags.CFG_HELP}, or a checkpoint", ("--cfg", "--weights"), path=True)]
    batch: flags.Batch = 16
    img: flags.Img = 640
    nc: Annotated[int, Option("classes of the drawn images; with --data the data's count", low=1)] = 80
    device: flags.Device = "auto"
    mode: flags.Mode = "auto"
    amp: flags.Amp = "auto"
    steps: Annotated[int, Option("steps that are measured, after warming up", low=1, unit="steps")] = 10
    data: Annotated[str | None, Option("measure with a data set's loader; without, on random images", path=True)] = None
    workers: flags.Workers = 8
    difficult: flags.Difficult = False
    keep_empty_classes: flags.KeepEmptyClasses = False
    project: flags.Project = "runs/profile"
    name: flags.Name = "exp"


@dataclass
class DataCheckOptions(Options):
    """Options of the report on a data set."""

    path: Annotated[str, Option(flags.DATA_HELP, argument=True, path=True)]
    plot: Annotated[str | None, Option("draw a grid of labeled images into this PNG", path=True)] = None
    strict: flags.Strict = False
    difficult: flags.Difficult = False
    keep_empty_classes: flags.KeepEmptyClasses = False


@dataclass
class DemoOptions(Options):
    """Options of the demonstration."""

    folder: Annotated[str, Option("where the generated images go", path=True)] = "runs/demo-data"
    project: flags.Project = "runs/train"
    epochs: Annotated[int, Option("passes over the generated images", low=1)] = 14
    images: Annotated[
        int,
        Option(
            "images to train on; a fifth of them more are drawn to validate", ("--images", "--scenes"), low=1, unit="images"
        ),
    ] = 480


@dataclass
class DownloadOptions(Options):
    """Options of a download."""

    variant: Annotated[
        str | None, Option("published weights, such as yolov9-c; left out: a list of them", argument=True)
    ] = None  # fmt: skip
    to: Annotated[str, Option("folder that the file goes into", path=True)] = "weights"
    mirror: Annotated[str | None, Option("address of a mirror of the release, in place of its own")] = None


# The options of each command of `yolov9k`, in the order of its help.
COMMANDS: dict[str, type[Options]] = {
    "train": TrainOptions,
    "val": ValOptions,
    "predict": PredictOptions,
    "info": InfoOptions,
    "convert": ConvertOptions,
    "profile": ProfileOptions,
    "demo": DemoOptions,
    "data check": DataCheckOptions,
    "download": DownloadOptions,
}
