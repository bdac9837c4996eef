"""Any checkpoint of YOLOv9, whoever wrote it, as this project's own content and as a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolov9k.common.errors import MODEL, UserError, failing_as, warn
from yolov9k.compat.foreign import refusal, what_it_is
from yolov9k.compat.holding import hold
from yolov9k.compat.libreyolo import LibreLayout
from yolov9k.compat.mit import MitLayout
from yolov9k.compat.published import PublishedLayout
from yolov9k.compat.ultralytics import UltralyticsLayout
from yolov9k.compat.weights import Held, Weights, assemble
from yolov9k.config.flags import PLACEMENTS
from yolov9k.models import DetectionModel, checkpoint_file
from yolov9k.models.checkpoints import FORMAT, model_of, rebuild
from yolov9k.models.fitting import head_form
from yolov9k.models.spec import ModelSpec, load_spec

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")  # of checkpoint files
LAYOUTS = (MitLayout(), LibreLayout(), UltralyticsLayout(), PublishedLayout())


@failing_as(MODEL)
def load(path: str | Path, cfg: str | Path | None = None) -> DetectionModel:
    """The model of a checkpoint, in evaluation mode: its EMA weights where it has them.

    Takes this project's files, those of the published code, Ultralytics, the MIT rewrite and LibreYOLO, and plain state dicts
    and safetensors of any of them; nothing in a file is run. Variant, classes, widths and names come from the file. cfg: which
    model it is (a name or YAML file) where nothing in the file tells. Raises UserError naming the file and what does not fit.
    """
    return model_of(read(path, cfg), path)


@failing_as(MODEL)
def read(path: str | Path, cfg: str | Path | ModelSpec | None = None) -> dict[str, Any]:
    """The content of a checkpoint as this project writes it (`models.checkpoints`), whoever wrote it. Raises as `load`."""
    content = checkpoint_file.read(path)
    return content if content.get("format") == FORMAT else recognized(path, content, cfg).content()


def fresh(content: Mapping[str, Any], path: str | Path, names: Sequence[str]) -> DetectionModel:
    """The network that a checkpoint's content (`read`) is of, with fresh weights, for classes of these names.

    Images will lie in the center of their letterboxes, as the training here has them. Raises UserError naming the file.
    """
    changes = {"num_classes": len(names), "names": list(names), "fused": False, "letterbox": PLACEMENTS[0]}
    return rebuild({**content, **changes}, path)


def recognized(path: str | Path, content: dict[str, Any], cfg: str | Path | ModelSpec | None = None) -> Weights:
    """The weights in another implementation's content. Raises as `load`."""
    held = hold(path, content)
    if not what_it_is(held):
        for layout in LAYOUTS:
            if layout.recognizes(held) and (weights := layout.read(held)):
                for part in weights.left_out:
                    warn(f"{path}: {part} is left out: its auxiliary branch is another network than the published one")
                return weights
        if cfg is not None:
            return _as_told(held, cfg if isinstance(cfg, ModelSpec) else load_spec(cfg))
    raise UserError(refusal(held, told=False))


def _as_told(held: Held, spec: ModelSpec) -> Weights:
    """Weights with our keys of a network that the user names. Raises UserError where they have no layers by number."""
    state = {f"model.{key}" if key[:1].isdecimal() else key: tensor for key, tensor in held.tensors.items()}
    if not any(key.startswith(("model.0.", "model.1.")) for key in state):
        raise UserError(refusal(held, told=True))
    if head_form(state) is not None:
        return assemble(held, "published", state, spec)
    return Weights("published", spec, state, spec.num_classes, [str(i) for i in range(spec.num_classes)], None)
