"""The cache of what tests compile: found again by sources and flags alone, made again where it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import artifacts
from tests.ops.simt import cases

pytestmark = pytest.mark.toolchain

SOURCE = "int answer() { return ANSWER; }\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, empty."""
    monkeypatch.setenv("YOLOV9K_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tests"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "answer.cpp").write_text(SOURCE)
    return tmp_path / "answer.cpp"


def compile_one(source: Path, *flags: str) -> tuple[bool, bytes]:
    """Whether the compiler had to run, and the object file's content."""
    compiled = cases.compiling([*flags, str(source)], source.with_name("answer.o"))
    ran = compiled.process is not None
    return ran, cases.finished(compiled).read_bytes()


@pytest.mark.twin
def test_the_second_time_nothing_is_compiled(source: Path) -> None:
    ran, first = compile_one(source, "-DANSWER=42")
    again, second = compile_one(source, "-DANSWER=42")
    assert (ran, again) == (True, False)
    assert first == second


@pytest.mark.parametrize("change", ["flag", "definition", "source"])
def test_another_source_or_flag_is_compiled(source: Path, change: str) -> None:
    compile_one(source, "-DANSWER=42", "-O1")
    if change == "source":
        source.write_text(SOURCE + "int other() { return 1; }\n")
    ran, _ = compile_one(source, f"-DANSWER={41 if change == 'definition' else 42}", "-O0" if change == "flag" else "-O1")
    assert ran


def test_another_compiler_compiles_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_one(source, "-DANSWER=42")
    monkeypatch.setattr(cases, "compiler_version", lambda: "another")
    assert compile_one(source, "-DANSWER=42")[0]


@pytest.mark.twin
@pytest.mark.parametrize("damage", ["shortened", "changed", "no checksum", "checksum of bytes"])
def test_what_is_damaged_is_made_again(source: Path, cache: Path, damage: str) -> None:
    _, whole = compile_one(source, "-DANSWER=42")
    (checksum,) = cache.glob("*.sha256")
    artifact = checksum.with_suffix("")
    if damage == "no checksum":
        checksum.unlink()
    elif damage == "checksum of bytes":
        checksum.write_bytes(b"\xff\xfe")
    else:
        artifact.write_bytes(whole[:-1] if damage == "shortened" else b"\0" * len(whole))
    ran, mended = compile_one(source, "-DANSWER=42")
    assert ran
    assert mended == whole
    assert not compile_one(source, "-DANSWER=42")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("#error wrong\n", "#error wrong"), ("int f() { return wrong; }\n", "not declared"),
     ("int f() { int unused; return 1; }\n", "unused variable")],
)  # fmt: skip
def test_what_fails_or_warns_is_not_kept(source: Path, cache: Path, text: str, message: str) -> None:
    source.write_text(text)
    for _ in range(2):
        with pytest.raises(AssertionError, match=message):
            compile_one(source, "-Wall")
    assert not list(cache.glob("*"))


def test_names_tell_parts_from_their_concatenation() -> None:
    assert len({artifacts.digest(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""))}) == 4
    assert artifacts.digest("ab") == artifacts.digest(b"ab")


def test_a_text_is_found_as_it_was_kept() -> None:
    assert artifacts.find_text("0" * 64) is None
    assert artifacts.keep_text("0" * 64, "× table\n") == artifacts.find_text("0" * 64) == "× table\n"


def test_files_are_told_apart_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "b.h").write_text("2")
    (tmp_path / "a.h").write_text("1")
    before = artifacts.digest(*artifacts.texts(tmp_path.glob("*.h")))
    (tmp_path / "a.h").rename(tmp_path / "c.h")
    assert artifacts.digest(*artifacts.texts(tmp_path.glob("*.h"))) != before
