"""The build backend: setuptools', which also asks PyPI for the CUDA compiler where CUDA is wanted and no nvcc is found.

Wanted it is by YOLOV9K_CUDA=pip, or by the presence of an NVIDIA driver; setup.py has the other settings. pip calls the
hooks below for a build with isolation. Without isolation it asks for nothing, and setup.py uses what is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import setuptools
from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# The oldest CUDA whose compiler PyPI has: the runtime that is linked in must not be newer than the users' drivers. All
# four are pinned, since nvidia-cuda-nvcc asks for the others in any version.
COMPILER = ("nvidia-cuda-nvcc==13.0.*", "nvidia-nvvm==13.0.*", "nvidia-cuda-crt==13.0.*", "nvidia-cuda-runtime==13.0.*")
DRIVER = Path("/proc/driver/nvidia/version")

if int(setuptools.__version__.split(".")[0]) < 77:  # Python 3.11's own venv comes with 65, which cannot read pyproject.toml
    raise SystemExit(
        f"error: setuptools {setuptools.__version__} is too old for a build without isolation: pip install -U setuptools"
    )


def output_of(*command: str) -> str:
    """Standard output of a command, or nothing when it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def find_nvcc() -> str | None:
    """The first nvcc of CUDA_HOME, of PATH, and of the PyPI packages that this Python sees."""
    home = os.environ.get("CUDA_HOME")
    folders = [os.path.join(home, "bin")] if home else []
    folders.append(os.environ.get("PATH", os.defpath))
    folders += [os.path.join(folder, "nvidia/cu13/bin") for folder in sys.path]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(folders))
    return os.path.abspath(nvcc) if nvcc else None


def driver_present() -> bool:
    """Whether this machine has an NVIDIA driver."""
    return DRIVER.exists() or bool(output_of("nvidia-smi", "-L"))


def compiler_requirements() -> list[str]:
    """The PyPI packages of the compiler where they are wanted and no nvcc is found, else nothing."""
    switch = os.environ.get("YOLOV9K_CUDA", "auto")
    wanted = switch == "pip" or (switch in ("1", "auto") and driver_present())
    return list(COMPILER) if wanted and not find_nvcc() else []


def get_requires_for_build_wheel(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    """Hook of PEP 517."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *compiler_requirements()]


def get_requires_for_build_editable(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    """Hook of PEP 660."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *compiler_requirements()]
