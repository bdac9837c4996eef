"""The Triton kernels as a package of their own, in the layout of Hugging Face's `kernels`: `make kernel-package`.

    OUT/build/torch-universal/          the files of kernels/, whose imports of each other are relative
        metadata.json                   name, version, license, and a digest of every file
        yolov9k_kernels/__init__.py     the same names, for older versions of `kernels`
    OUT/README.md

Nothing is published here; docs/publish.md says how that would be done.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import json
import shutil
import sys
from pathlib import Path

NAME, VERSION = "yolov9k-kernels", 0  # version 0 is the layout's word for what may still change
ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {"torch", "triton"}  # beside Python's own modules

_CARD = """---
license: apache-2.0
tags:
- kernels
---

# yolov9k-kernels

Triton kernels of yolov9k: {names}. Each file has the definition it is held to in its docstring.

```python
from kernels import get_kernel

kernels = get_kernel("OWNER/yolov9k-kernels", version=0, trust_remote_code=True)
kernels.conv_bn_silu
```
"""

_INIT = '''"""Triton kernels, one file an operator; each is a module of its own."""

import importlib

_NAMES = {names!r}
__all__ = list(_NAMES)


def __getattr__(name):
    if name in _NAMES:
        return importlib.import_module("." + name, __name__)
    raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
'''

# In a folder with the package's name, where older versions of `kernels` look for it: its modules are those one level up.
_OLDER = (
    _INIT
    + """

from pathlib import Path

__path__ = [str(Path(__file__).parents[1])]
"""
)


def foreign_imports(text: str) -> list[str]:
    """Modules that a kernel's file imports when it runs and that are neither its own package's nor those allowed."""
    tree = ast.parse(text)
    typing_only = {
        id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }  # fmt: skip
    names = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(str(node.module))
    return [name for name in names if name.split(".")[0] not in ALLOWED | sys.stdlib_module_names]


def write(out: Path, source: Path = ROOT / "kernels") -> Path:
    """Write the package's folder anew; returns that of the build. Raises SystemExit for a kernel that cannot stand alone."""
    build = out / "build/torch-universal"
    if build.exists():
        shutil.rmtree(build)
    older = build / NAME.replace("-", "_")
    older.mkdir(parents=True)
    names = sorted(path.stem for path in source.glob("[!_]*.py"))
    for path in sorted(source.glob("*.py")):
        if found := foreign_imports(path.read_text(encoding="utf-8")):
            raise SystemExit(f"error: {path.name} imports {', '.join(found)}; a kernel imports torch, triton and its neighbors")
        shutil.copy(path, build)
    (build / "__init__.py").write_text(_INIT.format(names=tuple(names)), encoding="utf-8")
    (older / "__init__.py").write_text(_OLDER.format(names=tuple(names)), encoding="utf-8")
    (build / "metadata.json").write_text(json.dumps(_metadata(build), indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_CARD.format(names=", ".join(f"`{name}`" for name in names)), encoding="utf-8")
    return build


def _metadata(build: Path) -> dict[str, object]:
    files = sorted(path for path in build.rglob("*.py"))
    digests = {path.relative_to(build).as_posix(): hashlib.sha256(path.read_bytes()).digest() for path in files}
    whole = hashlib.sha256(b"".join(digests.values())).hexdigest()[:12]
    return {
        "name": NAME,
        "id": f"_{NAME.replace('-', '_')}_{whole}",  # several versions may be loaded in one process
        "version": VERSION,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": "cuda"},
        "digest": {"algorithm": "sha256", "files": {name: base64.b64encode(value).decode() for name, value in digests.items()}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m release.kernel_package", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist/kernel-package", help="folder of the package")
    print(f"kernel package: {write(parser.parse_args().out)}")


if __name__ == "__main__":
    main()
