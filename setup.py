"""Builds csrc/ into the torch-free module yolov9k._native with ninja: C++ always, CUDA where an nvcc is found.

Environment:
    CXX                 the C++ compiler, default g++
    CUDA_HOME           where nvcc is looked for, default PATH, then /usr/local/cuda
    YOLOV9K_CUDA        0 leaves CUDA out, 1 insists on it, default auto: where an nvcc is found
    YOLOV9K_CUDA_ARCHS  such as "80 90a", default the GPUs present, else ARCHS below
    MAX_JOBS            parallel compiles, default as many as ninja likes
"""

from __future__ import annotations

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

ARCHS = ("75", "80", "86", "89", "90", "100", "120")
CSRC = Path("csrc")


class Cuda(NamedTuple):
    """An nvcc, its version such as "13.0", and the architectures to compile for; the last one is shipped as PTX too."""

    nvcc: str
    version: str
    archs: list[str]


def output_of(*command: str) -> str:
    """Standard output of a command, or nothing when it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def find_nvcc() -> str | None:
    """The nvcc of CUDA_HOME (nothing else counts when that is set), of PATH, or of /usr/local/cuda."""
    if home := os.environ.get("CUDA_HOME"):
        return shutil.which("nvcc", path=f"{home}/bin")
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def choose_archs(asked: str, present: str, known: list[str]) -> list[str]:
    """Architectures to compile for, oldest first.

    `asked` is YOLOV9K_CUDA_ARCHS, `present` what nvidia-smi lists as the compute capabilities of the GPUs here, `known`
    what nvcc can compile. A GPU newer than nvcc is served by the PTX of the newest known architecture.
    """
    wanted = asked.replace(".", "").replace(",", " ").replace(";", " ").split()
    unknown = [arch for arch in wanted if arch.rstrip("af") not in known]
    if unknown:
        raise PlatformError(f"YOLOV9K_CUDA_ARCHS names {' '.join(unknown)}; this nvcc compiles for {' '.join(known)}")
    by_age = sorted(known, key=int)
    here = {arch if arch in known else by_age[-1] for arch in re.findall(r"\d+", present.replace(".", ""))}
    chosen = wanted or here or [arch for arch in ARCHS if arch in known] or by_age[-1:]
    return sorted(set(chosen), key=lambda arch: int(arch.rstrip("af")))


def find_cuda() -> Cuda | None:
    """The CUDA compiler to build with, or None: the C++ part is then built alone."""
    switch = os.environ.get("YOLOV9K_CUDA", "auto")
    if switch not in ("0", "1", "auto"):
        raise PlatformError(f"YOLOV9K_CUDA is {switch!r}; it must be 0, 1 or auto")
    nvcc = None if switch == "0" else find_nvcc()
    known = re.findall(r"compute_(\d+)", output_of(nvcc, "--list-gpu-arch")) if nvcc else []
    if not known:
        if switch == "1":
            raise PlatformError("YOLOV9K_CUDA=1 but no working nvcc in CUDA_HOME, PATH or /usr/local/cuda")
        return None
    version = re.search(r"release (\d+\.\d+)", output_of(str(nvcc), "--version"))
    gpus = output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    archs = choose_archs(os.environ.get("YOLOV9K_CUDA_ARCHS", ""), gpus, known)
    return Cuda(str(nvcc), version[1] if version else "unknown", archs)


def find_cxx() -> str:
    """The C++ compiler command."""
    cxx = os.environ.get("CXX", "g++")
    if not shutil.which(shlex.split(cxx)[0]):
        remedy = "install g++ (Debian, Ubuntu: apt-get install g++) or set CXX"
        raise PlatformError(f"no C++ compiler: {cxx} is not on PATH; {remedy}")
    return cxx


def ninja_text(sources: list[Path], output: Path, version: str, cxx: str, cuda: Cuda | None) -> str:
    """A build.ninja that compiles `sources` (absolute paths) beside itself and links them into `output`."""
    import pybind11

    archs = [*cuda.archs, f"{cuda.archs[-1]}+ptx"] if cuda else []
    defines = [f'-DYK_VERSION="{version}"', f'-DYK_ARCHS="{" ".join(archs)}"']
    if cuda:
        defines += ["-DYK_WITH_CUDA", f'-DYK_CUDA_VERSION="{cuda.version}"']
    folders = (pybind11.get_include(), sysconfig.get_path("include"))
    headers = shlex.join(f"-isystem{folder}" for folder in folders).replace("$", "$$")
    common = shlex.join(["-std=c++17", "-O3", *defines])
    # Contraction into fused multiply-adds would make the host differ from plain torch on some processors.
    host = "-fPIC -fvisibility=hidden -Wall -Wextra -ffp-contract=off"
    codes = [f"-gencode arch=compute_{arch},code=sm_{arch}" for arch in cuda.archs] if cuda else []
    if cuda:
        codes.append(f"-gencode arch=compute_{cuda.archs[-1]},code=compute_{cuda.archs[-1]}")
    nvcc, ccbin = (shlex.quote(cuda.nvcc), f"-ccbin {shlex.quote(shlex.split(cxx)[0])}") if cuda else ("", "")
    # --fmad=false for the same reason: both backends must round as the reference does.
    host_cuda = "--fmad=false -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra"
    # nvcc as the linker finds its static runtime (-lcudart_static -ldl -lrt -lpthread) in every layout of the toolkit.
    link = f"{nvcc} {ccbin} -shared -cudart static" if cuda else f"{cxx} -shared"
    lines = [
        f"rule cxx\n  command = {cxx} {common} {host} {headers} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc\n  description = C++ $in",
        f"rule cuda\n  command = {nvcc} {ccbin} {common} {host_cuda} {' '.join(codes)} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc\n  description = CUDA $in",
        f"rule link\n  command = {link} $in -o $out\n  description = link $out",
    ]
    objects = [f"{source.name}.o" for source in sources]
    rules = ["cuda" if source.suffix == ".cu" else "cxx" for source in sources]
    lines += [f"build {o}: {r} {ninja_path(s)}" for o, r, s in zip(objects, rules, sources, strict=True)]
    return "\n".join([*lines, f"build {ninja_path(output)}: link {' '.join(objects)}", ""])


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
        version = self.distribution.get_version()
        (folder / "build.ninja").write_text(ninja_text(sources, output, version, cxx, cuda), encoding="utf-8")
        print(f"yolov9k: C++ {cxx}; CUDA {f'{cuda.version} for {cuda.archs}' if cuda else 'left out'}", flush=True)
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if subprocess.run([sys.executable, "-m", "ninja", "-C", str(folder), *jobs]).returncode:
            remedy = "YOLOV9K_CUDA=0 builds without CUDA" if cuda else "CXX=... chooses another compiler (C++17)"
            raise CompileError(f"csrc/ did not compile: the compiler's own message stands above. {remedy}")


if __name__ == "__main__":
    files = sorted(str(path) for suffix in ("cpp", "cu") for path in CSRC.glob(f"*.{suffix}"))
    setup(ext_modules=[Extension("yolov9k._native", files)], cmdclass={"build_ext": NinjaBuild})
