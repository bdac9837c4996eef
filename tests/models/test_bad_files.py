"""What is no checkpoint, or a hostile one: one line that says what it is, nothing of it runs, memory of twice the file."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import yolov9k
from tests.command_line import run
from tests.models.bad_files import BAD
from tests.models.checkpoint_cases import tiny_model
from tests.models.crafted import NUMBERS, archive, called, dumped, name, safetensors, table, tensor, with_tensor, zipped
from tests.mutations import within_time
from yolov9k.common.errors import UserError
from yolov9k.compat import load_weights
from yolov9k.models import DetectionModel, torch_files
from yolov9k.models.checkpoint_file import read
from yolov9k.models.checkpoints import save
from yolov9k.models.stand_ins import StandIn

PLAIN = 8 << 20  # bytes that the plain values of a small file may take here, so that less of them has to be made
KEPT = 128 << 20  # bytes: Python and torch take memory in large pieces
_RUN = {"exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen",
        "pickle.find_class", "socket.connect", "ctypes.dlopen", "os.remove", "os.rename", "os.mkdir"}  # fmt: skip
_events: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    """Python's own report of what is done."""
    if _events is not None and (event in _RUN or (event == "open" and set(str(arguments[1])) & set("wax+"))):
        _events.append(f"{event} {arguments}")


sys.addaudithook(_note)


@contextmanager
def watched() -> Iterator[list[str]]:
    """What is run, imported or written meanwhile."""
    global _events
    _events = events = []
    try:
        yield events
    finally:
        _events = None


@contextmanager
def within_memory(size: int) -> Iterator[None]:
    """Memory beyond `size` more bytes fails, where the system can say how much is taken."""
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DetectionModel:
    """A model; what reading imports at first is imported."""
    folder = tmp_path_factory.mktemp("sound")
    model = tiny_model(folder)
    for file in ("sound.pt", "sound.safetensors"):
        save(folder / file, model)
        yolov9k.load(folder / file)
    for file, data in (("bad.safetensors", safetensors(b"{")), ("bad.pt", zipped(a_npy=b""))):
        (folder / file).write_bytes(data)
        with pytest.raises(UserError):
            read(folder / file)
    return model


def fault(path: Path, model: DetectionModel) -> str:
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 80


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_and_nothing_runs(
    model: DetectionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    bad, path = BAD[case], tmp_path / BAD[case].file
    path.write_bytes(bad.data())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch_files, "MAX_PLAIN", PLAIN)
    with watched() as events, within_time(), within_memory(2 * path.stat().st_size + PLAIN + KEPT):
        message = fault(path, model)
    assert bad.words in message
    assert events == []
    assert list(tmp_path.iterdir()) == [path]


def test_the_watch_sees_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same instructions, obeyed."""
    import pickle

    monkeypatch.chdir(tmp_path)
    with watched() as events:
        pickle.loads(b"\x80\x02" + called("os.system", "touch ran") + b".")
        pickle.loads(b"\x80\x02" + called("builtins.eval", "open('opened', 'w')") + b"0N.")
    assert {path.name for path in tmp_path.iterdir()} == {"ran", "opened"}
    assert len([event for event in events if event.startswith(("os.system", "open", "pickle.find_class"))]) >= 4


def test_the_bound_of_memory_bounds() -> None:
    with pytest.raises((MemoryError, RuntimeError)), within_memory(KEPT):
        torch.zeros(8 * KEPT, dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["safetensors", "archive", "row"])
def test_a_file_that_memory_does_not_hold_is_told_as_such(model: DetectionModel, tmp_path: Path, kind: str) -> None:
    path, large = tmp_path / "large", {"w": torch.zeros(1 << 25)}
    if kind == "safetensors":
        save_file(large, path)
    else:
        torch.save(large, path, _use_new_zipfile_serialization=kind == "archive")
    with within_memory(32 << 20):
        assert "does not fit into memory, or is damaged and declares more than it holds" in fault(path, model)


def test_a_class_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a mere name nor for an object; a function that is only named is not called."""
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    thing = name("hostile.Thing") + b")\x81}" + dumped("a") + dumped(1) + b"sb"
    path = tmp_path / "named.pt"
    path.write_bytes(archive(table(thing=thing, kind=name("hostile.Thing"), call=name("os.system"))))
    content = read(path)
    assert isinstance(content["thing"], StandIn)
    assert (content["thing"].class_path, content["thing"].state) == ("hostile.Thing", {"a": 1})
    assert (content["kind"].path, content["call"].path) == ("hostile.Thing", "os.system")
    assert "hostile" not in sys.modules


def test_values_that_name_each_other_cost_nothing(tmp_path: Path) -> None:
    """2 ** 60 values where somebody counts them, and a place in the memo that an array would be made for."""
    laughs = b"]q\x63" + b"0](h\x63h\x63eq\x63" * 60 + b"r\xff\xff\xff\xff"
    path = tmp_path / "laughs.pt"
    path.write_bytes(archive(table(model=b"}" + dumped("a") + tensor() + b"s", other=laughs), n0=NUMBERS))
    with within_memory(KEPT), within_time():
        content = read(path)
    assert content["model"]["a"].shape == (6,)
    assert len(content["other"]) == 2


def test_lists_within_lists_without_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.pt"
    path.write_bytes(archive(table(model=b"]" * 100_000 + b"a" * 99_999)))
    with within_time():
        assert len(read(path)["model"]) == 1


@pytest.mark.parametrize("command", [["predict", "--source", "x.png", "--weights"], ["info"]])
def test_a_hostile_file_is_one_line_of_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("x.png")
    path = tmp_path / "bad.pt"
    path.write_bytes(with_tensor(called("os.system", "touch ran")))
    assert run(*command, path) != 0
    assert "calls os.system, which no checkpoint needs" in " ".join(capsys.readouterr().err.split())
