"""Pickles read without running them: every tensor and plain value as it was, modules as the tensors of their state dict."""

from __future__ import annotations

import collections
import datetime
import enum
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.models.checkpoint_cases import tiny_model, with_record
from yolov9k.common.errors import UserError
from yolov9k.compat import load_weights
from yolov9k.models.checkpoint_file import read
from yolov9k.models.checkpoints import weights_of
from yolov9k.models.stand_ins import Reference, StandIn, state_dict_of
from yolov9k.models.unpickle import Unpickler

FORMS = pytest.mark.parametrize("new", [True, False], ids=["archive", "old"])


def saved(path: Path, value: Any, new: bool = True, **options: Any) -> Any:
    torch.save({"value": value}, path, _use_new_zipfile_serialization=new, **options)
    return read(path)["value"]


def tensors() -> dict[str, Tensor]:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    kinds = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.complex128,
    )
    return {
        **{str(kind): whole.to(kind) for kind in kinds},
        "float8": whole.to(torch.float8_e5m2),
        "uint16": whole.to(torch.uint16),
        "whole": whole,
        "part": whole[1, 1:, ::2],
        "transposed": whole.mT,
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "expanded": whole[:1].expand(5, 3, 4),
        "conjugate": whole.to(torch.complex64).conj(),
        "imaginary": (whole * 1j).conj().imag,
        "leaf": torch.ones(2, requires_grad=True),
        "parameter": nn.Parameter(whole * 2),
        "frozen": nn.Parameter(whole, requires_grad=False),
    }


@FORMS
def test_tensors_of_every_kind_come_back(tmp_path: Path, new: bool) -> None:
    given = {key: value for key, value in tensors().items() if new or key not in ("uint16", "float8")}
    back = saved(tmp_path / "tensors.pt", given, new)
    assert list(back) == list(given)
    for key, tensor in given.items():
        assert (back[key].dtype, back[key].shape, back[key].stride()) == (tensor.dtype, tensor.shape, tensor.stride()), key
        assert torch.equal(back[key].to(torch.complex128), tensor.detach().to(torch.complex128)), key
        assert type(back[key]) is Tensor
        assert not back[key].requires_grad
    assert back["part"].untyped_storage().data_ptr() == back["whole"].untyped_storage().data_ptr()


def test_a_file_of_the_other_order_of_bytes(tmp_path: Path) -> None:
    path, tensor = tmp_path / "big.pt", torch.arange(6, dtype=torch.float32)
    torch.save({"value": tensor}, path)
    with_record(path, "byteorder", b"big" if sys.byteorder == "little" else b"little")
    with_record(path, "data/0", tensor.numpy().byteswap().tobytes())
    assert torch.equal(read(path)["value"], tensor)


class Color(enum.Enum):
    RED = 1


class Settings:
    def __init__(self) -> None:
        self.rate, self.inner = 0.1, types.SimpleNamespace(deep=[1])


class Slotted:
    __slots__ = ("a",)


class Listed(list):  # type: ignore[type-arg]
    pass


class Table(dict):  # type: ignore[type-arg]
    pass


PLAIN = {
    "none": None,
    "truth": [True, False],
    "whole": [0, -1, 255, 2**31, -(2**40), 2**200],
    "fractions": [0.5, -1e300, float("inf")],
    "text": ["", "häuser 鳥", "\ud800", "x" * 70_000],
    "bytes": [b"", b"\x00\xff" * 300],
    "array of bytes": bytearray(b"ab\xff"),
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "sets": [set(), {1, "a"}, frozenset((1, 2))],
    "complex": 1 + 2j,
    "tables": {1: "a", None: "b", (1, ("x",)): "c", 0.5: "d", b"k": "e", 2**70: "f"},
    "ordered": OrderedDict(b=1, a=2),
    "counted": collections.Counter("aab"),
    "size": torch.Size([1, 2]),
    "dtype": torch.bfloat16,
    "device": torch.device("cuda:1"),
    "day": datetime.date(2026, 1, 2),
    "moment": datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
    "span": datetime.timedelta(3, 4, 5),
    "double": np.float64(0.25),
    "single": np.float32(0.25),
    "integer": np.int64(7),
    "array": np.arange(6, dtype=np.int16).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "names": np.array(["a", "bcd"]),
    "nothing": np.zeros((0, 3)),
}


def equal(first: Any, second: Any) -> bool:
    if isinstance(second, np.ndarray):
        return bool(first.dtype == second.dtype and np.array_equal(first, second))
    return bool(type(first) is type(second) and first == second)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_values_come_back(tmp_path: Path, protocol: int) -> None:
    back = saved(tmp_path / "plain.pt", PLAIN, pickle_protocol=protocol)
    assert list(back) == list(PLAIN)
    for key, value in PLAIN.items():
        assert equal(back[key], value), key


def test_containers_of_other_classes_become_plain_ones(tmp_path: Path) -> None:
    back = saved(tmp_path / "plain.pt", [collections.deque([1, 2], 5), collections.defaultdict(list, {"a": [1]})])
    assert back == [[1, 2], {"a": [1]}]


@FORMS
def test_objects_of_other_classes_are_stand_ins(tmp_path: Path, new: bool) -> None:
    slotted = Slotted()
    slotted.a = 5  # type: ignore[attr-defined]
    given = [Settings(), Color.RED, PurePosixPath("a/b"), slotted, Listed([1, 2]), Table(a=1), slice(1, 2), range(3), Settings]
    back = saved(tmp_path / "objects.pt", given, new)
    settings, color, path, slots, listed, table, cut, numbers, kind = back
    here = "tests.models.test_unpickle."
    assert settings.class_path == here + "Settings"
    assert settings.state["rate"] == 0.1
    assert settings.state["inner"].state == {"deep": [1]}
    assert (color.class_path, color.args) == (here + "Color", (1,))
    assert path.class_path.endswith("PurePosixPath")
    assert path.args in (("a", "b"), ("a/b",))
    assert slots.state == {"a": 5}
    assert (listed.items, table.items) == ([1, 2], {"a": 1})
    assert (cut.args[:2], numbers.args[:2]) == ((1, 2), (0, 3))
    assert kind == Reference(here + "Settings")


KEYS = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.text(max_size=8), st.binary(max_size=8))
VALUES = st.recursive(
    st.one_of(KEYS, st.floats(allow_nan=False), st.builds(bytearray, st.binary(max_size=4))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.tuples(inner, inner),
        st.sets(KEYS, max_size=4),
    ),
    max_leaves=20,
)


@given(VALUES, st.integers(0, 5))
def test_whatever_plain_values_are_pickled_come_back(value: Any, protocol: int) -> None:
    back = Unpickler(pickle.dumps(value, protocol), lambda identity: None, 1 << 20).load()
    assert back == value
    assert type(back) is type(value)


class Inner(nn.Module):
    """Shared and missing parts, buffers that are not saved, a name that is inherited."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.steps = nn.ModuleList([nn.Identity(), nn.Linear(2, 2), self.norm])
        self.gone = None
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("left", torch.arange(3), persistent=False)
        self.register_parameter("nothing", None)
        self.register_buffer("empty", None)
        self.forward = self.other  # type: ignore[method-assign]

    def other(self, x: Tensor) -> Tensor:
        return x


@FORMS
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_module_is_its_state_dict(tmp_path: Path, new: bool) -> None:
    """In torch's order, half precision as it is, a bound method as an attribute and all."""
    for number, module in enumerate((Inner(), Inner().half(), nn.Sequential(Inner(), nn.Sequential(Inner(), nn.PReLU())))):
        path = tmp_path / f"{number}.pt"
        torch.save(module, path, _use_new_zipfile_serialization=new)
        content = read(path)
        assert list(content) == ["model"]
        back, wanted = state_dict_of(content["model"]), module.state_dict()
        assert list(back) == list(wanted)
        assert all(torch.equal(back[key], value) and back[key].dtype == value.dtype for key, value in wanted.items())


@FORMS
def test_a_whole_model_starts_another(tmp_path: Path, new: bool) -> None:
    """The form of the published repository's files: the averaged weights are taken where there are some."""
    model = tiny_model(tmp_path)
    for key, averaged in (("model", False), ("ema", True)):
        model.model[0].conv.weight.data.fill_(float(averaged))
        models = {"model": None, "ema": None, key: model.half()}
        content = {"epoch": 1, **models, "optimizer": None, "date": datetime.datetime.now().isoformat()}
        torch.save(content, tmp_path / f"{key}.pt", _use_new_zipfile_serialization=new)
        start = tiny_model(tmp_path)
        assert load_weights(start, tmp_path / f"{key}.pt") == []
        assert start.model[0].conv.weight.eq(float(averaged)).all()
        model.float()


def test_the_pickle_of_a_large_model_has_room(tmp_path: Path) -> None:
    """Its plain values are counted, and are a small part of what is allowed."""
    module = nn.ModuleList(Inner() for _ in range(100))
    torch.save(module, tmp_path / "large.pt")
    assert len(weights_of(read(tmp_path / "large.pt"))) == len(module.state_dict())


def test_modules_without_end_are_refused() -> None:
    ring = StandIn("x.Ring")
    ring.state["_modules"] = {"a": ring}
    with pytest.raises(UserError, match=r"^x\.pt: damaged or not a checkpoint \(its modules hold each other without end\)"):
        state_dict_of(ring, "x.pt")


@pytest.mark.parametrize("state", [{}, {"_modules": None, "_parameters": 5}, {"_parameters": {0: torch.zeros(1), "a": "b"}}])
def test_a_module_without_tensors_has_none(state: dict[str, Any]) -> None:
    module = StandIn("x.Module")
    module.state.update(state)
    assert state_dict_of(module) == {}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("views") / "view.pt"


@given(st.data())
def test_every_view_of_what_is_stored_comes_back(file: Path, data: st.DataObject) -> None:
    """With steps of zero, nothing in it, and an offset."""
    size = data.draw(st.lists(st.integers(0, 4), max_size=4))
    stride = [data.draw(st.integers(0, 6)) for _ in size]
    offset = data.draw(st.integers(0, 9))
    tensor = torch.arange(100.0).as_strided(size, stride, offset)
    back = saved(file, tensor, data.draw(st.booleans()))
    assert torch.equal(back, tensor)
    assert (back.stride(), back.storage_offset()) == (tensor.stride(), offset)
