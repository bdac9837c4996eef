"""A wheel for each Python from 3.10 to 3.13 that is found, in dist/, each one checked: `make wheel`.

Built from the source archive with isolation, as pip builds for users. auditwheel tells which Linux systems a wheel runs on and
names it by that; the compiled module must ask for no symbol of torch, so that one wheel serves every torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
# As they stand in mangled C++ names and in names of libraries.
TORCH = re.compile(r"(?<!\d)(?:3c10|2at|6caffe2|5torch)\d|libtorch|libc10|^THP")
ROOT = Path(__file__).resolve().parents[1]


class ReleaseError(Exception):
    """Why there is no wheel, in one line."""


def interpreters(versions: Sequence[str] = VERSIONS) -> dict[str, str]:
    """Pythons of these versions: the one that runs this, those on PATH and those of pyenv; version and program."""
    found = {"{}.{}".format(*sys.version_info[:2]): sys.executable}
    for version in versions:
        on_path = shutil.which(f"python{version}")
        pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
        programs = [*([on_path] if on_path else []), *map(str, pyenv.glob(f"versions/{version}.*/bin/python"))]
        # pyenv has names on PATH of what it does not run
        working = (program for program in programs if _version(program) == version)
        if version not in found and (program := next(working, None)):
            found[version] = program
    return {version: found[version] for version in versions if version in found}


def _version(program: str) -> str:
    code = "import sys; print('{}.{}'.format(*sys.version_info[:2]))"
    done = subprocess.run([program, "-I", "-c", code], capture_output=True, text=True)
    return done.stdout.strip()


def archive(source: Path, folder: Path) -> Path:
    """The source archive of a checkout: what is left in its build folder is in no wheel then."""
    _run([sys.executable, "-c", f"import build_backend; build_backend.build_sdist({str(folder)!r})"], source)
    (made,) = folder.glob("*.tar.gz")
    return made


def build(python: str, source: Path, folder: Path) -> Path:
    """Build a wheel of a source archive in an empty folder. Raises ReleaseError with the last line of what pip says."""
    _run([python, "-m", "venv", str(folder / "venv")])
    pip = [str(folder / "venv/bin/python"), "-m", "pip", "wheel"]
    _run([*pip, str(source), "--no-deps", "--no-cache-dir", "--wheel-dir", str(folder)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def repair(wheel: Path, folder: Path) -> Path:
    """Name a wheel by the oldest Linux systems it runs on. Raises ReleaseError where auditwheel finds what it may not need."""
    if sys.platform != "linux":
        return Path(shutil.copy(wheel, folder))
    with tempfile.TemporaryDirectory() as named:
        _run([sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", named, str(wheel)])
        (made,) = Path(named).glob("*.whl")
        return Path(shutil.copy(made, folder))  # over one that was built before


def torch_symbols(wheel: Path) -> list[str]:
    """What the compiled modules of a wheel need of torch: libraries and undefined symbols, none if it is sound."""
    from elftools.elf.elffile import ELFFile

    found = []
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        for name in archive.namelist():
            if ".so" in Path(name).suffixes:
                with open(archive.extract(name, folder), "rb") as file:
                    found += [need for need in _needs(ELFFile(file)) if TORCH.search(need)]
    return found


def _needs(module: object) -> Iterator[str]:
    for tag in module.get_section_by_name(".dynamic").iter_tags("DT_NEEDED"):  # type: ignore[attr-defined]
        yield tag.needed
    for symbol in module.get_section_by_name(".dynsym").iter_symbols():  # type: ignore[attr-defined]
        if symbol["st_shndx"] == "SHN_UNDEF":
            yield symbol.name


def _search() -> str:
    """PATH, and before it the programs of this Python's environment: it need not have been activated."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def missing_tools() -> list[str]:
    """What the check of a wheel needs and is not installed here."""
    missing = [name for name in ("auditwheel", "elftools") if not importlib.util.find_spec(name)]
    return missing if shutil.which("patchelf", path=_search()) else [*missing, "patchelf"]


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": _search()}, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ReleaseError(f"{' '.join(command[:5])} ... failed: {lines[-1] if lines else 'without a word'}")


def make_wheels(versions: Sequence[str], source: Path, out: Path) -> list[Path]:
    """Build, check and name the wheels of these versions; the folder `out` gets them. Raises ReleaseError."""
    found = interpreters(versions)
    for version in sorted(set(versions) - found.keys()):
        print(f"wheel: no Python {version} is found, none is built for it")
    out.mkdir(parents=True, exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory() as temporary:
        packed = archive(source, Path(temporary))
        for version, python in found.items():
            folder = Path(temporary) / version
            folder.mkdir()
            wheel = build(python, packed, folder)
            if symbols := torch_symbols(wheel):
                raise ReleaseError(f"{wheel.name} needs torch's {', '.join(symbols[:3])}; csrc/ is to know no torch")
            made.append(repair(wheel, out))
            print(f"wheel: {made[-1]}", flush=True)
    if not made:
        raise ReleaseError(f"none of Python {', '.join(versions)} is found")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m release.wheels", description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=VERSIONS, metavar="VERSION", help="versions, where they are found")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the wheels go")
    arguments = parser.parse_args()
    if missing := missing_tools():
        raise SystemExit(f"error: {', '.join(missing)} missing here: pip install -e '.[dev]'")
    try:
        make_wheels(arguments.python, ROOT, arguments.out)
    except ReleaseError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
