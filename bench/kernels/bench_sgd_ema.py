"""The optimizer step of yolov9-t and -c: two launches over flat storage against torch's clip, SGD and moving average."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from yolov9k import create_model
from yolov9k.config.recipe import TrainRecipe
from yolov9k.engine.train.reference_step import ModelEMA, make_optimizer
from yolov9k.models import DetectionModel
from yolov9k.models.flat_storage import FlatStorage
from yolov9k.ops import available, sgd_ema
from yolov9k.ops.sgd_ema import SCALE, STATE, Settings


def _by_torch(model: DetectionModel) -> Callable[[], object]:
    """Clip, torch's own multi-tensor SGD, the average."""
    recipe = TrainRecipe()
    optimizer, average = make_optimizer(model, recipe, recipe.weight_decay), ModelEMA(model, recipe)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)

    def run() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        average.update(model)

    return run


def _flat(flat: FlatStorage, device: str, backend: str) -> Callable[[], object]:
    """The operator, with the copy in bfloat16 that training reads."""
    recipe = TrainRecipe()
    told = Settings(
        (recipe.lr0,) * 3, (0.0, recipe.weight_decay, 0.0), recipe.momentum, recipe.clip_norm, recipe.ema_decay, recipe.ema_tau
    )
    values, state = torch.tensor(told.values(), device=device), torch.zeros(STATE, device=device)
    state[SCALE] = 1.0
    low = torch.empty_like(flat.grads, dtype=torch.bfloat16)
    return lambda: sgd_ema(
        flat.values, flat.grads, flat.momentum, flat.ema, low, values, flat.ends, state, backend
    )  # fmt: skip


@pytest.mark.parametrize("variant", ["torch", "triton", "cpu", "reference"])
@pytest.mark.parametrize("name", ["yolov9-t", "yolov9-c"])
def bench_optimizer(measure: Callable[..., None], device: str, name: str, variant: str) -> None:
    """Bytes are the flat step's: 34 a trained value, 12 of one that the average alone follows."""
    if device == "cpu" and name == "yolov9-c":
        pytest.skip("the small model says it all on a CPU")
    if variant == "triton" and (device == "cpu" or "triton" not in available("sgd_ema")):
        pytest.skip("Triton's kernels run on a GPU; its interpreter is not worth timing")
    if variant == "cpu" and (device != "cpu" or "cpu" not in available("sgd_ema")):
        pytest.skip("the compiled step runs on a CPU")
    model = create_model(name, 80).to(device)
    flat = FlatStorage(copy.deepcopy(model))
    run = _by_torch(model) if variant == "torch" else _flat(flat, device, variant)
    trained, total = flat.grads.numel(), flat.values.numel()
    measure(run, device, 34 * trained + 12 * (total - trained))
