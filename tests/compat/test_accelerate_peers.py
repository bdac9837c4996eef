"""accelerate on the real models of the other implementations, each in its own environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import peers
from tests.tolerances import PEER_LOSS, PEER_PIXELS, PEER_TRAINING

pytestmark = pytest.mark.peers

MAKE = {
    "ultralytics": "from ultralytics import YOLO; holder = YOLO(sys.argv[1]); model = holder.model",
    "libreyolo": "from libreyolo.models.yolo9.model import LibreYOLO9; holder = LibreYOLO9(None, sys.argv[1], device='cpu'); "
    "model = holder.model",
    "published": "from models.yolo import Model; holder = model = Model(sys.argv[1], ch=3, nc=80)",
    "mit": """
import types
package = sys.modules["yolo"] = types.ModuleType("yolo")  # its own imports the trainer with all that it needs
package.__path__ = [sys.argv[1] + "/yolo"]
from omegaconf import OmegaConf
from yolo.model.yolo import create_model
holder = model = create_model(OmegaConf.load(sys.argv[1] + "/yolo/config/model/v9-t.yaml"), weight_path=False, class_num=80)
""",
}
# Output and gradients of a training step, in float64 by the model's own code and in float32 before and after; decoded boxes.
CHECK = """
import copy, json, sys, torch, yolov9k
from yolov9k.compat.accelerate.swap import Swapped
torch.manual_seed(0)  # unlucky weights move float32 by three times as much as lucky ones, theirs and ours
MAKE
def tensors(y):
    if isinstance(y, torch.Tensor): return [y] if y.requires_grad else []
    parts = [y[key] for key in sorted(y)] if isinstance(y, dict) else y
    return [t for part in parts for t in tensors(part)]
def step(model, x):
    model.train().zero_grad()
    out = tensors(model(x))
    sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in out).backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([*(t.detach().flatten() for t in out), *grads]).double()
def decoded(model):
    with torch.no_grad(): y = model.eval()(x)
    y = y["predictions"] if "predictions" in y else y["Main"][0][2] if isinstance(y, dict) else y[0]
    return y[-1] if isinstance(y, list) else y
x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
keys = list(model.state_dict())
exact = step(copy.deepcopy(model).double(), x.double())
before = float((step(copy.deepcopy(model), x) - exact).norm() / exact.norm())
boxes = decoded(copy.deepcopy(model))
found = yolov9k.accelerate(holder, backend="cpu")
moved = float((decoded(copy.deepcopy(model)) - boxes).abs().max())
after = float((step(copy.deepcopy(model), x) - exact).norm() / exact.norm())
kinds = {kind: list(found.replaced.values()).count(kind) for kind in set(found.replaced.values())}
assert keys == list(model.state_dict())
torch.save(model, "model.pt")
assert b"yolov9k" not in open("model.pt", "rb").read()
found.restore()
assert not any(isinstance(module, Swapped) for module in model.modules())
print(json.dumps({"kinds": kinds, "before": before, "after": after, "moved": moved}))
"""
GELAN_T = {"ELAN": 8, "CSP": 14, "RepConv": 42, "Bottleneck": 42, "AConv": 5, "SPPELAN": 1, "Conv": 221}


def checked(peer: str, name: str, folder: Path) -> dict[str, int]:
    """Kinds that were replaced; the step is at most twice as far from float64 as the original, the rule of kernels."""
    code = CHECK.replace("MAKE", MAKE[peer])
    found = peers.answer(code, folder, name, peer=peer if peer in peers.CHECKOUTS else None)
    assert found["after"] <= 2 * found["before"] + 1e-7
    assert found["moved"] <= PEER_PIXELS
    return dict(found["kinds"])


@pytest.mark.parametrize(("peer", "name"), [("ultralytics", "yolov9t.yaml"), ("libreyolo", "t")])
def test_a_whole_yolov9_is_recognized(peer: str, name: str, tmp_path: Path) -> None:
    assert (GELAN_T | {"head decode": 1}).items() <= checked(peer, name, tmp_path).items()


def test_the_published_gelan_is_recognized(tmp_path: Path) -> None:
    name = str(peers.checkout("published") / "models/detect/gelan-t.yaml")
    assert checked("published", name, tmp_path) == GELAN_T | {"DFL": 1, "head decode": 1}


def test_the_mit_rewrite_with_its_auxiliary_branch_is_recognized(tmp_path: Path) -> None:
    counts = {"ELAN": 10, "CSP": 18, "RepConv": 54, "Bottleneck": 54, "AConv": 5, "SPPELAN": 2, "Conv": 291}
    assert checked("mit", str(peers.checkout("mit")), tmp_path) == counts | {"DFL of maps": 6}


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml"])
def test_other_families_have_their_convolutions_replaced(name: str, tmp_path: Path) -> None:
    found = checked("ultralytics", name, tmp_path)
    assert found["Conv"] > 50
    assert found["SPPELAN"] == 1  # SPPF is the same
    assert found["DFL"] == 1
    assert found["head decode"] == 1


TRAINING = """
import json, sys, torch, yolov9k
from types import SimpleNamespace
from ultralytics import YOLO
import ultralytics.utils.nms as nms
from yolov9k.compat.accelerate.assigner import options_of
model = YOLO(sys.argv[1]).model
model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)
loss = model.init_criterion()
drawn = torch.Generator().manual_seed(0)
anchors = 16 * 16 + 8 * 8 + 4 * 4
predictions = {"boxes": torch.randn(2, 64, anchors, generator=drawn), "scores": torch.randn(2, 80, anchors, generator=drawn),
               "feats": [torch.zeros(2, 1, side, side) for side in (16, 8, 4)]}
rows = torch.rand(12, 4, generator=drawn) * 0.3 + 0.05
batch = {"batch_idx": torch.arange(12) // 6, "cls": torch.randint(0, 80, (12, 1), generator=drawn).float(), "bboxes": rows}
options = options_of(loss.assigner)[0]
before = loss(predictions, batch)[0]
found = yolov9k.accelerate_training(loss, nms)
after = loss(predictions, batch)[0]
print(json.dumps({"replaced": sorted(found.replaced.values()), "before": before.tolist(), "after": after.tolist(),
                  "options": [options.topk, options.mask_conflicts, options.small_side, options.grown_side]}))
"""


@pytest.mark.parametrize("name", ["yolov9t.yaml", "yolov8n.yaml", "yolo11n.yaml"])
def test_the_loss_and_suppression_of_ultralytics_are_replaced(name: str, tmp_path: Path) -> None:
    found = peers.answer(TRAINING, tmp_path, name)
    assert found["replaced"] == ["assigner", "loss", "suppression"]
    assert found["options"] == [10, True, 16.0, 16.0]
    assert found["after"] == pytest.approx(found["before"], rel=PEER_LOSS)


MATCHING = """
import json, sys, torch, yolov9k
MAKE
generator = torch.Generator().manual_seed(1)
def matched():
    grid = getattr(loss.matcher, "vec2box", loss.matcher)
    anchors = len(grid.anchor_grid)
    corner = torch.rand(2, 9, 2, generator=generator) * 200
    boxes = torch.cat((corner, corner + torch.rand(2, 9, 2, generator=generator) * 150 + 1), -1)
    near = torch.randint(9, (2, anchors, 1), generator=generator).expand(-1, -1, 4)
    predicted = boxes.gather(1, near) + torch.randn(2, anchors, 4, generator=generator) * 6
    labels = torch.randint(0, 3, (2, 9, 1), generator=generator)
    return loss.matcher(torch.cat((labels, boxes), -1), (torch.randn(2, anchors, 3, generator=generator), predicted))
before = matched()
found = yolov9k.accelerate_training(root)
generator.manual_seed(1)
after = matched()
apart = float((before[0] - after[0])[before[1]].abs().max())
print(json.dumps({"replaced": sorted(k for k, v in found.replaced.items() if v == "assigner"), "apart": apart,
                  "same": torch.equal(before[1], after[1])}))
"""
MATCHERS = {
    "libreyolo": """
from libreyolo.models.yolo9.nn import LibreYOLO9Model
root = LibreYOLO9Model("t", nb_classes=3)
loss = root.head._get_loss_fn(torch.device("cpu"))
loss.update_anchors([320, 320])
""",
    "mit": """
import types, yaml
package = sys.modules["yolo"] = types.ModuleType("yolo")
package.__path__ = [sys.argv[1] + "/yolo"]
from yolo.utils.bounding_box_utils import BoxMatcher
from libreyolo.models.yolo9.loss import Vec2Box
with open(sys.argv[1] + "/yolo/config/task/train.yaml") as file: settings = yaml.safe_load(file)["loss"]["matcher"]
grid = Vec2Box(strides=[8, 16, 32], image_size=[320, 320], reg_max=16, num_classes=3, device="cpu")
root = loss = types.SimpleNamespace(matcher=BoxMatcher(settings, 3, grid, 16))
""",
}


@pytest.mark.parametrize("peer", MATCHERS)
def test_the_matchers_of_libreyolo_and_the_mit_rewrite_are_replaced(peer: str, tmp_path: Path) -> None:
    code = MATCHING.replace("MAKE", MATCHERS[peer])
    found = peers.answer(code, tmp_path, *([peers.checkout(peer)] if peer in peers.CHECKOUTS else []))
    names = {
        "libreyolo": ["head._loss_fn.matcher", "libreyolo.models.yolo9.loss.BoxMatcher"],
        "mit": ["SimpleNamespace.matcher"],
    }
    assert found["replaced"] == names[peer]
    assert found["same"]
    assert found["apart"] <= PEER_LOSS


WHOLE_TRAINING = """
import csv, json, sys, yolov9k
from yolov9k.data.synthetic import generate
from ultralytics import YOLO
data = generate("data", train=8, val=4, size=64)
options = dict(data=str(data.absolute()), imgsz=64, epochs=2, batch=4, workers=0, device="cpu", plots=False, seed=1,
               project="runs", deterministic=True, verbose=False, warmup_epochs=0, nbs=4, optimizer="OPTIMIZER")
rows, replaced = [], []
for accelerated in (False, True):
    model = YOLO("yolov9t.yaml")
    found = yolov9k.accelerate_training(model) if accelerated else None
    model.train(name=str(accelerated), **options)
    with open(f"{model.trainer.save_dir}/results.csv") as file:
        rows.append([[float(row[k]) for k in row if k.startswith(("train/", "val/"))] for row in csv.DictReader(file)])
print(json.dumps({"rows": rows, "replaced": sorted(set(found.replaced.values())), "left": found.left}))
"""


@pytest.mark.parametrize(("optimizer", "kinds"), [("auto", {"loss"}), ("SGD", {"loss", "optimizer step"})])
def test_a_whole_training_by_ultralytics_has_the_same_losses(optimizer: str, kinds: set[str], tmp_path: Path) -> None:
    found = peers.answer(WHOLE_TRAINING.replace("OPTIMIZER", optimizer), tmp_path)
    assert {*kinds, "suppression"} <= set(found["replaced"]), found["left"]
    assert ("optimizer step" in found["replaced"]) == ("optimizer step" in kinds)
    plain, ours = found["rows"]
    assert len(plain) == 2
    for before, after in zip(plain, ours, strict=True):
        assert after == pytest.approx(before, rel=PEER_TRAINING)
