"""Flags that several commands have, and the choices of values. The layers above import these or are tested against them."""

from __future__ import annotations

from typing import Annotated

from yolov9k.config.option import Option

AMP_NAMES = ("off", "fp16", "bf16")
AMP_OR_AUTO = ("auto", *AMP_NAMES)
MODES = ("auto", "eager", "captured", "compiled")
LR_CURVES = ("linear", "cosine", "flat-cosine", "constant")
CACHES = ("ram", "disk")
DECODERS = ("cpu", "nvjpeg")
SPLITS = ("train", "val", "test")
OPTIMIZERS = ("SGD", "AdamW", "Adam")
PLACEMENTS = ("center", "topleft")  # of an image in its letterbox
TARGETS = ("published", "lean", "ultralytics", "mit", "libreyolo", "safetensors")  # of a conversion
THICKEST = 100  # pixels of a box's line
MAX_CLASSES = 100_000  # of a data set and of a model
MOST_DETECTIONS = 100_000  # in an image: room for all of them is taken beforehand

ONE_CHECKPOINT = "ensembles are not taken over; give one checkpoint"
LABEL_FORMATS = "YOLO, COCO, Pascal VOC, labelme, CSV or Darknet (CVAT)"
DATA_HELP = f"data.yaml, or a folder or file of {LABEL_FORMATS} labels"
CFG_HELP = "model: yolov9-t, -s, -m, -c, -e, gelan-t ... -e, or a YAML file"

CfgOfWeights = Annotated[
    str | None, Option("which model the weights are of, where their file does not tell: a name or YAML file", path=True)
]
Data = Annotated[str, Option(DATA_HELP, path=True)]
Img = Annotated[
    int,
    Option(
        "image size, rounded up to a multiple of 32 pixels", ("--img", "--imgsz", "--img-size"), low=1, unit="pixels",
        single="give one size, of the long side",
    ),
]  # fmt: skip
Batch = Annotated[int, Option("images an iteration", ("--batch", "--batch-size"), low=1)]
Device = Annotated[str, Option("auto, cpu, cuda, cuda:N, or a GPU's number")]
Workers = Annotated[int, Option("processes that read images; 0 reads in the main process", low=0)]
SingleCls = Annotated[bool, Option("treat all classes as one")]
Amp = Annotated[str, Option(f"mixed precision: {', '.join(AMP_OR_AUTO)}", choices=AMP_OR_AUTO)]
FixedAmp = Annotated[str, Option(f"mixed precision: {', '.join(AMP_NAMES)}", choices=AMP_NAMES)]
Mode = Annotated[str, Option("training step: auto, eager, captured (CUDA graphs), compiled", choices=MODES)]
Project = Annotated[str, Option("folder of the run directories", path=True)]
Name = Annotated[str, Option("name of the run directory; a taken one gets a number", path=True)]
ExistOk = Annotated[bool, Option("write into an existing run directory")]
Difficult = Annotated[bool, Option("objects marked difficult are ordinary; without, as crowds: not trained on, ignored")]
KeepEmptyClasses = Annotated[bool, Option("a COCO category that groups all others and has no box is a class too")]
Strict = Annotated[bool, Option("refuse data with faulty labels or images")]
Conf = Annotated[float, Option("lowest score of a detection", ("--conf-thres", "--conf"), low=0, high=1)]
Iou = Annotated[
    float, Option("overlap above which the lower-scored box falls", ("--iou-thres", "--iou"), low=0, high=1, unit="IoU")
]
SaveTxt = Annotated[bool, Option("write YOLO labels")]
SaveConf = Annotated[bool, Option("with scores in the labels")]
Augment = Annotated[
    bool, Option("test-time augmentation: three sizes, one of them mirrored, taken together; over twice the work")
]
MaxDet = Annotated[int, Option("most detections in an image", low=1, high=MOST_DETECTIONS)]
