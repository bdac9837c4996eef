"""The build as a user meets it: what the wheel and the sdist hold, what is said when a compiler fails or is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
FOLDERS = ("csrc", "kernels", "yolov9k")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources, links kept, without anything built."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    leave = shutil.ignore_patterns("__pycache__", "*.so")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=leave)
    return folder


def python(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in `folder`; the compiler settings of the caller do not leak in."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("YOLOV9K_CUDA", "CXX"))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=300)


def build_wheel(folder: Path, **environment: str) -> zipfile.ZipFile:
    command = ["-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist"]
    done = python(folder, *command, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(wheel)


def probe(wheel: zipfile.ZipFile, folder: Path, expression: str) -> str:
    """What an expression of the wheel's compiled module prints, in a fresh Python that has not loaded torch."""
    wheel.extractall(folder)
    code = f"""
import sys, importlib.machinery, importlib.util
path = sys.argv[1]
loader = importlib.machinery.ExtensionFileLoader("yolov9k._native", path)
native = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(native)
assert "torch" not in sys.modules
print({expression})
"""
    (module,) = (folder / "yolov9k").glob("_native*.so")
    done = python(folder, "-c", code, str(module))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_wheel_without_cuda(checkout: Path, tmp_path: Path) -> None:
    wheel = build_wheel(checkout, YOLOV9K_CUDA="0")
    names = wheel.namelist()
    roots = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert roots == {"yolov9k"}  # a top-level `kernels` belongs to another project
    assert "yolov9k/py.typed" in names
    assert "yolov9k/_native.pyi" in names
    assert "yolov9k/kernels/__init__.py" in names
    presets = [str(path.relative_to(ROOT)) for path in (ROOT / "yolov9k").rglob("*.yaml")]
    assert set(presets) <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (metadata,) = (wheel.read(name).decode() for name in names if name.endswith("METADATA"))
    assert "Requires-Dist: torch<2.14,>=2.11" in metadata
    assert probe(wheel, tmp_path / "unpacked", "native.build_info()['cuda'], native.build_info()['archs']") == "None []"


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc on PATH")
def test_wheel_with_cuda(checkout: Path, tmp_path: Path) -> None:
    wheel = build_wheel(checkout, YOLOV9K_CUDA="1", YOLOV9K_CUDA_ARCHS="80")
    expression = "native.build_info()['archs'], native.pairwise_iou_cuda(0, 1, 0, 1, 0, 0)"
    assert probe(wheel, tmp_path / "unpacked", expression) == "['80', '80+ptx'] (1, 'the address of the boxes is null')"


def test_sdist_holds_every_source(checkout: Path) -> None:
    code = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    done = python(checkout, "-c", code)
    assert done.returncode == 0, done.stderr
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {member.name.split("/", 1)[-1] for member in opened.getmembers()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").iterdir()}
    assert sources | {"setup.py", "yolov9k/kernels/__init__.py", "LICENSE"} <= names


def test_a_compile_error_shows_the_compiler_and_a_remedy(checkout: Path) -> None:
    with (checkout / "csrc" / "box.cpp").open("a") as source:
        source.write("#error this line is wrong\n")
    done = python(checkout, "setup.py", "build_ext", YOLOV9K_CUDA="0")
    assert done.returncode
    assert "#error this line is wrong" in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith("error: csrc/ did not compile")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CXX": "no-such-compiler", "YOLOV9K_CUDA": "0"}, "error: no C++ compiler: no-such-compiler is not on PATH"),
        ({"CUDA_HOME": "/no/such/folder", "YOLOV9K_CUDA": "1"}, "error: YOLOV9K_CUDA=1 but no working nvcc"),
        ({"YOLOV9K_CUDA": "maybe"}, "error: YOLOV9K_CUDA is 'maybe'; it must be 0, 1 or auto"),
    ],
)
def test_missing_compilers_are_named(checkout: Path, environment: dict[str, str], message: str) -> None:
    done = python(checkout, "setup.py", "build_ext", **environment)
    assert done.returncode
    assert done.stderr.strip().splitlines()[-1].startswith(message)


def test_objects_are_rebuilt_only_when_a_header_changed(checkout: Path) -> None:
    def build() -> str:
        done = python(checkout, "setup.py", "build_ext", YOLOV9K_CUDA="0")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "box.cpp" in build()
    assert "box.cpp" not in build()
    with (checkout / "csrc" / "box.cuh").open("a") as header:
        header.write("// changed\n")
    rebuilt = build()
    assert "box.cpp" in rebuilt
    assert "bindings.cpp" not in rebuilt


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """setup.py as a module; nothing is built by that."""
    spec = importlib.util.spec_from_file_location("yolov9k_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KNOWN = ["75", "80", "90", "100"]


@pytest.mark.parametrize(
    ("asked", "present", "chosen"),
    [
        ("", "", ["75", "80", "90", "100"]),
        ("", "9.0\n9.0\n8.0\n", ["80", "90"]),
        ("", "12.0\n", ["100"]),
        ("9.0a, 80;80", "7.5\n", ["80", "90a"]),
        ("100 75", "", ["75", "100"]),
    ],
)
def test_architectures(recipe: ModuleType, asked: str, present: str, chosen: list[str]) -> None:
    assert recipe.choose_archs(asked, present, KNOWN) == chosen


def test_an_architecture_that_nvcc_does_not_know_is_refused(recipe: ModuleType) -> None:
    from setuptools.errors import PlatformError

    with pytest.raises(PlatformError, match="YOLOV9K_CUDA_ARCHS names 70; this nvcc compiles for 75 80 90 100"):
        recipe.choose_archs("70 80", "", KNOWN)


@pytest.mark.skipif(not shutil.which("make"), reason="no make on PATH")
def test_make_help_lists_the_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    named = {line.split()[1] for line in done.stdout.splitlines() if line.strip().startswith("make ")}
    assert {"demo", "test", "lint", "bench", "native", "clean", "help"} <= named
