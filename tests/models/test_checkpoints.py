"""Checkpoints: what is saved comes back bit for bit, nothing in a file is executed, and a failed save loses nothing."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import yolov9k
from tests.tiers import slow_case
from yolov9k import create_model
from yolov9k.common.errors import UserError
from yolov9k.compat import load_weights
from yolov9k.models import DetectionModel
from yolov9k.models.checkpoints import read, save
from yolov9k.models.spec import load_spec

NAMES = ["häuser", "tree: old", "鳥"]
TINY = """
activation: nn.LeakyReLU(0.1)
width_multiple: 0.75
backbone:
  - [-1, 1, Conv, [16, 3, 4]]
  - [-1, 2, Conv, [16, 3]]
  - [-1, 1, ADown, [16]]
  - [-1, 1, AConv, [16]]
  - [-1, 1, CBLinear, [[8, 16]]]
  - [[4, -2], 1, CBFuse, [[1]]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[2, 5, 6, 2, 3, 6], 1, DualDDetect, [nc]]
"""


def randomized(model: DetectionModel) -> DetectionModel:
    """Every tensor away from its start, the bins aside."""
    generator = torch.Generator().manual_seed(5)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and ".dfl" not in key:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + 0.5 * ("var" in key))
    model.names = [*NAMES, *map(str, range(model.num_classes))][: model.num_classes]
    return model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> DetectionModel:
    path = tmp_path_factory.mktemp("built") / "tiny.yaml"
    path.write_text(TINY)
    return randomized(create_model(path, 3))


@pytest.fixture
def tiny(built: DetectionModel) -> DetectionModel:
    """A model of a test's own, which may change it."""
    return copy.deepcopy(built)


@pytest.fixture(scope="module")
def narrow() -> DetectionModel:
    """The published t weights have class branches of 80 where the table says 128."""
    return randomized(DetectionModel(load_spec("gelan-t"), 80, class_widths=[80]))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def altered(path: Path, model: DetectionModel, /, **changes: Any) -> Path:
    """A checkpoint of `model`, some of its content replaced."""
    save(path, model)
    torch.save({**read(path), **changes}, path)
    return path


def fault(path: Path, call: Any = yolov9k.load) -> str:
    with pytest.raises(UserError) as caught:
        call(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


FORMS = [
    ("full", ".pt"), ("full", ".safetensors"), ("lean", ".safetensors"), ("fused", ".pt"), ("half", ".safetensors"),
    ("channels_last", ".pt"), slow_case("lean", ".pt"), slow_case("fused", ".safetensors"), slow_case("half", ".pt"),
    slow_case("channels_last", ".safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "suffix"), FORMS)
def test_what_is_saved_comes_back_bit_for_bit(tiny: DetectionModel, tmp_path: Path, suffix: str, form: str) -> None:
    forms: dict[str, Any] = {
        "full": lambda: tiny, "lean": tiny.to_lean, "fused": tiny.fuse, "half": tiny.half,
        "channels_last": lambda: tiny.to(memory_format=torch.channels_last),
    }  # fmt: skip
    model: DetectionModel = forms[form]()
    path = tmp_path / f"model{suffix}"
    save(path, model, epoch=7)
    assert read(path)["epoch"] == 7
    back = yolov9k.load(path)
    given = {key: value.to(back.state_dict()[key].dtype) for key, value in model.state_dict().items()}
    assert same(back.state_dict(), given)
    assert (back.names, back.num_classes, back.spec) == (NAMES, 3, model.spec)
    assert not back.training
    if form != "half":
        x = torch.rand(1, 3, 64, 96)
        with torch.no_grad():
            assert torch.equal(back(x), model.eval().to(memory_format=torch.contiguous_format)(x))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_stored_tensors_keep_their_precision(tiny: DetectionModel, tmp_path: Path) -> None:
    for suffix in (".pt", ".safetensors"):
        save(tmp_path / f"half{suffix}", tiny.half())
        stored = read(tmp_path / f"half{suffix}")["model"]
        assert stored["model.0.conv.weight"].dtype == torch.float16
        assert same({k: stored[k] for k in tiny.state_dict()}, tiny.state_dict())


def test_average_weights_are_preferred(built: DetectionModel, tmp_path: Path) -> None:
    average = {key: value.clone() for key, value in built.state_dict().items()}
    average["model.0.conv.weight"] += 1
    save(tmp_path / "last.pt", built, ema=average)
    assert same(yolov9k.load(tmp_path / "last.pt").state_dict(), average)


class Trap:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("how", ["torch", "torch-old", "pickle"])
def test_an_object_in_a_pickle_is_refused_and_not_executed(narrow: DetectionModel, tmp_path: Path, how: str) -> None:
    path, trace = tmp_path / "trap.pt", tmp_path / "executed"
    content = {"model": Trap(trace), "format": "yolov9k-1"}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    words = (
        "is a pickle, but not one that torch.save wrote"
        if how == "pickle"
        else "calls pathlib.Path.touch, which no checkpoint needs"
    )
    assert words in fault(path)
    assert not trace.exists()
    fault(path, lambda p: load_weights(narrow, p))
    assert not trace.exists()
    if how == "torch":
        torch.load(path, weights_only=False)
        assert trace.exists()  # the trap works


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.0003, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_called_damaged(built: DetectionModel, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    save(path, built)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    message = fault(path)
    assert ("damaged or not a checkpoint (" in message) == (share > 0)
    assert message.endswith("download it again")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello world", "is a text"),
        (b"\x80\x02.", "is a pickle, but"),
        (b"(", "is a text"),
        (b"PK\x03\x04", "it was cut short"),
        (b"\0" * 100, "begins with zeros alone"),
        (b"#!/bin/sh\n", "is a text"),
        (b"\xfe\xfd" * 9, "damaged or not a checkpoint ("),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_any_other_file_is_called_what_it_is(tmp_path: Path, suffix: str, content: bytes, words: str) -> None:
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    assert words in fault(path)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert fault(tmp_path / "gone.pt").endswith("no such checkpoint")
    (tmp_path / "folder.pt").mkdir()
    assert "is a folder" in fault(tmp_path / "folder.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds list, expected a checkpoint or a state dict" in fault(tmp_path / "list.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pt")
    assert "no known network has its 1 tensors (a ...); give weights of a YOLOv9" in fault(tmp_path / "state.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "state.safetensors")
    assert "no known network has its 1 tensors" in fault(tmp_path / "state.safetensors")


@pytest.mark.parametrize(
    "change",
    [{"spec": 3}, {"spec": {}}, {"names": None, "num_classes": "x"}, {"num_classes": 0}, {"class_widths": ["a", "b"]},
     {"spec": {"name": "x", "layers": [[[0], "Conv", [8], 1]], "activation": "SiLU"}},
     {"spec": {"name": "x", "layers": [[[-1], "Conv", [8], 1]], "activation": "SiLU"}},
     {"spec": {"name": "x", "layers": [[[-1], "#", [8], 1], [[0], "DDetect", ["nc"], 1]], "activation": "SiLU"}},
     {"spec": {"name": "x", "layers": [], "activation": "SiLU"}}, {"model": 5}],
)  # fmt: skip
def test_a_nonsensical_plan_is_one_line(built: DetectionModel, tmp_path: Path, change: dict[str, Any]) -> None:
    message = fault(altered(tmp_path / "odd.pt", built, **change))
    with pytest.raises(UserError):  # nor where the plan is looked at alone, as training does that starts from such weights
        load_weights(built, tmp_path / "odd.pt")
    assert "layer table is damaged" in message or "missing in the file" in message


def test_a_plan_in_a_checkpoint_executes_nothing(built: DetectionModel, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    layers = [[[-1], "Conv", [8], 1], [[0, 0, 0], "DDetect", ["nc"], 1]]
    spec = {"name": "x", "layers": layers, "activation": f"nn.ReLU(open({str(trace)!r}, 'w'))"}
    assert "layer table is damaged" in fault(altered(tmp_path / "odd.pt", built, spec=spec))
    assert not trace.exists()


def test_unfitting_tensors_are_listed_with_both_shapes(built: DetectionModel, tmp_path: Path) -> None:
    state = dict(built.state_dict())
    state["model.0.conv.weight"] = torch.zeros(7, 3, 3, 3)
    state["model.0.bn.bias"] = torch.zeros(7)
    altered(tmp_path / "odd.pt", built, model=state)
    message = fault(tmp_path / "odd.pt")
    assert "does not fit tiny, 2 keys of another shape and 0 missing" in message
    assert "model.0.conv.weight: file [7, 3, 3, 3], model [16, 3, 3, 3]" in message
    assert "model.0.bn.bias: file [7], model [16]" in message
    assert fault(tmp_path / "odd.pt", lambda path: load_weights(built, path)) == message


def test_missing_and_unknown_tensors_are_listed(built: DetectionModel, tmp_path: Path) -> None:
    state = {key: value for key, value in built.state_dict().items() if not key.startswith("model.0.bn.")}
    altered(tmp_path / "odd.pt", built, model={**state, "model.99.weight": torch.zeros(1)})
    message = fault(tmp_path / "odd.pt")
    assert "0 keys of another shape and 5 missing" in message
    assert "model.0.bn.weight: missing in the file" in message
    assert "; and 1 more" in message
    altered(tmp_path / "odd.pt", built, model={**built.state_dict(), "model.99.weight": torch.zeros(1)})
    assert "model.99.weight: unknown to the model" in fault(tmp_path / "odd.pt")


def test_weights_of_another_network_are_refused_with_keys(built: DetectionModel, tmp_path: Path) -> None:
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "other.pt")
    message = fault(tmp_path / "other.pt", lambda path: load_weights(built, path))
    assert message.endswith("no known network has its 1 tensors (other.weight ...); give weights of a YOLOv9 or GELAN detector")


@pytest.mark.parametrize("key", ["ema", "model", "state_dict", None, ".safetensors"])
def test_weights_are_found_under_the_usual_keys(built: DetectionModel, tmp_path: Path, key: str | None) -> None:
    path, state = tmp_path / "weights.pt", {k: v.clone() for k, v in built.state_dict().items()}
    if key == ".safetensors":  # holds a table alone
        path = path.with_suffix(key)
        save_file(state, path)
    else:
        torch.save({key: state, "note": "x"} if key else state, path)
    fresh = DetectionModel(built.spec, 3)
    assert load_weights(fresh, path) == []
    assert same(fresh.state_dict(), state)


@pytest.mark.parametrize("suffix", [".pt", slow_case(".safetensors")])
def test_class_width_is_read_from_the_tensors(narrow: DetectionModel, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"narrow{suffix}"
    assert narrow.to_lean().state_dict()["model.22.cv3.0.1.conv.weight"].shape == (80, 80, 3, 3)
    assert sum(p.numel() for p in narrow.parameters()) == 2_036_560
    if suffix == ".pt":
        torch.save(narrow.state_dict(), path)
    else:
        save_file(narrow.state_dict(), path)
    model = create_model("gelan-t").eval()
    assert load_weights(model, path) == []
    assert same(model.state_dict(), narrow.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), narrow.eval()(x))
    save(path, model)  # and it stays so
    assert same(yolov9k.load(path).state_dict(), narrow.state_dict())


def test_class_width_of_a_file_with_a_layer_table_comes_from_its_tensors_too(narrow: DetectionModel, tmp_path: Path) -> None:
    altered(tmp_path / "narrow.pt", narrow, class_widths=None)
    assert same(yolov9k.load(tmp_path / "narrow.pt").state_dict(), narrow.state_dict())


def test_other_classes_leave_the_last_class_layers_fresh_alone(narrow: DetectionModel, tmp_path: Path) -> None:
    torch.save(narrow.state_dict(), tmp_path / "weights.pt")
    model = create_model("gelan-t", 3)
    fresh = load_weights(model, tmp_path / "weights.pt")
    assert fresh == [f"model.22.cv3.{level}.2.{part}" for level in range(3) for part in ("weight", "bias")]
    assert model.train()(torch.rand(2, 3, 64, 64))[0][0].shape == (2, 67, 8, 8)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch, yolov9k
from yolov9k.common.errors import UserError
from yolov9k.models.checkpoints import save
paths, limits = [Path(word) for word in sys.argv[1:3]], [int(word) for word in sys.argv[3:]]
model = yolov9k.load(paths[0])
with torch.no_grad():
    model.model[0].conv.weight.fill_(3)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for path in paths:
    for limit in [*limits, path.stat().st_size - 200]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save(path, model)
        except UserError as error:
            message = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(message)
        del message
"""
NO_SPACE = """
import sys
from pathlib import Path
import torch, yolov9k
from yolov9k.common.errors import UserError
from yolov9k.models.checkpoints import save
model, *paths = yolov9k.load(sys.argv[1]), *map(Path, sys.argv[2:])
save(paths[0], model)
before = paths[0].read_bytes()
for path in paths:
    try:
        save(path, model, note=[0] * 5)
    except UserError as error:
        print(error)
    assert paths[0].read_bytes() == before
    assert list(path.parent.iterdir()) == paths[:1]
"""
NOBODY = """
import os, sys
from pathlib import Path
from yolov9k import create_model
from yolov9k.common.errors import UserError
from yolov9k.models.checkpoints import save
model = create_model("gelan-t", 1)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    save(Path(sys.argv[1]), model)
except UserError as error:
    print(error)
"""


def run(script: str, *arguments: Any, prefix: Sequence[str] = ()) -> list[str]:
    command = [*prefix, sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
def test_a_write_that_breaks_off_keeps_the_previous_file(built: DetectionModel, tmp_path: Path) -> None:
    """The system refuses files beyond so many bytes: in the first block, between two tensors, within one, near the end."""
    paths = [tmp_path / "model.pt", tmp_path / "model.safetensors"]
    for path in paths:
        save(path, built)
    before = [path.read_bytes() for path in paths]
    messages = run(FULL_DISK, *paths, 100, 2_000, 20_000, 250_000)
    said = "cannot be saved, File too large; the previous file is kept; free space or choose another --project"
    assert messages == [f"{path}: {said}" for path in paths for _ in range(5)]
    assert [path.read_bytes() for path in paths] == before
    assert same(yolov9k.load(paths[0]).state_dict(), built.state_dict())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "model.safetensors"]


@pytest.mark.long
def test_a_disk_without_space_is_called_full_and_the_previous_file_stays(built: DetectionModel, tmp_path: Path) -> None:
    """A disk of the test's own, in a namespace of its own, that holds one and a half checkpoints."""
    save(tmp_path / "size.pt", built)
    size, disk = (tmp_path / "size.pt").stat().st_size * 3 // 2, tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"', str(disk)]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system gives no mounts to ordinary users")
    messages = run(NO_SPACE, tmp_path / "size.pt", disk / "model.pt", disk / "model.safetensors", prefix=mount)
    assert [message.split(": ")[1] for message in messages] == [
        "cannot be saved, the disk is full; the previous file is kept; free space or choose another --project",
        "cannot be saved, the disk is full; free space or choose another --project",
    ]


@pytest.mark.long
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    (message,) = run(NOBODY, folder / "model.pt")
    assert message.startswith(f"{folder / 'model.pt'}: cannot be saved, Permission denied; ")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["gone/model.pt", "file/model.pt", "folder.pt"])
def test_a_place_that_is_none_is_one_line(built: DetectionModel, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.pt").mkdir()
    assert "cannot be saved" in fault(tmp_path / name, lambda path: save(path, built))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.pt"]


def test_other_faults_while_writing_are_not_called_a_full_disk(built: DetectionModel, tmp_path: Path) -> None:
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save(tmp_path / "model.pt", built, extra=lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_plain_values_beside_the_model_come_back(built: DetectionModel, tmp_path: Path) -> None:
    save(tmp_path / "model.pt", built, best=0.5, note=["a", None, True])
    assert (read(tmp_path / "model.pt")["best"], read(tmp_path / "model.pt")["note"]) == (0.5, ["a", None, True])
    assert isinstance(yolov9k.load(tmp_path / "model.pt").model[0].act, nn.LeakyReLU)
