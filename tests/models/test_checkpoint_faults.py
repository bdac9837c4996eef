"""Checkpoints that are damaged, hostile or of a failed training: one line each, and never a wrong model without a word."""

from __future__ import annotations

import math
import os
import pickle
import random
import re
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import yolov9k
from tests.command_line import run
from tests.models.checkpoint_cases import altered, record, tiny_model, with_record
from tests.tiers import slow_case
from yolov9k.common.errors import UserError
from yolov9k.compat import load_weights
from yolov9k.models import DetectionModel
from yolov9k.models.checkpoints import read, rebuild, save

KEY = "model.0.conv.weight"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> DetectionModel:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def fault(path: Path, call: Callable[[Path], Any] = yolov9k.load) -> str:
    with pytest.raises(UserError) as caught:
        call(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("every", [4, slow_case(1)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_flipped_bit_is_found_or_changes_nothing(tiny: DetectionModel, tmp_path: Path, suffix: str, every: int) -> None:
    path, rng = tmp_path / f"model{suffix}", random.Random(0)
    save(path, tiny, best=0.5)
    sound, wanted = path.read_bytes(), read(path)
    found = 0
    places = [*range(40), *range(len(sound) - 60, len(sound)), *rng.sample(range(len(sound)), 60)]
    for place in places[::every]:
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << rng.randrange(8)]) + sound[place + 1 :])
        try:
            given = read(path)
        except UserError:
            found += 1
            continue
        assert given.keys() == wanted.keys()
        assert all(given[key] == wanted[key] for key in wanted if key != "model")
        assert all(torch.equal(given["model"][key], value) for key, value in wanted["model"].items())
    assert found > 60 / every


def test_a_flipped_bit_in_a_weight_names_the_record(tiny: DetectionModel, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save(path, tiny)
    data = bytearray(path.read_bytes())
    data[data.find(tiny.state_dict()[KEY].numpy().tobytes()) + 7] ^= 1
    path.write_bytes(data)
    assert "damaged or not a checkpoint (record archive/data/0 is not what its checksum says)" in fault(path)
    assert fault(path, lambda p: load_weights(tiny, p)) == fault(path)


def test_a_file_without_checksums_is_read(tiny: DetectionModel, tmp_path: Path) -> None:
    """torch can be told to leave them out; safetensors has none but ours."""
    torch.serialization.set_crc32_options(False)
    try:
        save(tmp_path / "model.pt", tiny)
    finally:
        torch.serialization.set_crc32_options(True)
    state = {key: value.contiguous() for key, value in tiny.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("model.pt", "model.safetensors", "old.pt"):
        assert load_weights(tiny_model(tmp_path), tmp_path / name) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (KEY, math.nan), (KEY, math.inf), (KEY, -math.inf), (KEY, 1e300), ("model.0.bn.running_var", math.inf),
        ("model.4.cv3.2.2.bias", math.nan),
        *(slow_case("model.0.bn.running_var", value) for value in (math.nan, -math.inf, 1e300)),
        *(slow_case("model.4.cv3.2.2.bias", value) for value in (math.inf, -math.inf, 1e300)),
    ],
)  # fmt: skip
def test_weights_that_are_not_finite_are_refused(tiny: DetectionModel, tmp_path: Path, key: str, value: float) -> None:
    """1e300 is finite as it stands in the file, and infinity in the model."""
    state = {k: v.clone().double() if v.is_floating_point() else v for k, v in tiny.state_dict().items()}
    state[key].view(-1)[-1] = value
    message = fault(altered(tmp_path / "failed.pt", tiny, ema=state))
    assert f"1 of {len(state)} tensors hold NaN or infinity, the first is {key}; " in message
    assert "give an earlier checkpoint" in message
    assert fault(tmp_path / "failed.pt", lambda p: load_weights(tiny, p)) == message


def unusual_tensors() -> dict[str, Tensor]:
    whole = torch.zeros(8, 3, 3, 3)
    return {
        "sparse": whole.to_sparse(), "sparse csr": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(whole, 0.1, 0, torch.qint8), "without values": whole.to("meta"),
        "of complex64": whole.to(torch.complex64), "of int8": whole.to(torch.int8), "of bool": whole.bool(),
        "of float8_e4m3fn": whole.to(torch.float8_e4m3fn),
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["sparse", "quantized", "without values", "of complex64", "of int8", "of bool", "of float8_e4m3fn"]
)
@pytest.mark.filterwarnings("ignore:.*quantize", "ignore:.*TypedStorage")
def test_weights_that_are_no_plain_numbers_are_refused(tiny: DetectionModel, tmp_path: Path, kind: str) -> None:
    state = {**tiny.state_dict(), KEY: unusual_tensors()[kind]}
    path = altered(tmp_path / "odd.pt", tiny, model=state)
    for message in (fault(path), fault(path, lambda p: load_weights(tiny, p))):
        assert f"{KEY} is {kind}, expected plain float32" in message


@pytest.mark.filterwarnings("ignore:.*[Ss]parse", "ignore:.*quantize", "ignore:.*TypedStorage")
def test_unusual_tensors_that_are_no_weights_do_not_matter(tiny: DetectionModel, tmp_path: Path) -> None:
    path = altered(tmp_path / "odd.pt", tiny, other=list(unusual_tensors().values()))
    assert yolov9k.load(path).num_classes == 3


def test_keys_that_are_no_text_are_no_weights(tiny: DetectionModel, tmp_path: Path) -> None:
    odd = {0: torch.zeros(1), (1, 2): torch.zeros(1), None: torch.zeros(1)}
    assert yolov9k.load(altered(tmp_path / "odd.pt", tiny, model={**tiny.state_dict(), **odd})).num_classes == 3
    torch.save(odd, tmp_path / "none.pt")
    assert "holds no weights" in fault(tmp_path / "none.pt", lambda p: load_weights(tiny, p))


def layers(*rows: Any) -> dict[str, Any]:
    head = [[1, 2, 3], "DDetect", ["nc"], 1]
    first = [[[-1], "Conv", [8, 3, 4], 1], [[0], "Conv", [8, 3, 2], 1], [[1], "AConv", [8], 1], [[2], "ADown", [8], 1], head]
    return {"name": "x", "layers": list(rows) or first, "activation": "SiLU"}


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": 10**9}, {"num_classes": 30_000_000}, {"num_classes": 10**400}, {"num_classes": True},
        {"num_classes": torch.tensor(3)}, {"num_classes": 2.0}, {"names": ["a"]}, {"names": [1, 2, 3]}, {"names": {"a": 1}},
        {"names": "abc"}, {"names": torch.zeros(3)}, {"fused": torch.zeros(2)}, {"fused": None}, {"fused": True},
        {"class_widths": [10**9]}, {"class_widths": [0]}, {"class_widths": [True]}, {"class_widths": 7},
        {"spec": layers([[-1], "Conv", [8], 10**9])}, {"spec": layers([[-1], "RepNCSPELAN4", [8, 8, 8, 10**9], 1])},
        {"spec": layers([[-1], "Conv", [10**9, 3], 1])}, {"spec": layers([[-1], "Conv", [8, 10**6], 1])},
        {"spec": layers([[-1], "Conv", [10**400, 3], 1])}, {"spec": layers([[-1], "Conv", [8], 0])},
        {"spec": layers([[-1], "Conv", [8], "1"])}, {"spec": layers([[-1], ["Conv"], [8], 1])},
        {"spec": layers([[-5], "Conv", [8], 1])}, {"spec": layers([[True], "Conv", [8], 1])},
        {"spec": layers([[], "Conv", [8], 1])}, {"spec": layers([-1, "Conv", [8], 1])},
        {"spec": layers([[-1], "Conv", 8, 1])}, {"spec": layers([[-1], "Conv", [torch.zeros(2)], 1])},
        {"spec": layers(7)}, {"spec": layers([1])}, {"spec": {**layers(), "name": 5}}, {"spec": {**layers(), "activation": 5}},
        {"spec": {**layers(), "activation": "nn.ELU('a')"}}, {"spec": {**layers(), "activation": "nn.ELU(" + "(" * 5000}},
        {"spec": layers(*layers()["layers"][:4], [[1, 2, 3], "DDetect", ["nc"], 10**9])},
        {"spec": layers(*layers()["layers"][:4], [[3, 2, 1], "DDetect", ["nc"], 1])},
        {"spec": layers(*layers()["layers"][:4], [[0, 3], "Concat", [1], 1], [[1, 2, 4], "DDetect", ["nc"], 1])},
    ],
    ids=range(41),
)  # fmt: skip
def test_a_plan_that_is_none_is_one_line(tiny: DetectionModel, tmp_path: Path, change: dict[str, Any]) -> None:
    message = fault(altered(tmp_path / "odd.pt", tiny, **change))
    assert "its layer table is damaged (" in message or "does not fit" in message


@pytest.mark.parametrize(
    ("number", "width", "words"),
    [
        (1996, 8, r"its layer table is damaged \(ValueError: 2,001 layers, expected at most 2,000\)"),
        (0, 1500, r"its layer table is damaged \(it describes far more weights than the file holds\)"),
    ],
    ids=["layers", "weights"],
)
def test_a_plan_beyond_all_bounds_is_told_as_such(
    tiny: DetectionModel, tmp_path: Path, number: int, width: int, words: str
) -> None:
    first, *own, head = ([name, [width, *values[1:]]] for _, name, values, _ in layers()["layers"])
    chain = [first, *[["Conv", [width, 3]]] * number, *own]
    rows = [[[n - 1], *row, 1] for n, row in enumerate(chain)]
    spec = layers(*rows, [[len(rows) - n for n in (3, 2, 1)], head[0], ["nc"], 1])
    assert re.search(words, fault(altered(tmp_path / "odd.pt", tiny, spec=spec), lambda path: rebuild(read(path), path)))


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ("[1]", "its plain values are no table"), ("null", "its plain values are no table"), ("{", "no pickle of tensors"),
        ("[" * 100_000, "recursion"), ('{"format": null}', "no known network"), ('{"format": Infinity}', "no known network"),
        ('{"format": ' + "9" * 5000 + "}", "damaged or not"), ('{"format": "yolov9k-1"}', "table is damaged (KeyError"),
        ('{"format": "yolov9k-1", "spec": null, "num_classes": 1, "names": [], "class_widths": null}', "damaged (TypeError"),
    ],
    ids=range(9),
)  # fmt: skip
def test_notes_of_a_safetensors_file_that_are_none(tmp_path: Path, notes: str, words: str) -> None:
    save_file({KEY: torch.zeros(2)}, tmp_path / "odd.safetensors", {"yolov9k": notes})
    assert words in fault(tmp_path / "odd.safetensors")


def pickled_call(name: bytes, *arguments: Any) -> bytes:
    """A pickle that calls a function with some arguments."""
    return b"\x80\x02c" + name + b"\n" + pickle.dumps(arguments, 2)[2:-1] + b"R."


@pytest.mark.parametrize(
    "data",
    [
        pickled_call(b"builtins\nbytearray", 2**34), pickled_call(b"__builtin__\nbytearray", 2**34),
        pickled_call(b"_codecs\nencode", "é" * 10**6, "punycode"),
        b"\x80\x02" + b"(" * 10**4, b"\x80\x02]" + b"]a" * 10**5 + b".",
        pickled_call(b"torch\nFloatTensor", 2**50), pickled_call(b"torch\nSize", 5), b"\x80\x02N.", b"\x80\x02K\x05Q.", b"",
        b"\x80\x02" + b"\x8a\xff" + b"\xff" * 255 + b".", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    ],
    ids=range(12),
)  # fmt: skip
@pytest.mark.parametrize("form", ["archive", "old"])
def test_pickles_that_torch_would_obey_or_trip_over(tiny: DetectionModel, tmp_path: Path, data: bytes, form: str) -> None:
    path = tmp_path / "odd.pt"
    if form == "old":
        torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)
        sound = path.read_bytes()
        path.write_bytes(sound[: sound.rfind(b"\x80\x02}")] + data)
    else:
        save(path, tiny)
        with_record(path, "data.pkl", data)
    fault(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # KiB


def test_an_archive_that_unpacks_to_more_is_refused(tiny: DetectionModel, tmp_path: Path) -> None:
    save(tmp_path / "model.pt", tiny)
    with_record(tmp_path / "model.pt", "data/0", bytes(10**7), zipfile.ZIP_DEFLATED)
    assert "its records are compressed" in fault(tmp_path / "model.pt")


def test_sizes_are_held_against_the_file(tiny: DetectionModel, tmp_path: Path) -> None:
    """Two names for the same bytes, and a tensor that says it is larger than its record."""
    path = tmp_path / "model.pt"
    save(path, tiny)
    data = record(path, "data.pkl")
    with_record(path, "data.pkl", data.replace(b"K\xd8", b"J\x00\x00\x00\x40"))  # of the first convolution's 216 weights
    assert "damaged or not a checkpoint (" in fault(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.namelist()[0], data)
    assert "its records are more than the file holds" in fault(path)


def test_what_is_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert fault(tmp_path / "pipe.pt").endswith("is not a regular file, give a checkpoint")
    (tmp_path / "link.pt").symlink_to(tmp_path / "gone.pt")
    for name in ("link.pt", "a\0b.pt", "\ud800.pt", "x" * 300 + ".pt"):
        assert fault(tmp_path / name).endswith("no such checkpoint")
    (tmp_path / "empty.pt").touch()
    assert fault(tmp_path / "empty.pt").endswith("is empty; copy or download it again")


def test_damage_is_one_line_on_every_command(tiny: DetectionModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pt"
    save(path, tiny)
    path.write_bytes(path.read_bytes()[:-300])
    for command in (["predict", "--source", "x.jpg", "--weights"], ["val", "--data", "x.yaml", "--weights"], ["info"]):
        assert run(*command, path) in (3, 4)  # the data or the source are looked at first
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
