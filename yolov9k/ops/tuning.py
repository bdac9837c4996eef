"""Which variant of an operator is the fastest on this device: measured once a shape, kept on disk by GPU and versions."""

from __future__ import annotations

import contextlib
import functools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from yolov9k.common import files
from yolov9k.common.device import identity, is_capturing, is_cuda, on_device, record_event, synchronize
from yolov9k.common.errors import UserError, note
from yolov9k.common.text import read_json

REPEATS = 5
_known: dict[Path | None, dict[str, str]] = {}  # by file


def cache_folder() -> Path:
    """$YOLOV9K_CACHE, else yolov9k in $XDG_CACHE_HOME, else in ~/.cache."""
    return files.cache_folder("YOLOV9K_CACHE")


def _file() -> Path | None:
    """Where measurements are kept; None where the user has no home."""
    try:
        return cache_folder() / "tuning.json"
    except OSError:
        return None


@functools.cache
def _machine(device: torch.device) -> str:
    """What a measurement holds for: the device and the versions of what runs on it."""
    packages = {"torch": torch.__version__, "cuda": torch.version.cuda, "yolov9k": _version("yolov9k")}
    packages["triton"] = _version("triton")
    if is_cuda(device):
        packages["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return json.dumps({"device": identity(device), **packages})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def fastest(
    operator: str,
    key: object,
    variants: Mapping[str, Callable[[], object]],
    device: torch.device,
    compiled: Collection[str] = (),
) -> str:
    """The name of the fastest of `variants` for `operator` with arguments like `key`.

    compiled: those whose first call compiles, which on a GPU is done side by side.

    Measured at the first call (median of five after one), then remembered in memory and in tuning.json. While a CUDA graph is
    captured nothing can be measured: the first variant is taken and not remembered. One that raises is left out; where all
    do, the first one's error is raised. A file that cannot be read or written is warned of and done without.
    """
    path, name = _file(), json.dumps([operator, key, _machine(device)])
    if path not in _known:
        _known[path] = _read(path)
    found = _known[path].get(name)
    if found in variants:
        return str(found)
    if is_cuda(device):
        if is_capturing():
            return next(iter(variants))
        _tell(path)
        _compile([variants[variant] for variant in compiled], device)
    times, errors = dict[str, float](), list[Exception]()
    for variant, run in variants.items():
        try:
            times[variant] = _median(run, device)
        except Exception as error:  # noqa: PERF203 (whatever a backend says of a shape it does not serve)
            errors.append(error)
    if not times:
        raise errors[0]
    best = min(times, key=times.__getitem__)
    _known[path][name] = best
    if path is not None:
        _write(path, name, best)
    return best


@functools.cache
def _tell(path: Path | None) -> None:
    """Once a process: the first run on a machine compiles for minutes before its first step."""
    kept = f"kept in {path}" if path else "kept for this run alone, as there is no home folder; set YOLOV9K_CACHE"
    note(f"compiling kernels and measuring which are the fastest on this GPU; what is found is {kept}")


def _compile(runs: Sequence[Callable[[], object]], device: torch.device) -> None:
    """Call each once, in a thread of its own. What goes wrong is met again when it is measured.

    The threads launch on a stream of theirs, whose results are of no use: what is queued elsewhere must be done before that,
    since memory that it reads may have been given away already, and they must be done before anything else is.
    """

    def once(run: Callable[[], object]) -> None:
        with contextlib.suppress(Exception), torch.no_grad(), on_device(device):
            run()

    if len(runs) < 2:
        return
    synchronize(device)
    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(once, runs))
    synchronize(device)


def _median(run: Callable[[], object], device: torch.device) -> float:
    """Seconds a call."""
    run()
    if not is_cuda(device):
        return statistics.median(_timed(run) for _ in range(REPEATS))
    pairs = []
    for _ in range(REPEATS):
        start = record_event(device, timing=True)
        run()
        pairs.append((start, record_event(device, timing=True)))
    synchronize(device)
    return statistics.median(float(start.elapsed_time(end)) / 1e3 for start, end in pairs)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _read(path: Path | None) -> dict[str, str]:
    """What earlier runs have measured; nothing where there is no file or it is none of ours."""
    if path is None or not path.exists():
        return {}
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
            raise UserError(f"{path}: not a table of names; delete it")
    except UserError as error:
        warnings.warn(f"{error}; measured again", stacklevel=3)
        return {}
    return content


def _write(path: Path, name: str, best: str) -> None:
    """Add one entry to the file as it is now: other processes add theirs."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(path):
            files.sweep(path)
            files.write_json(path, _read(path) | {name: best})
    except (OSError, UserError) as error:
        warnings.warn(f"{path}: cannot be written ({error}); kept for this run alone", stacklevel=3)
