"""Names that other implementations give options, by command: what each stands for here, and which of them has it.

Of names alone: flags of the published scripts, keys of Ultralytics and LibreYOLO, Hydra paths of the MIT rewrite. The
command line, the facade (`config.keys`) and the documentation's tables read it. Names that are ours too have no entry,
unless their values differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import NamedTuple

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors")


class Alias(NamedTuple):
    """Another name of an option.

    option: our field or hyper-parameter, or what chooses one by the value. values: what their values stand for here, None
    where nothing is to be done, which `why` explains; others go on as they are. switch: a flag stands alone and means "true".
    """

    option: str | Callable[[str], str]
    values: Mapping[str, str | None] = {}
    switch: bool = False
    why: str = ""


class Idle(NamedTuple):
    """What is accepted without effect, and why nothing is lost."""

    why: str
    switch: bool = False


class Absent(NamedTuple):
    """What is refused, and what to do instead; values that ask for nothing (false, 0) are taken."""

    advice: str
    switch: bool = False


Meaning = Alias | Idle | Absent


def _either(value: str) -> str:
    return "weights" if PurePath(value).suffix.lower() in CHECKPOINTS else "cfg"


def _negated(option: str) -> Alias:
    return Alias(option, {"true": "false", "false": "true"}, switch=True)


_LOGGER = Idle("curves are in results.csv, results.png and TensorBoard's log")
_LOGGER_SWITCH = _LOGGER._replace(switch=True)
_DEVICE = Idle("one device has nothing to synchronize", switch=True)
_ONNX = Idle("it concerns ONNX files", switch=True)
_OTHER_TASKS = Idle("it concerns tasks other than detection")
_REPEATABLE = Idle("a seed gives the same run anyway", switch=True)
_SAVED = Idle("last.pt and best.pt are always kept", switch=True)
_TOLD = Idle("what matters is printed anyway", switch=True)
_FRESH = "weights come from the file that --weights names; 'yolov9k download' fetches published ones"
_HALF = Alias("amp", {"true": "fp16", "false": "off"}, switch=True)
_FIXED_AMP = {"true": "fp16", "false": "off"}
_NO_TEACHER = Absent("leave it out; there is no distillation")
_DTYPES = {"float16": "fp16", "bfloat16": "bf16"}
_NO_SUCH_AUGMENTATION = Absent("leave it out; --hyp lists what images are augmented by")
_OPTIMIZERS = {"auto": "SGD", "sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}

# Of every command that reads a checkpoint or writes a run.
_COMMON: dict[str, Meaning] = {
    "mode": Alias("mode", {"train": None, "val": None, "predict": None}),
    "verbose": _TOLD,
    "quiet": _TOLD,
    "json": Absent("what is printed is for people; results are in the run directory", switch=True),
    "dry_run": Absent("leave it out", switch=True),
    "help_json": Absent("'--help' lists the options", switch=True),
    "allow_download_scripts": Absent("code in a data.yaml is never run; fetch the data by hand", switch=True),
    "cpu_num": Alias("workers"),
    "image_size": Alias("img"),
    "out_path": Alias("project"),
    "use_wandb": _LOGGER,
    "use_tensorboard": _LOGGER,
    "accelerator": Idle("--device says it"),
    "dnn": _ONNX,
    "quantize": Absent("leave it out; --amp chooses the precision"),
    "eval_max_det": Idle("COCO's evaluation takes 100 an image"),
    "faster_coco_eval": Idle("it is what evaluates", switch=True),
    "plot_samples": Idle("the first batch is drawn"),
}

_RECIPE_PATHS = {  # the MIT rewrite's; names after the first column are hyper-parameters of ours
    "task.optimizer.args.lr": "lr0",
    "task.optimizer.args.weight_decay": "weight_decay",
    "task.optimizer.args.momentum": "momentum",
    "task.loss.objective.BoxLoss": "box",
    "task.loss.objective.BCELoss": "cls",
    "task.loss.objective.DFLoss": "dfl",
    "task.loss.aux": "auxiliary",
    "task.loss.matcher.topk": "tal_topk",
    "task.loss.matcher.factor.iou": "tal_beta",
    "task.loss.matcher.factor.cls": "tal_alpha",
    "task.scheduler.warmup.epochs": "warmup_epochs",
    "task.scheduler.args.end_factor": "lrf",
    "task.ema.decay": "ema_decay",
    "task.data.data_augment.Mosaic": "mosaic",
    "task.data.data_augment.MixUp": "mixup",
    "task.data.data_augment.HorizontalFlip": "fliplr",
}

MEANINGS: dict[str, dict[str, Meaning]] = {
    "train": {
        **_COMMON,
        # the published scripts
        "cos_lr": Alias("lr_curve", {"true": "cosine", "false": None}, switch=True),
        "flat_cos_lr": Alias("lr_curve", {"true": "flat-cosine", "false": None}, switch=True),
        "fixed_lr": Alias("lr_curve", {"true": "constant", "false": None}, switch=True),
        "sync_bn": _DEVICE,
        "local_rank": _DEVICE._replace(switch=False),
        "noautoanchor": Idle("YOLOv9 has no anchor sizes to fit", switch=True),
        "nosave": _SAVED,
        "entity": _LOGGER,
        "bbox_interval": _LOGGER,
        "artifact_alias": _LOGGER,
        "upload_dataset": _LOGGER_SWITCH,
        "evolve": Absent("give hyper-parameters by --hyp"),
        "bucket": Absent("copy the run directory yourself"),
        "image_weights": Absent("leave it out", switch=True),
        "quad": Absent("leave it out; --multi-scale varies the size", switch=True),
        # Ultralytics and LibreYOLO
        "mode": Alias("mode", {"train": None}),
        "model": Alias(_either),
        "pretrained": Alias("weights", {"true": None, "false": None}, switch=True, why=_FRESH),
        "task": Alias("task", {"detect": None, "train": None}),
        "save": _SAVED,
        "plots": _negated("noplots"),
        "save_plots": _negated("noplots"),
        "val": _negated("noval"),
        "split": Idle("validation reads the split 'val'"),
        "amp": Alias("amp", {"true": "auto", "false": "off"}),
        "optimizer": Alias("optimizer", _OPTIMIZERS),
        "multi_scale": Alias("multi_scale", {"0.0": "false", "0.5": "true"}, switch=True),
        "compile": Alias("mode", {"true": "compiled", "false": None}, switch=True),
        "deterministic": _REPEATABLE,
        "profile": Absent("use 'yolov9k profile'", switch=True),
        "nbs": Alias("nominal_batch"),
        "nesterov": Idle("SGD is Nesterov's", switch=True),
        "ema": Idle("the average of the weights is always kept", switch=True),
        "no_aug_epochs": Alias("close_mosaic"),
        "flip_prob": Alias("fliplr"),
        "min_lr_ratio": Alias("lrf"),
        "scheduler": Alias("lr_curve", {"linear": "linear", "cos": "cosine", "cosine": "cosine", "constant": "constant"}),
        "eval_interval": Idle("validation comes after every epoch; --noval: after the last one alone"),
        "log_interval": Idle("every step is shown"),
        "classes": Absent("leave the other classes out of the labels"),
        "lora": Absent("leave it out; --freeze trains a part of the model", switch=True),
        "lr_drop": Absent("leave it out; --lr-curve chooses the curve"),
        "warmup_lr_start": Absent("leave it out; the warm-up begins at 0"),
        "hsv_prob": Absent("leave it out; hsv_h, hsv_s and hsv_v are the largest changes"),
        "mosaic_scale": Absent("leave it out; scale is the largest change of the scale"),
        "mixup_scale": Absent("leave it out"),
        "cutmix": _NO_SUCH_AUGMENTATION,
        "bgr": _NO_SUCH_AUGMENTATION,
        "auto_augment": _OTHER_TASKS,
        "erasing": _OTHER_TASKS,
        "crop_fraction": _OTHER_TASKS,
        "copy_paste_mode": Alias("copy_paste_mode", {"flip": None}),
        "augmentations": _NO_SUCH_AUGMENTATION,
        "dropout": _OTHER_TASKS,
        **dict.fromkeys(("angle", "crop_pct", "dgrad", "dlam", "dlog", "rle"), _OTHER_TASKS),
        "cls_pw": Alias("cls_pw", {"0": None, "0.0": None}),  # theirs is a power, and 0 asks for nothing
        "cls_remap": Idle("classes are matched by their names anyway", switch=True),
        "channels_last": Idle("the layout is channels-last anyway", switch=True),
        "distill_model": _NO_TEACHER,
        "distill_loss_type": _NO_TEACHER,
        "dis": _NO_TEACHER,
        "amp_dtype": Alias("amp", _DTYPES),
        "aux_weight": Alias("auxiliary"),
        "cuda_graph": Alias("mode", {"true": "captured", "false": None}, switch=True),
        "average_best": Absent("the moving average is kept"),
        "precise_bn": Absent("leave it out"),
        "class_balanced": Absent("leave it out; list images several times to see them more often", switch=True),
        "class_weights": Absent("leave it out", switch=True),
        "min_samples": Absent("leave it out; list images several times to see them more often"),
        "max_det": Idle("validation in training keeps 300 an image"),
        "export_check": Absent("leave it out", switch=True),
        "overlap_mask": _OTHER_TASKS,
        "mask_ratio": _OTHER_TASKS,
        "pose": _OTHER_TASKS,
        "kobj": _OTHER_TASKS,
        # the MIT rewrite
        "dataset": Alias("data"),
        "weight": Alias("weights", {"true": None, "false": None}, why=_FRESH),
        "lucky_number": Alias("seed"),
        "task.epoch": Alias("epochs"),
        "task.data.batch_size": Alias("batch"),
        "task.optimizer.type": Alias("optimizer", _OPTIMIZERS),
        **{theirs: Alias(ours) for theirs, ours in _RECIPE_PATHS.items()},
    },
    "val": {
        **_COMMON,
        "half": _HALF,
        "amp": Alias("amp", _FIXED_AMP),
        "min_items": Idle("it concerns training alone"),
        "save_hybrid": Absent("use --save-json", switch=True),
        "model": Alias("weights"),
        "split": Alias("task"),
        "task": Alias("task", {"detect": None, "validation": None}),
        "plots": Idle("plots are always drawn", switch=True),
        "save_plots": Idle("plots are always drawn", switch=True),
        "rect": Idle("images are letterboxed to rectangles in any case", switch=True),
        "visualize": Absent("leave it out", switch=True),
        "amp_dtype": Alias("amp", _DTYPES),
        "crop_pct": _OTHER_TASKS,
        "show_labels": Idle("drawn boxes have their names", switch=True),
        "show_conf": Idle("drawn boxes have their scores", switch=True),
        "classes": Absent("every class has a row of its own"),
        "agnostic_nms": Absent("leave it out; --single-cls treats all classes as one", switch=True),
        "use_coco_eval": Idle("it is COCO's evaluation", switch=True),
        "data_dir": Alias("data"),
        "dataset": Alias("data"),
        "weight": Alias("weights", {"true": None, "false": None}, why=_FRESH),
        "task.data.batch_size": Alias("batch"),
        "task.nms.min_confidence": Alias("conf"),
        "task.nms.min_iou": Alias("iou"),
        "task.nms.max_bbox": Alias("max_det"),
    },
    "predict": {
        **_COMMON,
        "half": _HALF,
        "amp": Alias("amp", _FIXED_AMP),
        "data": Idle("a checkpoint knows its classes' names"),
        "dataset": Idle("a checkpoint knows its classes' names"),
        "update": Absent("leave it out", switch=True),
        "visualize": Absent("leave it out", switch=True),
        "model": Alias("weights"),
        "task": Alias("task", {"detect": None, "inference": None}),
        "save": _negated("nosave"),
        "show": Alias("view_img", switch=True),
        "show_labels": _negated("hide_labels"),
        "show_conf": _negated("hide_conf"),
        "show_boxes": Alias("nosave", {"true": None, "false": "true"}, switch=True),
        "line_width": Alias("line_thickness"),
        "save_frames": Absent("leave it out; a video's results are a video", switch=True),
        "stream_buffer": Absent("leave it out; streams are not supported", switch=True),
        "retina_masks": _OTHER_TASKS._replace(switch=True),
        **dict.fromkeys(("gallery", "gallery_threshold", "mask", "trimap"), _OTHER_TASKS),
        "stream": Idle("results are written as they come", switch=True),
        "embed": Absent("leave it out"),
        "tiling": Absent("leave it out; a larger --img finds smaller objects", switch=True),
        "overlap_ratio": Absent("leave it out"),
        "output_path": Alias("project"),
        "output_file_format": Absent("leave it out; images keep their format"),
        "color_format": Idle("files are read as they say"),
        "face_detector": _OTHER_TASKS,
        "weight": Alias("weights", {"true": None, "false": None}, why=_FRESH),
        "task.data.source": Alias("source"),
        "task.nms.min_confidence": Alias("conf"),
        "task.nms.min_iou": Alias("iou"),
        "task.nms.max_bbox": Alias("max_det"),
        "task.fast_inference": Absent("leave it out; a fused model runs in any case"),
        "task.save_predict": _negated("nosave"),
    },
    "profile": {"model": Alias("cfg")},
}

_RECIPE = """lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr box cls dfl hsv_h hsv_s hsv_v degrees
    translate scale shear perspective flipud fliplr mosaic mixup copy_paste"""
# The names each of the others has, by command of ours: what their help, documentation or configuration lists.
NAMES: dict[str, dict[str, str]] = {
    "the published scripts": {
        "train": """
            weights cfg data hyp epochs batch_size batch imgsz img img_size rect resume nosave noval noautoanchor
            noplots evolve bucket cache image_weights device multi_scale single_cls optimizer sync_bn workers project
            name exist_ok quad cos_lr flat_cos_lr fixed_lr label_smoothing patience freeze save_period seed local_rank
            min_items close_mosaic entity upload_dataset bbox_interval artifact_alias""",
        "val": """
            data weights batch_size batch imgsz img img_size conf_thres conf iou_thres iou max_det task device workers
            single_cls augment verbose save_txt save_hybrid save_conf save_json project name exist_ok half dnn min_items""",
        "predict": """
            weights source data imgsz img img_size conf_thres iou_thres max_det device view_img save_txt save_conf
            save_crop nosave classes agnostic_nms augment visualize update project name exist_ok line_thickness
            hide_labels hide_conf half dnn vid_stride""",
    },
    "Ultralytics": {
        "train": f"""
            task mode model data epochs time patience batch imgsz save save_period cache device workers project name
            exist_ok pretrained optimizer verbose seed deterministic single_cls classes rect multi_scale cos_lr
            close_mosaic resume amp fraction profile freeze compile val split plots dropout overlap_mask mask_ratio
            {_RECIPE} nbs pose kobj bgr cutmix copy_paste_mode auto_augment erasing crop_fraction augmentations
            label_smoothing cls_remap channels_last distill_model dis cls_pw rle angle dlog dgrad dlam""",
        "val": """
            task mode model data split batch imgsz conf iou max_det half device dnn plots classes rect augment
            agnostic_nms single_cls save_json save_txt save_conf save_hybrid workers project name exist_ok verbose
            visualize quantize""",
        "predict": """
            task mode model source conf iou imgsz half device batch max_det vid_stride stream_buffer visualize augment
            agnostic_nms classes retina_masks embed project name exist_ok show save save_frames save_txt save_conf
            save_crop show_labels show_conf show_boxes line_width verbose dnn quantize""",
    },
    "the MIT rewrite": {
        "train": f"""
            task dataset model weight device cpu_num image_size out_path exist_ok name lucky_number use_wandb
            use_tensorboard accelerator task.epoch task.data.batch_size task.optimizer.type {" ".join(_RECIPE_PATHS)}""",
        "val": """
            task dataset model weight device cpu_num image_size out_path exist_ok name use_wandb use_tensorboard
            task.data.batch_size task.nms.min_confidence task.nms.min_iou task.nms.max_bbox""",
        "predict": """
            task dataset model weight device image_size out_path exist_ok name task.data.source task.nms.min_confidence
            task.nms.min_iou task.nms.max_bbox task.fast_inference task.save_predict quiet""",
    },
    "LibreYOLO": {
        "train": """
            data model task epochs batch imgsz device workers seed resume amp pretrained lora optimizer lr0 momentum
            weight_decay nesterov scheduler warmup_epochs warmup_lr_start min_lr_ratio lr_drop mosaic mixup hsv_prob
            flip_prob degrees translate shear mosaic_scale mixup_scale no_aug_epochs ema ema_decay val eval_interval
            save_plots patience project name exist_ok save_period log_interval allow_download_scripts json quiet dry_run
            help_json amp_dtype auto_augment aux_weight average_best cache class_balanced class_weights classes cls_pw
            compile crop_pct cuda_graph cutmix dis distill_loss_type distill_model erasing eval_max_det export_check
            faster_coco_eval fliplr flipud freeze max_det min_samples plot_samples precise_bn scale single_cls""",
        "val": """
            model data data_dir split batch imgsz conf iou max_det half save_json save_plots workers device project name
            exist_ok use_coco_eval allow_download_scripts json quiet verbose help_json amp_dtype classes crop_pct
            eval_max_det faster_coco_eval plot_samples show_conf show_labels single_cls visualize""",
        "predict": """
            source model conf iou imgsz classes max_det half save batch tiling overlap_ratio output_path color_format
            output_file_format device face_detector project name exist_ok json quiet verbose help_json gallery
            gallery_threshold mask show stream stream_buffer trimap vid_stride""",
    },
}  # fmt: skip
