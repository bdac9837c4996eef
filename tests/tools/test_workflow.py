"""The workflow of the public host, the constraints and pyproject.toml speak of the same versions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.tools

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
RUNTIME = PYPROJECT[PYPROJECT.index("dependencies = [") : PYPROJECT.index("[project.optional-dependencies]")]


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    return jobs


def lower_bounds() -> dict[str, str]:
    """Runtime dependencies and their lowest versions."""
    return dict(re.findall(r'^\s+"([\w.-]+)>=([\d.]+)', RUNTIME, re.MULTILINE))


def test_every_python_that_is_promised_is_tried(jobs: dict[str, Any]) -> None:
    lowest = re.search(r'requires-python = ">=(3\.\d+)"', PYPROJECT)
    assert lowest is not None
    matrix = jobs["quick"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert matrix["python"][0] == lowest[1]


def test_torch_from_the_lowest_to_the_newest(jobs: dict[str, Any]) -> None:
    matrix = jobs["quick"]["strategy"]["matrix"]
    tried = {*matrix["torch"], *(row["torch"] for row in matrix["include"])}
    tested = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert tested is not None
    assert tried == {"newest", f"{lower_bounds()['torch']}.*", tested[1]}


def test_no_dependency_has_an_upper_bound() -> None:
    assert len(lower_bounds()) >= 9
    assert not re.search(r'"[\w.-]+[^"]*<', RUNTIME)


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """Pinned exactly: the first release that a bound admits."""
    pinned = dict(re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE))
    for name, bound in lower_bounds().items():
        assert f"{pinned[name]}.".startswith(f"{bound}."), name


def test_all_three_systems(jobs: dict[str, Any]) -> None:
    assert jobs["other-systems"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]
    for job in jobs.values():
        for step in job["steps"]:
            assert {"uses", "run"} & step.keys()
    targets = {word for job in jobs.values() for s in job["steps"] for word in re.findall(r"make ([\w-]+)", s.get("run", ""))}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_issue_templates_can_be_read(name: str) -> None:
    template = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
    assert template["name"]
    assert all(field["type"] == "textarea" and field["id"] for field in template["body"])


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f'version = "{citation["version"]}"' in PYPROJECT
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2402.13616"


def test_hooks_are_the_lint_of_the_makefile() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    names = {hook["id"] for repo in hooks for hook in repo["hooks"]}
    assert {"ruff", "ruff-format", "codespell", "clang-format", "mypy"} == names
