"""How much of the host's memory is free for this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def available_memory() -> int | None:
    """Bytes that can be taken without swapping or passing a limit of this process's cgroups; None where nothing says."""
    room = [int(line.split()[1]) * 1024 for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable:")]
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, group = line.split(":", 2)
        if not controllers:
            room += cgroup_room(Path("/sys/fs/cgroup"), group, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            room += cgroup_room(Path("/sys/fs/cgroup/memory"), group, *names)
    return max(0, min(room)) if room else None


def cgroup_room(root: Path, group: str, limit: str, usage: str, cached: str) -> Iterator[int]:
    """What each limit on the way from a cgroup to the root leaves, in bytes; a container may see its own group as the root.

    limit, usage: names of the files in a group's folder; cached: the line of memory.stat that counts cached files.
    """
    folder = root / group.lstrip("/")
    for place in (folder, *folder.parents[: len(folder.parts) - len(root.parts)]):
        most, taken = _lines(place / limit), _lines(place / usage)
        if most and taken and most[0].isdigit():
            statistics = dict(line.split() for line in _lines(place / "memory.stat"))
            yield int(most[0]) - int(taken[0]) + int(statistics.get(cached, 0))  # the system drops cached files first


def readable_size(size: int) -> str:
    """Bytes as a person reads them: "96 MiB", "1.5 GiB"."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
