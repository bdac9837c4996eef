"""What is free is read from the system and from the limits of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yolov9k.common.memory import available_memory, cgroup_room

FIRST = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
SECOND = "memory.max", "memory.current", "inactive_file"


def test_available_memory_is_read_from_the_system() -> None:
    memory = available_memory()
    if not Path("/proc/meminfo").exists():
        pytest.skip("this system has no /proc/meminfo")
    assert memory is not None
    assert 2**20 < memory < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("names", [FIRST, SECOND])
def test_limits_of_cgroups_count(tmp_path: Path, names: tuple[str, str, str]) -> None:
    """Those of a group and of the groups around it; "max", and files that are not there, are no limits."""
    group = tmp_path / "outer" / "inner"
    group.mkdir(parents=True)
    for folder, limit, usage in ((tmp_path, "max", 900), (group.parent, "1000", 700), (group, "600", 100)):
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{usage}\n")
    (group.parent / "memory.stat").write_text(f"anon 5\n{names[2]} 50\n")
    assert list(cgroup_room(tmp_path, "/outer/inner", *names)) == [500, 350]
    assert list(cgroup_room(tmp_path, "/elsewhere", *names)) == []
    assert list(cgroup_room(tmp_path, "/", *names)) == []
    (tmp_path / names[0]).write_text("12000\n")  # a container's own limit stands at the root it sees
    assert list(cgroup_room(tmp_path, "/", *names)) == list(cgroup_room(tmp_path, "/not/mounted", *names)) == [11100]
