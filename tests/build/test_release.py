"""What is given to others: wheels that need no torch of their own to be built or loaded, and the kernels without the rest."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from release import kernel_package
from release.wheels import TORCH, VERSIONS, ReleaseError, interpreters, make_wheels, missing_tools, repair, torch_symbols

pytestmark = pytest.mark.toolchain

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = str(Path(torch.__file__).parents[1])
OWN = "{}.{}".format(*sys.version_info[:2])


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Standard output of a program that has to succeed; nothing of the caller's paths of Python leaks in."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheels without CUDA, of this Python and of the oldest other one that is found, by version."""
    if missing := missing_tools():
        pytest.skip(f"needs the release extra: {', '.join(missing)}")
    others = [version for version in interpreters() if version != OWN]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLOV9K_CUDA", "0")
        made = make_wheels([OWN, *others[:1]], ROOT, tmp_path_factory.mktemp("wheels"))
    return {f"{tag[2]}.{tag[3:]}": wheel for wheel in made for tag in [wheel.name.split("-")[2]]}


def environment(folder: Path, python: str, wheel: Path) -> Path:
    """The Python of an empty environment in which a wheel is installed, without anything that it asks for."""
    run(python, "-m", "venv", folder, cwd=folder.parent)
    run(folder / "bin/python", "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=folder.parent)
    return folder / "bin/python"


def test_a_wheel_says_which_systems_it_runs_on_and_needs_nothing_of_torch(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        assert "manylinux" in wheel.name
        assert repair(wheel, wheel.parent) == wheel  # a second time, over the first
        assert torch_symbols(wheel) == []
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        assert not [name for name in names if ".libs/" in name]  # no library had to be brought along
        assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"yolov9k"}


NATIVE = """
import sys
from yolov9k import _native
assert not [name for name in sys.modules if name.split(".")[0] in ("torch", "numpy")]
print(_native.build_info()["version"], _native.__file__)
"""


def test_the_native_module_of_every_wheel_loads_without_torch(wheels: dict[str, Path], tmp_path: Path) -> None:
    for version, wheel in wheels.items():
        python = environment(tmp_path / version, interpreters()[version], wheel)
        said = run(python, "-I", "-c", NATIVE, cwd=tmp_path)
        assert str(tmp_path / version) in said


PREDICT = """
import torch, yolov9k
from yolov9k.models.checkpoints import save
assert yolov9k.__file__.startswith({folder!r}), yolov9k.__file__
boxes = torch.tensor([[5.0, 5, 9, 9, 0.9], [5, 5, 9, 8, 0.8], [25, 25, 9, 9, 0.7]]).T[None]
assert yolov9k.ops.batched_nms(boxes, 0.1, 0.5, backend="cpu").counts.tolist() == [2]
save("tiny.pt", yolov9k.create_model("gelan-t", 3))
"""


def test_the_wheel_runs_in_an_empty_environment(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Outside of the checkout, beside the packages that it asks for, which come from the tests' own environment."""
    python = environment(tmp_path / "venv", sys.executable, wheels[OWN])
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(PACKAGES)  # a path alone: no editable install is found by it
    run(python, "-c", PREDICT.format(folder=str(site)), cwd=tmp_path)
    program = tmp_path / "venv/bin/yolov9k"
    assert "native code, cpu: built with" in run(program, "info", cwd=tmp_path)
    shutil.copy(next((ROOT / "docs/images").glob("*.jpg")), tmp_path / "image.jpg")
    run(program, "predict", "--weights", "tiny.pt", "--source", "image.jpg", "--img", 64, "--device", "cpu", cwd=tmp_path)
    assert list((tmp_path / "runs").rglob("image.*"))


def test_a_module_that_needs_torch_is_seen() -> None:
    for name in (
        "_ZN3c106detail14torchCheckFailE",
        "_ZNK2at6Tensor4itemEv",
        "_ZN5torch3jit6ScriptE",
        "libtorch_cpu.so",
        "THPVariable",
    ):
        assert TORCH.search(name), name
    for name in (
        "_ZNSt6vectorIfloat4E",
        "_ZN8pybind116detail13get_internals",
        "libstdc++.so.6",
        "pthread_create",
        "_Z12at3dimension",
    ):
        assert not TORCH.search(name), name


def test_a_build_that_fails_is_one_line(tmp_path: Path) -> None:
    shutil.copy(ROOT / "build_backend.py", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[")
    with pytest.raises(ReleaseError, match=r"build_backend.* failed: .*TOMLDecodeError") as told:
        make_wheels([OWN], tmp_path, tmp_path / "out")
    assert "\n" not in str(told.value)
    with pytest.raises(ReleaseError, match=r"none of Python 2\.7 is found"):
        make_wheels(["2.7"], ROOT, tmp_path / "out")


def test_this_python_is_found() -> None:
    assert OWN not in VERSIONS or interpreters()[OWN]
    assert set(interpreters()) <= set(VERSIONS)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kernel_package.write(tmp_path_factory.mktemp("package"))


@pytest.mark.twin
def test_the_kernels_package_is_what_its_metadata_says(package: Path) -> None:
    metadata = json.loads((package / "metadata.json").read_text())
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    assert metadata["digest"]["files"].keys() == files.keys()
    for name, digest in metadata["digest"]["files"].items():
        assert base64.b64decode(digest) == hashlib.sha256(files[name].read_bytes()).digest()
    assert metadata["id"].isidentifier()
    assert {"conv_bn_silu.py", "dfl_decode.py", "sgd_ema.py", "__init__.py", "yolov9k_kernels/__init__.py"} <= files.keys()
    assert "license: apache-2.0" in (package.parents[1] / "README.md").read_text()


@pytest.mark.twin
def test_a_kernel_that_cannot_stand_alone_is_refused(tmp_path: Path) -> None:
    for line, found in (
        ("from yolov9k.kernels._aot import typed", ["yolov9k.kernels._aot"]), ("import numpy as np", ["numpy"]),
        ("def f():\n    from yolov9k import ops", ["yolov9k"]), ("import math\nimport torch.nn\nfrom triton import jit", []),
        ("from . import pool\nfrom ._aot import typed", []), ("if TYPE_CHECKING:\n    from yolov9k.ops import x", []),
    ):  # fmt: skip
        assert kernel_package.foreign_imports(line) == found
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/bad.py").write_text("import yolov9k")
    with pytest.raises(SystemExit, match=r"bad\.py imports yolov9k; a kernel imports torch, triton and its neighbors"):
        kernel_package.write(tmp_path / "out", tmp_path / "kernels")


LOAD = """
import importlib.util, sys
def load(name, file):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
first, second = load("_first", "build/torch-universal/__init__.py"), load("_second", "build/torch-universal/__init__.py")
older = load("older", "build/torch-universal/yolov9k_kernels/__init__.py")
import torch
x = torch.randint(0, 9, (2, 8, 6, 6)).float().to(memory_format=torch.channels_last)
assert torch.equal(first.pool.avg_pool(x), torch.nn.functional.avg_pool2d(x, 2, 1))
for package in (first, second, older):
    assert {"conv_bn_silu", "dfl_decode", "pool", "sgd_ema"} <= set(package.__all__)
    for name in package.__all__:
        getattr(package, name)
assert first.pool is not second.pool
assert not [name for name in sys.modules if name.split(".")[0] == "yolov9k"]
"""


def test_the_kernels_load_twice_in_one_process_and_without_the_package(package: Path) -> None:
    pytest.importorskip("triton")
    run(
        sys.executable,
        "-S",
        "-c",
        f"import sys; sys.path.append({PACKAGES!r})\n" + LOAD,
        cwd=package.parents[1],
        TRITON_INTERPRET="1",
    )
