"""Damaged checkpoints and model files of every kind: read, or one short line, never a traceback, a hang or gigabytes."""

from __future__ import annotations

import copy
import io
import math
import random
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import yolov9k
from tests.models.checkpoint_cases import TINY, record, tiny_model, with_record
from tests.models.yaml_cases import BACKBONE, NECK
from tests.mutations import mutants, within_time
from tests.tiers import examples
from yolov9k.common.errors import UserError
from yolov9k.compat import load_weights
from yolov9k.models.checkpoints import read, save

pytestmark = pytest.mark.e2e

MOST_MEMORY = 1 << 20  # KiB
LONGEST = 1500  # characters of a message without its path
WORDS = [
    "nan", ".inf", "9" * 5000, "\0", "\n", "..", "[" * 5000, "{a: " * 200, "&a [*a, *a]", "*a", "<<: ", "!!int x", "!!bool x",
    "!!timestamp x", "2024-02-30", "1e999", "'", '"', "---", "- ", "\t", "\ufeff", "猫", "#", "\\ud800",
]  # fmt: skip
VALUES = [
    None, True, -1, 0, 1, 3, 2**31, 2**40,
    10**9, 10**400, 0.5, math.nan, math.inf, -math.inf, 1e308, "", "nc", "Conv", "CBLinear",
    "nn.Upsample", [], [[]], {}, [8, 8], [-1], (1,), "x" * 10**5, ["x"] * 1000, *WORDS,
]  # fmt: skip


def changed(draw: random.Random, content: Any, values: list[Any]) -> Any:
    """The content with one to three of its values, at any depth, exchanged, dropped or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        place, key = content, draw.choice(list(content))
        while isinstance(inner := place[key], dict | list) and inner and draw.random() < 0.9:
            place, key = inner, draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        action = draw.random()
        if action < 0.15:
            del place[key]
        elif action < 0.25 and isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        else:
            place[key] = copy.deepcopy(draw.choice(values))
        if not content:
            break
    return content


def text_mutants(originals: list[str], count: int, seed: int) -> Iterator[bytes]:
    """Texts with words exchanged; in every other one bytes are changed too."""
    draw = random.Random(seed)
    for number in range(count):
        words = re.split(r"(\w+|[^\w\s]|\s)", draw.choice(originals))
        for _ in range(draw.choice((0, 1, 1, 2, 3))):
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        text = "".join(words).encode()
        yield text if number % 2 else next(mutants([text], 1, draw.randrange(1 << 30)))


def tensors() -> list[Any]:
    """What may stand where a weight is expected."""
    whole = torch.zeros(8, 3, 3, 3)
    return [
        torch.zeros(0), torch.zeros(()), whole, whole.half(), whole.bool(), whole.to(torch.complex64), whole.to("meta"),
        whole.to_sparse(), torch.full((8,), math.nan), torch.zeros(1).expand(8, 3, 3, 3), whole.permute(0, 2, 3, 1),
    ]  # fmt: skip


def archives(folder: Path, count: int, seed: int) -> Iterator[bytes]:
    yield from mutants([(folder / "sound.pt").read_bytes()], count, seed)


def pickles(folder: Path, count: int, seed: int) -> Iterator[bytes]:
    """Archives whose checksums are right and whose pickle is not."""
    for data in mutants([record(folder / "sound.pt", "data.pkl")], count, seed):
        path = folder / "changed.pt"
        path.write_bytes((folder / "sound.pt").read_bytes())
        with_record(path, "data.pkl", data)
        yield path.read_bytes()


def old_files(folder: Path, count: int, seed: int) -> Iterator[bytes]:
    """In the form before archives, which has no checksums."""
    file = io.BytesIO()
    torch.save(read(folder / "sound.pt"), file, _use_new_zipfile_serialization=False)
    yield from mutants([file.getvalue()], count, seed)


def contents(folder: Path, count: int, seed: int) -> Iterator[bytes]:
    """Sound files of nonsense."""
    draw, sound = random.Random(seed), read(folder / "sound.pt")
    for _ in range(count):
        file = io.BytesIO()
        torch.save(changed(draw, sound, VALUES + tensors()), file)
        yield file.getvalue()


def safetensors(folder: Path, count: int, seed: int) -> Iterator[bytes]:
    yield from mutants([(folder / "sound.safetensors").read_bytes()], count, seed)


def notes(folder: Path, count: int, seed: int) -> Iterator[bytes]:
    """A .safetensors file whose notes are other text; its checksum is left out."""
    from safetensors import safe_open
    from safetensors.torch import save as to_bytes

    with safe_open(folder / "sound.safetensors", "pt") as file:
        text, weights = file.metadata()["yolov9k"], {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for data in text_mutants([text], count, seed):
        yield to_bytes(weights, {"yolov9k": data.decode("utf-8", "replace")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model = tiny_model(folder)
    save(folder / "sound.pt", model, ema=model.state_dict(), epoch=3, note={"a": [1, None, "b"]})
    save(folder / "sound.safetensors", model)
    yolov9k.load(folder / "sound.pt")  # what the first call imports is not counted below
    return folder


def examine(call: Callable[[Path], Any], path: Path) -> bool:
    """Whether a file is taken; asserts what holds of all."""
    with within_time():
        try:
            call(path)
        except UserError as error:
            message = str(error).replace(str(path), "")
            assert len(message) < LONGEST, message[:2000]
            assert "\n" not in message
            return False
    return True


@pytest.mark.parametrize(("count", "seed"), [(100, 0), pytest.param(10, 1, marks=pytest.mark.twin)])
@pytest.mark.parametrize("kind", [archives, pickles, old_files, contents, safetensors, notes])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_checkpoints_are_read_or_refused(
    folder: Path, kind: Callable[[Path, int, int], Iterator[bytes]], count: int, seed: int
) -> None:
    path = folder / ("damaged.safetensors" if kind in (safetensors, notes) else "damaged.pt")
    model, before = tiny_model(folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = 0
    for data in kind(folder, examples(count), seed):
        path.write_bytes(data)
        taken += examine(yolov9k.load, path)
        examine(lambda file: load_weights(model, file), path)
    assert taken < examples(count)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY


SOUND = {"nc": 3, "depth_multiple": 1.0, "width_multiple": 0.5, "activation": "nn.ReLU()", "backbone": BACKBONE,
         "head": [*NECK, [[3, 9, 6], 1, "DDetect", ["nc"]]]}  # fmt: skip


def yaml_texts(count: int, seed: int) -> Iterator[bytes]:
    yield from text_mutants([yaml.safe_dump(SOUND), TINY], count, seed)


def yaml_contents(count: int, seed: int) -> Iterator[bytes]:
    """YAML as it should be, of nonsense."""
    draw = random.Random(seed)
    values = [value for value in VALUES if not isinstance(value, tuple)]
    for _ in range(count):
        yield yaml.safe_dump(changed(draw, SOUND, values)).encode()


@pytest.mark.parametrize(("count", "seed"), [(250, 0), pytest.param(10, 1, marks=pytest.mark.twin)])
@pytest.mark.parametrize("kind", [yaml_texts, yaml_contents])
def test_damaged_model_files_are_read_or_refused(
    folder: Path, kind: Callable[[int, int], Iterator[bytes]], count: int, seed: int
) -> None:
    path, before, taken = folder / "damaged.yaml", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for data in kind(examples(count), seed):
        path.write_bytes(data)
        taken += examine(yolov9k.create_model, path)
    assert taken < examples(count)
    assert taken > 0 or count < 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
