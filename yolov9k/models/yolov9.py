"""The network built from a plan."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from yolov9k.common.device import is_cuda, model_device
from yolov9k.common.errors import MODEL, UserError, failing_as, shown
from yolov9k.config.flags import MAX_CLASSES
from yolov9k.config.flavors import Flavor, find_flavor
from yolov9k.models.block import Block
from yolov9k.models.blocks import Conv, RepConvN
from yolov9k.models.build import bounded, build_layers, said
from yolov9k.models.heads.detect import Detect, dense_name
from yolov9k.models.recompute import recomputed
from yolov9k.models.spec import ModelSpec, Stage, load_spec
from yolov9k.models.tables import IMAGE
from yolov9k.ops.library import label

_MOST_VALUES = 2**28  # of a map of two images of 128 pixels


class DetectionModel(nn.Module):
    """A YOLOv9 or GELAN network (arXiv 2402.13616).

    In training mode a call returns a list of branches, the auxiliary ones first, each a list of three raw maps
    [B, 64 + nc, h, w]. In evaluation mode it returns the main branch decoded: [B, 4 + nc, A] (center x, center y, width,
    height in pixels; probabilities). Images are [B, 3, H, W] RGB in 0..1, H and W multiples of `stride`.
    """

    letterbox = "center"  # where images lay in their letterboxes when the weights were trained (`config.flags.PLACEMENTS`)

    def __init__(
        self,
        spec: ModelSpec,
        num_classes: int = 80,
        names: Sequence[str] | None = None,
        class_widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.spec, self.num_classes = spec, num_classes
        self.names = list(names) if names else [str(i) for i in range(num_classes)]
        self.class_widths = list(class_widths) if class_widths else None
        self.model = nn.ModuleList(build_layers(spec, num_classes, self.class_widths))
        self.head: Detect = self.model[-1]  # type: ignore[assignment]
        self.stride = max(self.head.strides)
        self._stages = {main_only: spec.stages(main_only) for main_only in (False, True)}
        everything, main = spec.needed(spec.layers[-1].sources), spec.needed(spec.main_sources())
        self._releases = {False: _last_uses(spec, everything), True: _last_uses(spec, main)}
        self.checkpointed = False
        self.stage_context: Callable[[str], AbstractContextManager[Any]] = _labelled

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "head":  # a second name for the last layer, not a second submodule
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Any:
        """Branches of raw maps in training mode, the main branch decoded in evaluation mode."""
        if self.training:
            return self.branches(x)
        return self.decode(self.branches(x, main_only=True)[-1])

    def branches(self, x: Tensor, main_only: bool = False) -> list[list[Tensor]]:
        """Raw maps of every branch, or of the main one alone, whatever the mode."""
        self._check(x)
        outputs: dict[int, Any] = {IMAGE: x}
        recomputes = self.checkpointed and self.training and torch.is_grad_enabled()
        for stage in self._stages[main_only]:
            if recomputes and any(isinstance(self.model[n], (Block, nn.Sequential)) for n in stage.layers):
                self._recomputed(stage, outputs, main_only)
            else:
                self._run(stage, outputs, main_only)
        sources = self.spec.main_sources() if main_only else self.spec.layers[-1].sources
        with self.stage_context("head"):
            return self.head([outputs[s] for s in sources], main_only)  # type: ignore[no-any-return]

    def _run(self, stage: Stage, outputs: dict[int, Any], main_only: bool) -> None:
        """Add the outputs of a stage's layers to `outputs`, and let go of those that nothing after them reads."""
        with self.stage_context(stage.name):
            for number in stage.layers:
                inputs = [outputs[s] for s in self.spec.layers[number].sources]
                outputs[number] = self.model[number](inputs if len(inputs) > 1 else inputs[0])
                for source in self._releases[main_only][number]:
                    del outputs[source]

    def _recomputed(self, stage: Stage, outputs: dict[int, Any], main_only: bool) -> None:
        """As `_run`, but what the backward needs of the stage is computed again then."""

        def run(*inputs: Any) -> list[Any]:
            inside = dict(zip(stage.reads, inputs, strict=True))
            self._run(stage, inside, main_only)
            return [inside[number] for number in stage.gives]

        layers = [self.model[number] for number in stage.layers]
        given = recomputed(run, layers, *(outputs[s] for s in stage.reads))
        outputs.update(zip(stage.gives, given, strict=True))
        for number in stage.layers:
            for source in self._releases[main_only][number]:
                outputs.pop(source, None)  # those of the stage's own never came out of it

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """One branch's raw maps to [B, 4 + nc, A]: boxes in pixels, probabilities."""
        return self.head.decode(maps)

    def candidates(self, maps: Sequence[Tensor], threshold: float) -> tuple[Tensor, Tensor | None]:
        """As `decode`, of the anchors above `threshold` alone where kernels pick them: columns and how many (None: all)."""
        return self.head.candidates(maps, threshold)

    def nonfinite(self, maps: Sequence[Tensor]) -> Tensor:
        """Images of which one branch's raw maps decode to NaN or infinity: bool [B]."""
        return self.head.nonfinite(maps)

    def use(self, backend: str) -> DetectionModel:
        """Choose what runs the blocks: "auto" (by device), "reference" (plain torch) or "triton". Returns the model."""
        for module in self.modules():
            if hasattr(module, "backend"):
                setattr(module, "backend", backend)  # noqa: B010 (modules declare it, torch does not know)
        return self

    def checkpoint_stages(self, on: bool = True) -> DetectionModel:
        """Trade time for memory: keep what each stage (`ModelSpec.stages`) reads, compute the rest again in the backward.

        One more forward a step; gradients and BatchNorm's running statistics are the same. The head is not recomputed:
        its turn comes first, when nothing has been let go yet. Returns the model.
        """
        self.checkpointed = on
        return self

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != 3 or x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(
                f"DetectionModel: x must be [B, 3, H, W] with H and W multiples of {self.stride}, got {list(x.shape)}"
            )

    def to_lean(self) -> DetectionModel:
        """A new model of the main branch alone, with the same results in evaluation mode."""
        if self.head.num_branches == 1:
            return copy.deepcopy(self)
        spec, number = self.spec.lean()
        head = len(self.spec.layers) - 1
        widths = [self.class_widths[-1]] if self.class_widths else None
        lean = DetectionModel(spec, self.num_classes, self.names, widths)
        for old, new in number.items():
            if old != head:
                lean.model[new] = copy.deepcopy(self.model[old])
        lean.head.copy_main(self.head)
        lean.letterbox = self.letterbox
        reference = next(self.parameters())
        return lean.to(reference.device, reference.dtype).train(self.training)

    def fuse(self) -> DetectionModel:
        """A new model for inference: BatchNorm folded into convolutions, RepConvN merged into one."""
        fused = copy.deepcopy(self)
        for module in fused.modules():
            if isinstance(module, RepConvN):
                module.fuse()
        for module in fused.modules():
            if isinstance(module, Conv):
                module.fuse()
        form = torch.channels_last if is_cuda(model_device(self)) else torch.preserve_format  # as its kernels read it
        return fused.eval().requires_grad_(False).to(memory_format=form)  # type: ignore[call-overload, no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> DetectionModel:
        twin = DetectionModel.__new__(DetectionModel)
        memo[id(self)] = twin
        for key, value in self.__dict__.items():
            twin.__dict__[key] = copy.deepcopy(value, memo)
        return twin


def _labelled(name: str) -> AbstractContextManager[Any]:
    return label(f"step/forward/{name}")


def _last_uses(spec: ModelSpec, layers: set[int]) -> dict[int, list[int]]:
    """For each of `layers` in order, the outputs that nothing after it reads: they are let go at once."""
    last: dict[int, int] = {}
    for number in sorted(layers):
        last.update(dict.fromkeys(spec.layers[number].sources, number))
    keep = set(spec.layers[-1].sources)
    return {n: [s for s, at in last.items() if at == n and s not in keep] for n in sorted(layers)}


@failing_as(MODEL)
def create_model(
    name_or_yaml: str | Path, num_classes: int | None = None, backend: str = "auto", flavor: str = "published"
) -> DetectionModel:
    """A model with fresh weights: one of the ten variants' names or a YAML file of the published format.

    num_classes: None takes the file's nc, 80 where it has none. backend: as in `DetectionModel.use`. flavor: whose head,
    first biases and letterbox (`yolov9k.config.flavors`). Raises UserError naming the file, layer and value.
    """
    spec, begun = load_spec(name_or_yaml), find_flavor(flavor)
    if begun.box_groups == 1:
        spec = spec.with_head(dense_name(spec.layers[-1].module))
    classes = spec.num_classes if num_classes is None else num_classes
    if not 1 <= classes <= MAX_CLASSES:
        raise UserError(f"{spec.where}: {shown(classes)} classes; a model has from 1 to {MAX_CLASSES:,}")
    if spec.origin:
        try_out(spec, classes)
    model = DetectionModel(spec, classes).use(backend)
    if begun != Flavor():
        model.head.init_biases(begun.box_bias, begun.class_bias)
        model.letterbox = begun.letterbox
    return model


@failing_as(MODEL)
def try_out(
    spec: ModelSpec, num_classes: int, names: Sequence[str] | None = None, class_widths: Sequence[int] | None = None
) -> None:
    """Build and run a user's plan on shapes alone. Raises UserError where it is too large, where maps do not fit or where the
    head's strides are others."""
    try:
        with torch.device("meta"), bounded():
            twin = DetectionModel(spec, num_classes, names, class_widths).train()
            side = 4 * twin.stride
            image = torch.zeros(2, 3, side, side)
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{spec.where}: is no model ({said(error)})") from None
    read = _read_by_head(spec, twin, image)
    levels = len(twin.head.strides)
    for first in range(0, len(read), levels):
        strides = [side // level.shape[-1] for level in read[first : first + levels]]
        if strides != list(twin.head.strides):
            last = len(spec.layers) - 1
            raise UserError(
                f"{spec.where}: layer {last} {spec.layers[last].module} reads maps of strides {strides}, "
                f"expected {list(twin.head.strides)}"
            )


def _read_by_head(spec: ModelSpec, twin: DetectionModel, image: Tensor) -> list[Tensor]:
    """The maps that the head reads where a plan is run on shapes alone. Raises UserError naming the layer that fails."""
    reached, read = [0], list[Tensor]()
    for number, module in enumerate(twin.model):
        module.register_forward_pre_hook(lambda _module, _inputs, number=number: reached.append(number))
        module.register_forward_hook(lambda _module, _inputs, output: _refuse_huge(output))
    twin.head.register_forward_pre_hook(lambda _module, inputs: read.extend(inputs[0]))
    try:
        with torch.no_grad():
            twin.branches(image)
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError, ArithmeticError) as error:
        layer = spec.layers[reached[-1]]
        raise UserError(
            f"{spec.where}: layer {reached[-1]} {layer.module} {shown(list(layer.args), 100)} cannot take what layers "
            f"{list(layer.sources)} give: {said(error)}"
        ) from None
    return read


def _refuse_huge(output: Any) -> None:
    """Raise ValueError for a map that no memory holds at the sizes of real images."""
    if isinstance(output, Tensor) and output.numel() > _MOST_VALUES:
        raise ValueError(f"the result would be of shape {list(output.shape)}")


def renamed(name: str, module: str) -> type[DetectionModel]:
    """The network for its earlier name, `YOLOv9`, with a warning. Raises AttributeError for any other name."""
    if name != "YOLOv9":
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    word = f"{module}.YOLOv9 is called DetectionModel now; yolov9k.YOLOv9 is the object that trains, validates and predicts"
    warnings.warn(word, FutureWarning, stacklevel=3)
    return DetectionModel


if not TYPE_CHECKING:  # which would take any name for one of the module's

    def __getattr__(name: str) -> type[DetectionModel]:  # files of whole pickled models name the class too
        return renamed(name, __name__)
