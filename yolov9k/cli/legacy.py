"""The published scripts' command lines, taken as they are: legacy flags without effect are reported and ignored.

Names and meanings are those of the published `train`, `val` and `detect` scripts; `detect` is `yolov9k predict` here.
"""

from __future__ import annotations

from yolov9k.common.errors import UserError, warn
from yolov9k.config import COMMANDS, TrainOptions, option_fields

_FIELDS = [field for options in COMMANDS.values() for field in option_fields(options)]
_BARE = {flag: field.option.bare for field in _FIELDS if field.option.bare for flag in field.flags}  # value may be left out
_LISTS = {flag for field in _FIELDS if field.many for flag in field.flags}  # flags of several values
_IMG = next(field for field in option_fields(TrainOptions) if field.name == "img")
_SINGLE = {  # flags that may have had several, and what to do with one
    "--weights": "ensembles are not taken over; give one checkpoint",
    **dict.fromkeys(_IMG.flags, "give one size, of the long side"),
}
_SAME = {
    "--half": ("--amp", "fp16"),
    "--cos-lr": ("--lr-curve", "cosine"),
    "--flat-cos-lr": ("--lr-curve", "flat-cosine"),
    "--fixed-lr": ("--lr-curve", "constant"),
}
_LOGGER = "curves are in results.csv, results.png and TensorBoard's log"
# What is accepted without effect, by command: the flag, its number of values, why nothing is lost.
_IDLE = {
    "train": {
        "--sync-bn": (0, "one device has nothing to synchronize"),
        "--local_rank": (1, "one device has nothing to synchronize"),
        "--noautoanchor": (0, "YOLOv9 has no anchor sizes to fit"),
        "--nosave": (0, "last.pt and best.pt are always kept"),
        "--entity": (1, _LOGGER),
        "--bbox_interval": (1, _LOGGER),
        "--artifact_alias": (1, _LOGGER),
        "--upload_dataset": (0, _LOGGER),
    },
    "val": {
        "--verbose": (0, "every class is printed anyway"),
        "--min-items": (1, "it concerns training alone"),
        "--dnn": (0, "it concerns ONNX files"),
    },
    "predict": {
        "--data": (1, "a checkpoint knows its classes' names"),
        "--dnn": (0, "it concerns ONNX files"),
    },
}
# What is refused, by command, and what to do instead.
_ABSENT = {
    "train": {
        "--evolve": "give hyper-parameters by --hyp",
        "--bucket": "copy the run directory yourself",
        "--image-weights": "leave it out",
        "--quad": "leave it out; --multi-scale varies the size",
    },
    "val": {
        "--augment": "leave it out",
        "--save-txt": "use 'yolov9k predict --save-txt', or --save-json",
        "--save-conf": "use 'yolov9k predict --save-txt --save-conf', or --save-json",
        "--save-hybrid": "use --save-json",
    },
    "predict": {
        "--augment": "leave it out",
        "--save-crop": "use --save-json, it holds the boxes in pixels",
        "--update": "leave it out",
        "--vid-stride": "leave it out; --max-frames takes the first frames",
        "--view-img": "look at the images in the run directory",
        "--visualize": "leave it out",
    },
}


def published_style(arguments: list[str]) -> list[str]:
    """Rewrite a command line of the published scripts to one of ours; one of ours stays as it is.

    Warns of a flag without effect. Raises UserError for one that is not there, with what to do instead.
    """
    arguments = ["predict", *arguments[1:]] if arguments[:1] == ["detect"] else arguments
    command = arguments[0] if arguments else ""
    idle, absent = _IDLE.get(command, {}), _ABSENT.get(command, {})
    result: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, _, value = argument.partition("=")
        if flag in absent and flag == "--vid-stride" and (value or "".join(waiting[:1])) == "1":  # every frame, as always
            del waiting[: 0 if value else 1]
        elif flag in absent:
            raise UserError(f"{flag}: not taken over from the published scripts; {absent[flag]}")
        elif flag in idle:
            count, why = idle[flag]
            del waiting[: 0 if value else count]
            warn(f"{flag} has no effect: {why}")
        elif argument in _BARE and (not waiting or waiting[0].startswith("-")):
            result += [argument, _BARE[argument]]
        elif argument in _LISTS:
            result += [argument, ",".join(_values(waiting))]
        elif argument in _SINGLE and command in _IDLE:
            result += [argument, *_one(argument, _values(waiting))]
        else:
            result += _SAME.get(argument, (argument,))
    return result


def _one(flag: str, values: list[str]) -> list[str]:
    """The value of a flag that has one here, if it is given. Raises UserError for several that differ."""
    if len(set(values)) > 1:
        raise UserError(f"{flag} {' '.join(values)}: {_SINGLE[flag]}")
    return values[:1]


def _values(waiting: list[str]) -> list[str]:
    """Take the values of a flag from what follows it."""
    values = []
    while waiting and not waiting[0].startswith("-"):
        values.append(waiting.pop(0))
    return values
