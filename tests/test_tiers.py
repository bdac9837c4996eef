"""The tiers together are all tests; every operator has every step of its proof in one of them, and one in the quick tier."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.conftest import COLLECTED
from tests.tiers import NIGHTLY_FACTOR, SLOW, TIERS, drawn, examples, tier
from yolov9k import ops
from yolov9k.ops.registry import BACKENDS_OF

ROOT = Path(__file__).resolve().parents[1]
Collected = list[tuple[str, frozenset[str]]]


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> Collected:
    """All tests that were found, of whatever tier, and their marks."""
    if {(ROOT / argument).resolve() for argument in request.config.args} != {ROOT / "tests"}:
        pytest.skip("only a part of the tests was asked for")
    return request.config.stash[COLLECTED]


def test_every_file_is_collected(collected: Collected) -> None:
    files = {node.split("::")[0] for node, _ in collected}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")} - files == set()


def test_the_tiers_together_are_all(collected: Collected) -> None:
    counts = Counter(tier(marks) for _, marks in collected)
    assert set(counts) <= set(TIERS)
    assert sum(counts.values()) == len(collected) > 1700
    assert counts["quick"] > counts["slow"] > 100


def test_names_of_tests_are_the_same_in_every_process(collected: Collected) -> None:
    """Processes that share the tests out compare them; an object's address in one ends the whole run."""
    assert [node for node, _ in collected if " at 0x" in node.lower()] == []


def test_every_slow_file_has_a_twin_but_those_that_only_take_time(collected: Collected) -> None:
    """A proof that the quick tier does not touch at all would be noticed late."""
    # twins of these stand in other files: test_simt, test_batch_sums, test_workers, test_planned, test_spelling, test_keys
    without = {"test_compile", "test_end_to_end", "test_trajectory", "test_training", "test_real_input", "test_real_augment",
               "test_gpu", "test_gpu_check", "test_readme_table", "test_profile", "test_memory", "test_docs", "test_examples",
               "test_workflow", "test_native_sanitized", "test_first_step", "test_real_sizes", "test_shared_memory",
               "test_sync_batch_norm", "test_command_lines", "test_peers_names", "test_peer_files",
               "test_accelerate_peers"}  # fmt: skip
    files: dict[str, list[frozenset[str]]] = {}
    for node, marks in collected:
        files.setdefault(Path(node.split("::")[0]).stem, []).append(marks)
    slow = {name for name, tests in files.items() if all(tier(marks) == "slow" for marks in tests)}
    assert slow <= without


def test_every_operator_has_every_step_of_its_proof(collected: Collected) -> None:
    nodes = [(node, tier(marks)) for node, marks in collected]
    for operator in ops.operators():
        plain = [t for node, t in nodes if f"tests/ops/test_{operator}.py" in node]
        assert "quick" in plain, f"{operator}: no quick test of its definition"
        if "triton" in BACKENDS_OF[operator]:
            stem = f"tests/ops/triton/test_{operator}.py"
            assert any(stem in node for node, _ in nodes), f"{operator}: Triton's interpreter does not run it"
            assert any(stem in node and t == "quick" for node, t in nodes), f"{operator}: no quick test in the interpreter"
            assert any("test_compile.py" in node for node, _ in nodes)
        if "cuda" in BACKENDS_OF[operator]:
            assert any("test_simt.py" in node for node, _ in nodes)
            assert any("test_no_kernel_spills" in node and operator in node for node, _ in nodes), f"{operator}: not compiled"


def test_marks_are_those_of_the_configuration(pytestconfig: pytest.Config) -> None:
    assert {*SLOW, "nightly", "twin"} <= {line.split(":")[0] for line in pytestconfig.getini("markers")}


@pytest.mark.parametrize(
    ("marks", "wanted"),
    [((), "quick"), (("interpret",), "slow"), (("interpret", "twin"), "quick"), (("big", "nightly"), "nightly")],
)
def test_tier(marks: tuple[str, ...], wanted: str) -> None:
    assert tier(marks) == wanted


def test_by_night_there_are_more_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPOTHESIS_PROFILE", raising=False)
    assert examples(30) == 30
    monkeypatch.setenv("HYPOTHESIS_PROFILE", "nightly")
    assert examples(30) == 30 * NIGHTLY_FACTOR


def test_a_property_is_drawn_few_times_in_the_quick_tier_and_many_in_the_slow_one() -> None:
    seen: list[int] = []

    @drawn(3, 20, st.integers())
    def test(number: int) -> None:
        seen.append(number)

    cases = test.pytestmark[0].args[1]
    assert [tier(mark.name for mark in case.marks) for case in cases] == ["quick", "slow"]
    for case in cases:
        seen.clear()
        test(*case.values)
        assert len(seen) == case.values[0]
