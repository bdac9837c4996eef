"""How much memory a training step holds, counted on shapes alone: what lives when, by the tensors' own births and deaths."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from yolov9k.models.yolov9 import DetectionModel

BOXES = 20  # boxes an image that the loss is counted with; it hardly depends on them

Loss = Callable[[Any, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that operators made and that are still alive: `live` now, `peak` at most.

    known: tensors from before, which are not counted. What an operator of ours allocates and lets go inside is not seen.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class MemoryUse(NamedTuple):
    """Bytes beside the weights: `saved` when the forward ends, `peak` over forward, loss and backward, gradients included."""

    saved: int
    peak: int


def step_bytes(
    model: DetectionModel,
    criterion: Loss | None,
    batch: int,
    img_size: int,
    dtype: torch.dtype,
    backend: str,
    target_width: int = 5,
) -> MemoryUse:
    """What a step of `batch` images holds, with maps of `dtype` and targets so wide; checkpointed as `model` is.

    criterion: None stands for the loss in one kernel, which adds the maps' gradients alone. backend: "triton" for planned
    blocks, "reference" for torch's own operators. Nothing is computed or allocated.
    """
    twin = DetectionModel(model.spec, model.num_classes, class_widths=model.class_widths).to("meta", dtype).train().use(backend)
    twin.to(memory_format=torch.channels_last).checkpoint_stages(model.checkpointed)  # type: ignore[call-overload]
    for mine, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    image = torch.empty(batch, 3, img_size, img_size, device="meta", dtype=dtype)
    targets = (
        torch.empty(batch, BOXES, target_width, device="meta"),
        torch.empty(batch, device="meta", dtype=torch.int64),
    )
    with LiveBytes((*twin.parameters(), *twin.buffers(), *targets)) as memory:
        branches = twin(image)
        saved = memory.live
        roots = [level for maps in branches for level in maps]
        if criterion is not None:
            roots = [criterion(branches, targets)[0]]
        del branches
        torch.autograd.backward(roots, [torch.empty_like(root) for root in roots])
        return MemoryUse(saved, memory.peak)
