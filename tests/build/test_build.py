"""The build as a user meets it: what the wheel and the sdist hold, which nvcc is taken, what is said when something fails."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from setuptools.errors import PlatformError

import build_backend
from build_backend import COMPILER, compiler_requirements, driver_present, find_nvcc

pytestmark = pytest.mark.toolchain

ROOT = Path(__file__).resolve().parents[2]
FILES = ("setup.py", "build_backend.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
FOLDERS = ("csrc", "kernels", "yolov9k")
PYPI_NVCC = "nvidia/cu13/bin/nvcc"
PIP_INSTALL = "pip install " + shlex.join(COMPILER)
installed_from_pypi = any(Path(folder, PYPI_NVCC).exists() for folder in sys.path)
needs_nvcc = pytest.mark.skipif(not find_nvcc(), reason="no nvcc in CUDA_HOME, PATH or from PyPI")


def copy_sources(folder: Path) -> Path:
    """A copy of the sources, links kept, without anything built."""
    folder.mkdir()
    leave = shutil.ignore_patterns("__pycache__", "*.so")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=leave)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_sources(tmp_path / "checkout")


@pytest.fixture
def small_checkout(checkout: Path) -> Path:
    """A checkout whose csrc/ compiles in no time: two C++ files, one of which has a header, and a kernel."""
    shutil.rmtree(checkout / "csrc")
    (checkout / "csrc").mkdir()
    sources = {
        "one.h": "int one();\n",
        "one.cpp": '#include "one.h"\nint one() { return 1; }\n',
        "two.cpp": "int two() { return 2; }\n",
        "three.cu": "__global__ void three(float* out) { *out = 3; }\n",
    }
    for name, text in sources.items():
        (checkout / "csrc" / name).write_text(text)
    return checkout


def python(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in `folder`; the compiler settings of the caller do not leak in."""
    settings = ("YOLOV9K_CUDA", "CXX", "CUDA_HOME", "MAX_JOBS")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(settings)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=300)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def program(path: Path, script: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def path_without_nvcc(folder: Path) -> str:
    """A PATH with nothing but the C++ compiler."""
    folder.mkdir()
    for name in ("g++", "as", "ld"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return str(folder)


def build_wheel(folder: Path, **environment: str) -> Path:
    """Build a wheel without isolation, with a torch in the way that cannot be imported, and unpack it."""
    (folder / "poison").mkdir()
    (folder / "poison" / "torch.py").write_text("raise SystemExit('the build imports torch')\n")
    search = os.pathsep.join([str(folder / "poison"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = ["-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist"]
    done = python(folder, *command, PYTHONPATH=search, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder / "unpacked")
    return folder / "unpacked"


def compiled_module(unpacked: Path) -> str:
    (module,) = (unpacked / "yolov9k").glob("_native*.so")
    return str(module)


def build_info(unpacked: Path) -> str:
    """What the wheel's compiled module says of itself, in a fresh Python that has not loaded torch."""
    code = """
import sys, importlib.machinery, importlib.util
loader = importlib.machinery.ExtensionFileLoader("yolov9k._native", sys.argv[1])
native = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(native)
assert "torch" not in sys.modules
print(native.build_info()["cuda"] is not None, *native.build_info()["archs"])
"""
    done = python(unpacked, "-c", code, compiled_module(unpacked))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of a build without CUDA."""
    return build_wheel(copy_sources(tmp_path_factory.mktemp("wheel") / "checkout"), YOLOV9K_CUDA="0")


def test_wheel_holds_the_package_alone_and_all_of_it(wheel: Path) -> None:
    names = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    roots = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert roots == {"yolov9k"}  # a top-level `kernels` belongs to another project
    assert {"yolov9k/py.typed", "yolov9k/_native.pyi", "yolov9k/kernels/__init__.py"} <= names
    presets = {str(path.relative_to(ROOT)) for path in (ROOT / "yolov9k").rglob("*.yaml")}
    assert presets
    assert presets <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    assert "Requires-Dist: torch>=2.11" in metadata.read_text()


def test_without_cuda_the_cpp_part_is_built_and_info_says_what_is_missing(wheel: Path) -> None:
    assert build_info(wheel) == "False"
    done = python(wheel, "-m", "yolov9k.cli", "info", PYTHONPATH=str(wheel))
    assert done.returncode == 0, done.stderr
    (cpu,) = (line for line in done.stdout.splitlines() if line.startswith("native code, cpu: "))
    (cuda,) = (line for line in done.stdout.splitlines() if line.startswith("native code, cuda: "))
    assert cpu.startswith("native code, cpu: built with ")
    assert "built without CUDA" in cuda
    assert all(word in cuda for word in ("nvcc", "PATH", "CUDA_HOME", "pip install -e ."))


@needs_nvcc
def test_wheel_with_cuda_links_the_runtime_statically(checkout: Path) -> None:
    unpacked = build_wheel(checkout, YOLOV9K_CUDA="1", YOLOV9K_CUDA_ARCHS="80")
    assert build_info(unpacked) == "True 80 80+ptx"
    libraries = subprocess.run(["ldd", compiled_module(unpacked)], capture_output=True, text=True, check=True).stdout
    assert "libstdc++" in libraries
    assert "libcud" not in libraries


@pytest.mark.skipif(not installed_from_pypi, reason=f"the compiler is not installed: {PIP_INSTALL}")
def test_the_compiler_from_pypi_compiles_and_links(small_checkout: Path, tmp_path: Path) -> None:
    environment = {"PATH": path_without_nvcc(tmp_path / "bin"), "YOLOV9K_CUDA": "pip", "YOLOV9K_CUDA_ARCHS": "90"}
    done = python(small_checkout, "setup.py", "build_ext", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert PYPI_NVCC in done.stdout
    assert list((small_checkout / "build").rglob("_native*.so"))


def test_sdist_holds_every_source(checkout: Path) -> None:
    done = python(checkout, "-c", "import build_backend; build_backend.build_sdist('dist')")
    assert done.returncode == 0, done.stderr
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {member.name.split("/", 1)[-1] for member in opened.getmembers()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").iterdir()}
    assert sources | {"setup.py", "build_backend.py", "yolov9k/kernels/__init__.py", "LICENSE"} <= names


def test_sdist_can_be_tested(tmp_path: Path) -> None:
    """Whoever packages it runs the tests in the unpacked archive: it holds them, with all that they read."""
    leave = shutil.ignore_patterns(".git", ".venv", "build", "_build", "runs", "__pycache__", ".*cache", ".hypothesis", "*.so")
    whole = shutil.copytree(ROOT, tmp_path / "whole", symlinks=True, ignore=leave)
    done = python(whole, "-c", "import build_backend; build_backend.build_sdist('dist')")
    assert done.returncode == 0, done.stderr
    (archive,) = (whole / "dist").glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    (unpacked,) = tmp_path.glob("yolov9k-*")
    names = {str(path.relative_to(whole)) for path in whole.rglob("*.py") if "egg-info" not in str(path)}
    assert not {name for name in names if not (unpacked / name).exists()}
    assert (unpacked / ".ci/run").exists()
    files = ("tests/test_layers.py", "tests/test_layout.py", "tests/ops/test_registry.py", "tests/common/test_text.py")
    ran = python(unpacked, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, PYTHONPATH=str(unpacked))
    assert ran.returncode == 0, ran.stdout[-2000:]


@pytest.mark.parametrize(("name", "cuda"), [("one.cpp", "0"), pytest.param("three.cu", "1", marks=needs_nvcc)])
def test_a_compile_error_shows_the_compiler_and_a_remedy(small_checkout: Path, name: str, cuda: str) -> None:
    with (small_checkout / "csrc" / name).open("a") as source:
        source.write("#error this line is wrong\n")
    done = python(small_checkout, "setup.py", "build_ext", YOLOV9K_CUDA=cuda, YOLOV9K_CUDA_ARCHS="80")
    assert done.returncode
    assert any(name in line and "error" in line for line in done.stdout.splitlines())
    assert "this line is wrong" in done.stdout
    assert last_line(done.stderr).startswith("error: csrc/ did not compile")
    assert ("YOLOV9K_CUDA=0 builds without CUDA" in last_line(done.stderr)) == (cuda == "1")


def test_objects_are_rebuilt_only_when_a_header_changed(small_checkout: Path) -> None:
    def build() -> str:
        done = python(small_checkout, "setup.py", "build_ext", YOLOV9K_CUDA="0")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first = build()
    assert "one.cpp" in first
    assert "two.cpp" in first
    assert "one.cpp" not in build()
    with (small_checkout / "csrc" / "one.h").open("a") as header:
        header.write("// changed\n")
    rebuilt = build()
    assert "one.cpp" in rebuilt
    assert "two.cpp" not in rebuilt


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CXX": "no-such-compiler", "YOLOV9K_CUDA": "0"}, "error: no C++ compiler: no-such-compiler is not on PATH"),
        ({"YOLOV9K_CUDA": "maybe"}, "error: YOLOV9K_CUDA is 'maybe'; it must be 0, 1, auto or pip"),
    ],
)
def test_a_missing_compiler_or_a_wrong_setting_is_one_line(checkout: Path, environment: dict[str, str], message: str) -> None:
    done = python(checkout, "setup.py", "build_ext", **environment)
    assert done.returncode
    assert last_line(done.stderr).startswith(message)


@pytest.mark.skipif(installed_from_pypi, reason="the compiler is installed from PyPI")
@pytest.mark.parametrize(("switch", "remedy"), [("1", "YOLOV9K_CUDA=pip takes it from PyPI"), ("pip", PIP_INSTALL)])
def test_where_cuda_is_insisted_on_one_line_says_how_to_get_nvcc(
    checkout: Path, tmp_path: Path, switch: str, remedy: str
) -> None:
    environment = {"PATH": path_without_nvcc(tmp_path / "bin"), "CUDA_HOME": "/no/such/folder", "YOLOV9K_CUDA": switch}
    done = python(checkout, "setup.py", "build_ext", **environment)
    assert done.returncode
    assert last_line(done.stderr).startswith(f"error: YOLOV9K_CUDA={switch}, but no nvcc in CUDA_HOME, in PATH or from PyPI")
    assert last_line(done.stderr).endswith(f"set CUDA_HOME to a CUDA toolkit, or: {remedy}")


def test_an_nvcc_that_does_not_run_is_named_and_left(small_checkout: Path, tmp_path: Path) -> None:
    nvcc = program(tmp_path / "toolkit/bin/nvcc", "exit 1")
    done = python(small_checkout, "setup.py", "build_ext", CUDA_HOME=str(tmp_path / "toolkit"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"CUDA is left out: {nvcc} does not run; set CUDA_HOME" in done.stdout
    assert "three.cu" not in done.stdout


def test_tools_missing_in_a_build_without_isolation_are_named(checkout: Path) -> None:
    code = """
import runpy, sys
sys.modules["ninja"] = None  # as if it were not installed
sys.argv[1:] = ["build_ext"]
runpy.run_path("setup.py", None, "__main__")
"""
    done = python(checkout, "-c", code, YOLOV9K_CUDA="0")
    assert last_line(done.stderr).endswith("needs what is missing here: pip install ninja")
    done = python(checkout, "-c", "import setuptools; setuptools.__version__ = '65.5.0'; import build_backend")
    assert last_line(done.stderr).endswith(
        "setuptools 65.5.0 is too old for a build without isolation: pip install -U setuptools"
    )


@pytest.mark.twin
def test_cuda_sources_know_neither_cub_nor_thrust_nor_pybind11() -> None:
    sources = [path for path in (ROOT / "csrc").iterdir() if path.suffix in (".cu", ".cuh", ".h") and path.stem != "bindings"]
    assert {".cu", ".cuh"} <= {path.suffix for path in sources}
    for path in sources:
        assert not [word for word in ("cub/", "thrust/", "pybind11", "bindings.h") if word in path.read_text()], path.name


# ---- which nvcc, and which requirements


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without nvcc and driver: PATH is `path`, the one place of Python packages is `site`."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    for name in ("CUDA_HOME", "YOLOV9K_CUDA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.setattr(build_backend, "DRIVER", tmp_path / "driver")
    return tmp_path


def test_nvcc_is_that_of_cuda_home_then_of_path_then_of_pypi(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_nvcc() is None
    pypi = program(machine / "site" / PYPI_NVCC, "")
    assert find_nvcc() == str(pypi)
    on_path = program(machine / "path/nvcc", "")
    assert find_nvcc() == str(on_path)
    monkeypatch.setenv("CUDA_HOME", str(machine / "toolkit"))
    assert find_nvcc() == str(on_path)
    at_home = program(machine / "toolkit/bin/nvcc", "")
    assert find_nvcc() == str(at_home)
    at_home.chmod(0o644)  # what cannot be run is no compiler
    assert find_nvcc() == str(on_path)


def test_a_driver_is_a_kernel_module_or_an_nvidia_smi_that_works(machine: Path) -> None:
    assert not driver_present()
    smi = program(machine / "path/nvidia-smi", "echo failed to communicate; exit 9")
    assert not driver_present()
    program(smi, "echo 'GPU 0: some GPU'")
    assert driver_present()
    smi.unlink()
    (machine / "driver").write_text("NVRM version")
    assert driver_present()


@pytest.mark.parametrize(
    ("switch", "driver", "nvcc", "asked"),
    [
        ("pip", False, False, True),
        ("pip", True, False, True),
        ("pip", True, True, False),
        ("auto", True, False, True),
        ("auto", True, True, False),
        ("auto", False, False, False),
        ("1", True, False, True),
        ("1", False, False, False),
        ("0", True, False, False),
    ],
)
def test_pypi_is_asked_for_the_compiler_only_where_it_is_wanted_and_missing(
    machine: Path, monkeypatch: pytest.MonkeyPatch, switch: str, driver: bool, nvcc: bool, asked: bool
) -> None:
    monkeypatch.setenv("YOLOV9K_CUDA", switch)
    if driver:
        (machine / "driver").write_text("NVRM version")
    if nvcc:
        program(machine / "path/nvcc", "")
    assert compiler_requirements() == (list(COMPILER) if asked else [])


@pytest.mark.skipif(installed_from_pypi, reason="the compiler is installed from PyPI")
def test_the_hooks_hand_the_requirements_to_pip(checkout: Path, tmp_path: Path) -> None:
    code = """
import build_backend
for kind in ("wheel", "editable", "sdist"):
    print("asked", kind, *getattr(build_backend, f"get_requires_for_build_{kind}")())
"""
    done = python(checkout, "-c", code, YOLOV9K_CUDA="pip", PATH=path_without_nvcc(tmp_path / "bin"))
    assert done.returncode == 0, done.stderr
    words = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("asked ")]
    asked = {kind: requirements for kind, *requirements in words}
    assert set(COMPILER) <= set(asked["wheel"])
    assert set(COMPILER) <= set(asked["editable"])
    assert not set(COMPILER) & set(asked["sdist"])


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """setup.py as a module; nothing is built by that."""
    spec = importlib.util.spec_from_file_location("yolov9k_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_linker_is_told_where_pypi_keeps_the_static_runtime(recipe: ModuleType, tmp_path: Path) -> None:
    nvcc = program(tmp_path / PYPI_NVCC, "")
    assert recipe.library(str(nvcc)) == ""
    library = tmp_path / "nvidia/cu13/lib"
    library.mkdir()
    (library / "libcudart_static.a").touch()
    assert recipe.library(str(nvcc)) == f"-L{library}"


def test_missing_python_headers_are_named(recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(PlatformError, match=r"no Python.h in .*: apt-get install python3-dev"):
        recipe.find_cxx()


KNOWN = ["75", "80", "90", "100"]


@pytest.mark.twin
@pytest.mark.parametrize(
    ("asked", "present", "chosen"),
    [
        ("", "", ["75", "80", "90", "100"]),
        ("", "9.0\n9.0\n8.0\n", ["80", "90"]),
        ("", "12.0\n", ["100"]),
        ("", "8.9\n", ["80"]),
        ("", "7.0\n", ["75", "80", "90", "100"]),
        ("9.0a, 80;80", "7.5\n", ["80", "90a"]),
        ("100 75", "", ["75", "100"]),
    ],
)
def test_architectures(recipe: ModuleType, asked: str, present: str, chosen: list[str]) -> None:
    assert recipe.choose_archs(asked, present, KNOWN) == chosen


def test_an_architecture_that_nvcc_does_not_know_is_refused(recipe: ModuleType) -> None:
    with pytest.raises(PlatformError, match="YOLOV9K_CUDA_ARCHS names 70; this nvcc compiles for 75 80 90 100"):
        recipe.choose_archs("70 80", "", KNOWN)


@pytest.mark.skipif(not shutil.which("make"), reason="no make on PATH")
def test_make_help_lists_the_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    named = {line.split()[1] for line in done.stdout.splitlines() if line.strip().startswith("make ")}
    assert {"demo", "test", "lint", "bench", "native", "clean", "help"} <= named


@pytest.mark.twin
@pytest.mark.parametrize(
    ("cxx", "platform", "has", "lacks"),
    [
        ("g++", "linux", ["-ffp-contract=off", "-fno-trapping-math", "-shared"], ["-undefined", "/O2"]),
        ("/usr/bin/g++-12", "linux", ["-fno-trapping-math"], []),
        ("clang++", "darwin", ["-ffp-contract=off", "-bundle -undefined dynamic_lookup"], ["-fno-trapping-math", "-shared"]),
        ("cl", "win32", ["/std:c++17", "/fp:precise", "/EHsc", "/DLL", "/DYK_VERSION="], ["-O3", "-std=c++17", "-fPIC"]),
        ("ccache clang++", "linux", ["-O3"], []),
    ],
)
def test_every_compiler_gets_its_own_flags(
    recipe: ModuleType, cxx: str, platform: str, has: list[str], lacks: list[str]
) -> None:
    """Those of clang on macOS and of Microsoft's compiler have not been tried; that they are asked for has."""
    rules = recipe.commands("1.0", cxx, None, platform)
    text = " ".join(rules.values())
    assert [flag for flag in has if flag not in text] == []
    assert [flag for flag in lacks if flag in text.split()] == []
    ninja = recipe.ninja_text([Path("/a/one.cpp")], Path("/b/out"), rules)
    assert ("deps = msvc" in ninja) == (cxx == "cl")
    assert ("/Fo$out" in ninja) == (cxx == "cl")
    assert ("depfile" in ninja) == (cxx != "cl")
