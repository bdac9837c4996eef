"""What a run's options ask of the models and the machine, told before the data is read."""

from __future__ import annotations

from yolov9k.common.errors import UserError, note, warn
from yolov9k.config.recipe import TrainRecipe
from yolov9k.config.train_options import TrainOptions
from yolov9k.data.cache import nvjpeg
from yolov9k.data.letterbox import rounded_size
from yolov9k.data.loader import SCALES, RequestSampler
from yolov9k.models.spec import load_spec

MOST_ADAM_LR = 0.005  # a learning rate above which steps of Adam leap


def check_options(options: TrainOptions, resumed: bool = False) -> None:
    """Raise UserError for options that cannot be; round the image size up to a multiple of 32, and say so.

    A resumed run has its model from last.pt and needs no file of it.
    """
    options.check()
    if options.cfg is not None and not resumed:
        load_spec(options.cfg)
    if options.decode == "nvjpeg" and (reason := nvjpeg.why_missing()):
        raise UserError(f"--decode nvjpeg: {reason}")
    options.img = rounded_size(options.img, "--img")


def suited(recipe: TrainRecipe, options: TrainOptions) -> TrainRecipe:
    """The recipe, its biases' warm-up made that of the optimizer: the recipe's is for SGD. Warns of SGD's learning rate."""
    named = {pair.partition("=")[0].strip() for pair in options.override}
    if options.optimizer == "SGD":
        return recipe
    if "lr0" not in named and recipe.lr0 > MOST_ADAM_LR:
        warn(f"--optimizer {options.optimizer}: lr0 {recipe.lr0:g} is a rate for SGD; lr0=0.001 is usual")
    if "warmup_bias_lr" in named or recipe.warmup_bias_lr <= recipe.lr0:
        return recipe
    was = f"warmup_bias_lr {recipe.warmup_bias_lr:g}"
    note(f"--optimizer {options.optimizer}: biases warm up from 0, not from {was}, which is SGD's")
    return recipe.override(warmup_bias_lr=0.0)


def check_batches(sampler: RequestSampler, stride: int) -> None:
    """Raise UserError where a batch is one image of a single cell at the model's largest stride: BatchNorm needs two values."""
    images = len(sampler.order)
    fewest = images % sampler.batch or sampler.batch
    shapes = sampler.shapes or [(sampler.img_size, sampler.img_size)]
    scale = SCALES[0] if sampler.multi_scale else 1.0
    side = min(scale * max(shape) for shape in (shapes if sampler.batch == 1 else shapes[-1:]))
    refuse_single_values(fewest, side, stride, f" left over of {images}" if fewest < sampler.batch else "")


def refuse_single_values(batch: int, side: float, stride: int, why: str = "") -> None:
    """Raise UserError for batches that BatchNorm cannot train on."""
    if batch == 1 and side <= stride:
        raise UserError(
            f"--img: a batch of 1 image{why} of {stride} px gives BatchNorm one value a channel; give an --img above {stride} "
            "(twice that with --multi-scale), or a --batch that leaves no image alone"
        )
