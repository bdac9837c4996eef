"""Files that we write, opened by the other implementations' own loaders, and files that they write, opened by ours.

Each side computes the same image in a process of its own; the outputs are compared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import yolov9k
from tests import peers
from tests.compat.models import decoded, randomized
from tests.tolerances import PEERS
from yolov9k.compat import convert
from yolov9k.models import DetectionModel
from yolov9k.models.heads.detect import head_name
from yolov9k.models.spec import load_spec

pytestmark = pytest.mark.peers

# Each opens argv[1], computes the image argv[2] and saves boxes (center, size) and scores [1, 4 + nc, A] to argv[3].
ULTRALYTICS = """
import sys, numpy as np, torch
from ultralytics import YOLO
yolo = YOLO(sys.argv[1])
with torch.no_grad():
    found = yolo.model.float().eval()(torch.from_numpy(np.load(sys.argv[2])))
np.save(sys.argv[3], (found[0] if isinstance(found, (tuple, list)) else found).numpy())
print(list(yolo.names.values()))
"""
PUBLISHED = """
import os, sys, numpy as np, torch
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
from models.experimental import attempt_load
model = attempt_load(sys.argv[1], device=torch.device("cpu"))
with torch.no_grad():
    found = model(torch.from_numpy(np.load(sys.argv[2])))
while isinstance(found, (tuple, list)):  # of two branches the main one is the last
    tensors = [part for part in found if torch.is_tensor(part) and part.dim() == 3]
    found = tensors[-1] if tensors else found[0]
np.save(sys.argv[3], found.numpy())
print(list(model.names.values()) if isinstance(model.names, dict) else list(model.names))
"""
LIBREYOLO = """
import sys, numpy as np, torch
from libreyolo import LibreYOLO
yolo = LibreYOLO(sys.argv[1], device="cpu")
with torch.no_grad():
    found = yolo.model.float().eval()(torch.from_numpy(np.load(sys.argv[2])))["predictions"]
corners, scores = found[:, :4], found[:, 4:]
low, high = corners[:, :2], corners[:, 2:]
np.save(sys.argv[3], torch.cat(((low + high) / 2, high - low, scores), 1).numpy())
print([yolo.names[i] for i in range(3)], yolo.letterbox_pad)
"""
MIT = """
import sys, numpy as np, torch
from pathlib import Path
from omegaconf import OmegaConf
import yolo
from yolo.model.yolo import create_model
config = OmegaConf.load(Path(yolo.__file__).parent / f"config/model/{sys.argv[4]}.yaml")
model = create_model(config, weight_path=sys.argv[1], class_num=3).float().eval()
with torch.no_grad():
    levels = model(torch.from_numpy(np.load(sys.argv[2])))["Main"]
found = []
for stride, (scores, _, sides) in zip((8, 16, 32), levels):
    rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in sides.shape[2:]), indexing="ij")
    anchors = torch.stack((columns, rows))[None]
    low, high = anchors - sides[:, :2], anchors + sides[:, 2:]
    found.append(torch.cat(((low + high) / 2 * stride, (high - low) * stride, scores.sigmoid()), 1).flatten(2))
np.save(sys.argv[3], torch.cat(found, 2).numpy())
"""
OPEN = {"ultralytics": ULTRALYTICS, "published": PUBLISHED, "libreyolo": LIBREYOLO, "mit": MIT}
NAMES = ["circle", "square", "star"]


def drawn(folder: Path) -> Tensor:
    x = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(3))
    np.save(folder / "image.npy", x.numpy())
    return x


def made(name: str, groups: int = 4, tower: str = "plain") -> DetectionModel:
    spec = load_spec(name)
    return randomized(DetectionModel(spec.with_head(head_name(spec.branches, groups, tower)), 3, NAMES))


def compare(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    for part in (slice(0, 4), slice(4, None)):
        scale = float(wanted[:, part].abs().max())
        torch.testing.assert_close(found[:, part], wanted[:, part], rtol=0, atol=PEERS * scale)


WRITTEN = [
    ("ultralytics", "gelan-t", 4, "plain"), ("ultralytics", "gelan-t", 1, "plain"), ("ultralytics", "gelan-t", 1, "depthwise"),
    ("ultralytics", "yolov9-s", 4, "plain"), ("ultralytics", "gelan-m", 4, "plain"), ("ultralytics", "yolov9-c", 4, "plain"),
    ("ultralytics", "gelan-e", 4, "plain"), ("published", "yolov9-t", 4, "plain"), ("published", "gelan-t", 4, "plain"),
    ("published", "gelan-t", 1, "plain"), ("published", "yolov9-c", 4, "plain"), ("published", "gelan-e", 4, "plain"),
    ("published", "yolov9-e", 4, "plain"), ("libreyolo", "gelan-t", 4, "plain"), ("libreyolo", "yolov9-t", 4, "plain"),
    ("libreyolo", "gelan-s", 4, "plain"), ("libreyolo", "gelan-m", 4, "plain"), ("libreyolo", "yolov9-c", 4, "plain"),
    ("mit", "yolov9-t", 4, "plain"), ("mit", "gelan-s", 4, "plain"), ("mit", "yolov9-m", 4, "plain"),
    ("mit", "yolov9-c", 4, "plain"),
]  # fmt: skip


@pytest.mark.parametrize(("peer", "name", "groups", "tower"), WRITTEN)
def test_their_own_loader_opens_what_we_write(peer: str, name: str, groups: int, tower: str, tmp_path: Path) -> None:
    x, model = drawn(tmp_path), made(name, groups, tower)
    model.letterbox = "topleft" if peer == "libreyolo" else "center"
    convert(model, tmp_path / "written.pt", peer)
    checkout = peer if peer in peers.CHECKOUTS else None
    arguments = (tmp_path / "written.pt", tmp_path / "image.npy", tmp_path / "found.npy", f"v9-{name[-1]}")
    said = peers.run(OPEN[peer], tmp_path, *arguments, peer=checkout)
    if peer != "mit":
        assert str(NAMES) in said
    if peer == "libreyolo":
        assert "topleft" in said
    compare(torch.from_numpy(np.load(tmp_path / "found.npy")), decoded(model, x))
    compare(decoded(yolov9k.load(tmp_path / "written.pt"), x), decoded(model, x))  # and it comes back


# Each saves a file of its own to argv[1], its numbers away from their start, and computes as above.
AWAY = """
def away(model):
    generator = torch.Generator().manual_seed(7)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and "dfl" not in key and "anc2vec" not in key:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.2 + (0.5 if "var" in key else -0.1))
"""
SAVE = {
    "ultralytics": (
        "from ultralytics import YOLO\nimport sys, torch\n" + AWAY
        + "yolo = YOLO(sys.argv[4])\naway(yolo.model)\nyolo.model.names = {0: 'zero', **{i: str(i) for i in range(1, 80)}}\n"
        + "yolo.save(sys.argv[1])\n"
    ),
    "published": (
        "import sys, torch\nfrom models.yolo import DetectionModel\n" + AWAY
        + "model = DetectionModel(sys.argv[4])\naway(model)\nmodel.names = ['zero', *map(str, range(1, 80))]\n"
        + "torch.save({'epoch': 3, 'model': None, 'ema': model.half(), 'optimizer': None, 'date': 'today'}, sys.argv[1])\n"
    ),
    "libreyolo": (
        "import sys, torch\nfrom libreyolo.models.yolo9.model import LibreYOLO9\n" + AWAY
        + "yolo = LibreYOLO9(None, sys.argv[4], device='cpu')\naway(yolo.model)\nyolo.names[0] = 'zero'\n"
        + "yolo.save(sys.argv[1])\n"
    ),
}  # fmt: skip
READ = [("ultralytics", "yolov9t.yaml"), ("ultralytics", "yolov9c.yaml"), ("ultralytics", "yolov9e.yaml"),
        ("published", "gelan-t.yaml"), ("published", "yolov9-t.yaml"), ("published", "yolov9-c.yaml"), ("libreyolo", "t"),
        ("libreyolo", "c")]  # fmt: skip


@pytest.mark.parametrize(("peer", "kind"), READ)
def test_what_they_write_is_opened_here(peer: str, kind: str, tmp_path: Path) -> None:
    x, path = drawn(tmp_path), tmp_path / "theirs.pt"
    folder = peers.checkout(peer) / "models/detect" if peer == "published" else Path()
    checkout = peer if peer in peers.CHECKOUTS else None
    peers.run(SAVE[peer], tmp_path, path, "", "", folder / kind, peer=checkout)
    code = OPEN[peer].replace("range(3)", "range(80)")
    peers.run(code, tmp_path, path, tmp_path / "image.npy", tmp_path / "found.npy", peer=checkout)
    model = yolov9k.load(path)
    assert model.names[0] == "zero"
    assert model.letterbox == ("topleft" if peer == "libreyolo" else "center")
    compare(decoded(model, x), torch.from_numpy(np.load(tmp_path / "found.npy")))
