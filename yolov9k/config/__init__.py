"""What a run is asked for: the training recipe, the options of each command, presets."""

from yolov9k.config.base import Options
from yolov9k.config.command_options import (
    COMMANDS,
    ConvertOptions,
    DataCheckOptions,
    DemoOptions,
    DownloadOptions,
    InfoOptions,
    PredictOptions,
    ProfileOptions,
    ValOptions,
)
from yolov9k.config.keys import options_from
from yolov9k.config.option import Option, option_fields
from yolov9k.config.recipe import TrainRecipe, load_recipe
from yolov9k.config.train_options import TrainOptions

__all__ = [
    "COMMANDS",
    "ConvertOptions",
    "DataCheckOptions",
    "DemoOptions",
    "DownloadOptions",
    "InfoOptions",
    "Option",
    "Options",
    "PredictOptions",
    "ProfileOptions",
    "TrainOptions",
    "TrainRecipe",
    "ValOptions",
    "load_recipe",
    "option_fields",
    "options_from",
]
