"""The environment of peers: what it has, and how a test that needs one that is not there ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import peers

pytestmark = pytest.mark.peers

VERSIONS = """
import json, torch
from importlib.metadata import version
import ultralytics, libreyolo
print(json.dumps({name: version(name) for name in ("torch", "torchvision", "ultralytics", "libreyolo")}))
"""


def test_the_installed_ones_import_there(tmp_path: Path) -> None:
    found = peers.answer(VERSIONS, tmp_path)
    assert found.keys() == {"torch", "torchvision", "ultralytics", "libreyolo"}
    assert (found["ultralytics"], found["libreyolo"]) == ("8.4.190", "1.6.0")


@pytest.mark.parametrize(("peer", "module"), [("published", "models.yolo"), ("mit", "yolo.model.yolo")])
def test_the_checkouts_import_there(peer: str, module: str, tmp_path: Path) -> None:
    code = f"import json, importlib; print(json.dumps(importlib.import_module({module!r}).__file__))"
    assert peers.answer(code, tmp_path, peer=peer).startswith(str(peers.checkout(peer)))


@pytest.mark.twin
def test_without_an_environment_a_test_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("YOLOV9K_PEERS", "YOLOV9K_PUBLISHED"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(pytest.skip.Exception, match="set YOLOV9K_PEERS"):
        peers.python()
    with pytest.raises(pytest.skip.Exception, match="set YOLOV9K_PUBLISHED"):
        peers.checkout("published")
