"""Builds csrc/ into the torch-free module yolov9k._native with ninja: C++ always, CUDA where an nvcc is found.

An nvcc is looked for in CUDA_HOME, in PATH, then in the packages that PyPI has of it. On a machine with an NVIDIA driver
and no nvcc, `pip install` fetches those packages (100 MB) for the time of the build; without a network that fails, and
YOLOV9K_CUDA=0 is the remedy. Their CUDA 13.0 wants driver 580 or later, as torch's own build for CUDA 13.0 does.

Environment:
    CXX                 the C++ compiler, default g++; clang++ on macOS and cl on Windows, neither of which has been tried
    CUDA_HOME           the folder of a CUDA toolkit, such as /usr/local/cuda
    YOLOV9K_CUDA        auto (default) builds CUDA where an nvcc is found, 0 leaves it out, 1 fails where there is none,
                        pip fetches the compiler from PyPI where there is none, with or without a driver
    YOLOV9K_CUDA_ARCHS  such as "80 90a", default the GPUs present, else ARCHS below
    MAX_JOBS            parallel compiles, default as many as ninja likes
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError

from build_backend import COMPILER, find_nvcc, output_of

ARCHS = ("75", "80", "86", "89", "90", "100", "120")
CSRC = Path("csrc")


class Cuda(NamedTuple):
    """An nvcc, its version such as "13.0", and the architectures to compile for; the last one is shipped as PTX too."""

    nvcc: str
    version: str
    archs: list[str]


def choose_archs(asked: str, present: str, known: list[str]) -> list[str]:
    """Architectures to compile for, oldest first.

    `asked` is YOLOV9K_CUDA_ARCHS, `present` what nvidia-smi lists as the compute capabilities of the GPUs here, `known`
    what nvcc can compile. A GPU that nvcc does not know is served by the newest known architecture before it.
    """
    wanted = asked.replace(".", "").replace(",", " ").replace(";", " ").split()
    unknown = [arch for arch in wanted if arch.rstrip("af") not in known]
    if unknown:
        raise PlatformError(f"YOLOV9K_CUDA_ARCHS names {' '.join(unknown)}; this nvcc compiles for {' '.join(known)}")
    by_age = sorted(known, key=int)
    served = [[arch for arch in by_age if int(arch) <= int(gpu)] for gpu in re.findall(r"\d+", present.replace(".", ""))]
    here = [archs[-1] for archs in served if archs]
    chosen = wanted or here or [arch for arch in ARCHS if arch in known] or by_age[-1:]
    return sorted(set(chosen), key=lambda arch: int(arch.rstrip("af")))


def find_cuda() -> Cuda | None:
    """The CUDA compiler to build with, or None: the C++ part is then built alone."""
    switch = os.environ.get("YOLOV9K_CUDA", "auto")
    if switch not in ("0", "1", "auto", "pip"):
        raise PlatformError(f"YOLOV9K_CUDA is {switch!r}; it must be 0, 1, auto or pip")
    if sys.platform == "win32" and switch == "auto":
        switch = "0"  # nvcc with cl as its host compiler has not been tried
    nvcc = None if switch == "0" else find_nvcc()
    known = re.findall(r"compute_(\d+)", output_of(nvcc, "--list-gpu-arch")) if nvcc else []
    if nvcc and known:
        version = re.search(r"release (\d+\.\d+)", output_of(nvcc, "--version"))
        gpus = output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
        archs = choose_archs(os.environ.get("YOLOV9K_CUDA_ARCHS", ""), gpus, known)
        return Cuda(nvcc, version[1] if version else "unknown", archs)
    if switch in ("1", "pip"):
        raise PlatformError(f"YOLOV9K_CUDA={switch}, but {lacking(nvcc, switch)}")
    print("yolov9k: CUDA is left out:", "YOLOV9K_CUDA=0" if switch == "0" else lacking(nvcc, switch), flush=True)
    return None


def lacking(nvcc: str | None, switch: str) -> str:
    """Why there is no CUDA compiler, and the remedy. YOLOV9K_CUDA=pip gets here in a build without isolation alone."""
    if nvcc:
        return f"{nvcc} does not run; set CUDA_HOME to a CUDA toolkit whose nvcc does"
    remedy = f"pip install {shlex.join(COMPILER)}" if switch == "pip" else "YOLOV9K_CUDA=pip takes it from PyPI"
    return f"no nvcc in CUDA_HOME, in PATH or from PyPI; set CUDA_HOME to a CUDA toolkit, or: {remedy}"


def find_cxx(platform: str = sys.platform) -> str:
    """The C++ compiler command; raises where it, Python's headers or the build's own tools are missing."""
    cxx = os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(platform, "g++"))
    if not shutil.which(shlex.split(cxx)[0]):
        remedy = {
            "darwin": "xcode-select --install",
            "win32": "open a developer prompt of Visual Studio's build tools",
        }.get(platform, "install g++ (Debian, Ubuntu: apt-get install g++)") + " or set CXX"
        raise PlatformError(f"no C++ compiler: {cxx} is not on PATH; {remedy}")
    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").exists():
        raise PlatformError(f"no Python.h in {headers}; Debian, Ubuntu: apt-get install python3-dev")
    if missing := [name for name in ("ninja", "pybind11") if not importlib.util.find_spec(name)]:
        raise PlatformError(f"a build without isolation needs what is missing here: pip install {' '.join(missing)}")
    return cxx


# Contraction into fused multiply-adds would make the host differ from plain torch on some processors. Nor does the device
# contract (--fmad=false): both round as the reference does. Nobody reads the flags of floating-point exceptions, for the sake
# of which gcc's comparisons would stay branches and loops scalar; clang assumes so by itself, and cl has no such flag.
HOST_FLAGS = {
    "gcc": "-O3 -fPIC -fvisibility=hidden -Wall -Wextra -ffp-contract=off -fno-trapping-math",
    "clang": "-O3 -fPIC -fvisibility=hidden -Wall -Wextra -ffp-contract=off",
    "msvc": "/nologo /O2 /EHsc /fp:precise /W3",
}


def family(cxx: str) -> str:
    """Whose flags a compiler takes: "gcc", "clang" or "msvc", by its name."""
    name = Path(shlex.split(cxx)[0]).name.lower().removesuffix(".exe")
    return "msvc" if name in ("cl", "clang-cl") else "clang" if "clang" in name else "gcc"


def msvc_commands(cxx: str, defines: list[str], headers: list[str]) -> dict[str, str]:
    """The commands of ninja's rules for Microsoft's compiler; untested."""
    options = subprocess.list2cmdline(["/std:c++17", *(f"/D{define}" for define in defines), *(f"/I{h}" for h in headers)])
    libraries = Path(sys.base_prefix, "libs")
    link = subprocess.list2cmdline(["link", "/nologo", "/DLL", f"/LIBPATH:{libraries}"])
    return {"cxx": f"{cxx} {HOST_FLAGS['msvc']} {options}", "link": link}


def commands(version: str, cxx: str, cuda: Cuda | None, platform: str = sys.platform) -> dict[str, str]:
    """The commands of ninja's rules, all but their inputs and outputs."""
    import pybind11

    archs = [*cuda.archs, f"{cuda.archs[-1]}+ptx"] if cuda else []
    defines = [f'YK_VERSION="{version}"', f'YK_ARCHS="{" ".join(archs)}"']
    if cuda:
        defines += ["YK_WITH_CUDA", f'YK_CUDA_VERSION="{cuda.version}"']
    folders = [pybind11.get_include(), sysconfig.get_path("include")]
    if family(cxx) == "msvc":
        return msvc_commands(cxx, defines, folders)
    common = shlex.join(["-std=c++17", "-O3", *(f"-D{define}" for define in defines)])
    headers = shlex.join(f"-isystem{folder}" for folder in folders)
    host = f"{cxx} {common} {HOST_FLAGS[family(cxx)]} {headers}"
    if not cuda:
        shared = "-bundle -undefined dynamic_lookup" if platform == "darwin" else "-shared"
        return {"cxx": host, "link": f"{cxx} {shared}"}
    nvcc = shlex.join([cuda.nvcc, "-ccbin", shlex.split(cxx)[0]])
    codes = [f"-gencode arch=compute_{arch},code=sm_{arch}" for arch in cuda.archs]
    codes.append(f"-gencode arch=compute_{cuda.archs[-1]},code=compute_{cuda.archs[-1]}")
    device = f"{nvcc} {common} --fmad=false -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra {' '.join(codes)}"
    return {"cxx": host, "cuda": device, "link": f"{nvcc} -shared -cudart static {library(cuda.nvcc)}"}


def ninja_text(sources: list[Path], output: Path, rules: dict[str, str]) -> str:
    """A build.ninja that compiles `sources` (absolute paths) beside itself and links them into `output`."""
    lines, msvc = [], "/nologo" in rules["link"]
    for rule, command in rules.items():
        escaped = command.replace("$", "$$")
        if rule == "link":
            target = "$in /OUT:$out" if msvc else "$in -o $out"
            lines.append(f"rule link\n  command = {escaped} {target}\n  description = link $out")
        elif msvc:
            lines.append(f"rule {rule}\n  command = {escaped} /showIncludes /c $in /Fo$out")
            lines.append(f"  deps = msvc\n  description = {rule} $in")
        else:
            lines.append(f"rule {rule}\n  command = {escaped} -MMD -MF $out.d -c $in -o $out")
            lines.append(f"  depfile = $out.d\n  deps = gcc\n  description = {rule} $in")
    kinds = {".cpp": "cxx", ".cu": "cuda"}
    lines += [f"build {source.name}.o: {kinds[source.suffix]} {ninja_path(source)}" for source in sources]
    objects = " ".join(f"{source.name}.o" for source in sources)
    return "\n".join([*lines, f"build {ninja_path(output)}: link {objects}", ""])


def library(nvcc: str) -> str:
    """The linker flag for the static runtime of PyPI's packages: nvcc itself looks in lib64, which they call lib."""
    folder = Path(nvcc).parents[1] / "lib"
    return shlex.quote(f"-L{folder}") if (folder / "libcudart_static.a").exists() else ""


def ninja_path(path: Path) -> str:
    """The path with ninja's own specials escaped."""
    return re.sub(r"([$ :])", r"$\1", str(path))


class NinjaBuild(build_ext):
    """Hands csrc/ to ninja instead of to setuptools, which knows no nvcc, no header dependencies and no second core."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link one extension into the place where setuptools looks for it."""
        cxx, cuda = find_cxx(), find_cuda()
        sources = [Path(name).absolute() for name in ext.sources if cuda or not name.endswith(".cu")]
        output = Path(self.get_ext_fullpath(ext.name)).absolute()
        folder = Path(self.build_temp).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        rules = commands(self.distribution.get_version(), cxx, cuda)
        (folder / "build.ninja").write_text(ninja_text(sources, output, rules), encoding="utf-8")
        with_cuda = f", {cuda.nvcc} (CUDA {cuda.version}) for {' '.join(cuda.archs)}" if cuda else ""
        print(f"yolov9k: compiling with {cxx}{with_cuda}", flush=True)
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if subprocess.run([sys.executable, "-m", "ninja", "-C", str(folder), *jobs]).returncode:
            remedy = "CXX=... chooses another C++17 compiler" + (", YOLOV9K_CUDA=0 builds without CUDA" if cuda else "")
            raise CompileError(f"csrc/ did not compile: the compiler's own message stands above. {remedy}")


if __name__ == "__main__":
    files = sorted(str(path) for suffix in ("cpp", "cu") for path in CSRC.glob(f"*.{suffix}"))
    setup(ext_modules=[Extension("yolov9k._native", files)], cmdclass={"build_ext": NinjaBuild})
