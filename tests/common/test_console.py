"""Names and paths are printed as they stand, whatever markup they look like and whatever the terminal can show."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from tests.data_cases import write_yolo
from tests.tiers import slow_case
from yolov9k.common.console import PlainConsole, literal
from yolov9k.common.errors import LONGEST_LINE, note, warn
from yolov9k.common.progress import progress_bar
from yolov9k.common.result_names import folder_name

LIKE_MARKUP = ["[/x]a", "car [front]", "[bold]x[/bold]", "[red]n", ":car:", "x[/b]y", "[link=file:///]z", "\\[x]", "[[", "$a$"]


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")


def content(file: io.TextIOWrapper) -> str:
    file.flush()
    return file.buffer.getvalue().decode(file.encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", LIKE_MARKUP)
@pytest.mark.parametrize("kind", [PlainConsole, Console])
def test_text_is_no_markup(text: str, kind: type[Console]) -> None:
    table = Table(title=literal(f"of {text}"))
    table.add_column("name")
    table.add_row(literal(text))
    file = io.StringIO()
    console = kind(file=file, width=80)
    console.print(literal(f"run: {text}"), table)
    if kind is PlainConsole:
        console.print(f"path {text}")
    assert file.getvalue().count(text) == (4 if kind is PlainConsole else 3)


@given(st.text())
def test_any_text_can_be_printed_anywhere(text: str) -> None:
    for encoding in ("ascii", "gbk", "latin-1", "utf-8"):
        file = stream(encoding)
        PlainConsole(file=file).print(text, literal(text))
        printed = content(file)
        assert not any(ord(char) < 32 and char not in "\n\t" for char in printed.replace("\r\n", "\n"))


def test_what_the_terminal_lacks_is_escaped() -> None:
    for encoding, shown in (("ascii", r"Stra\xdfe \u732b"), ("gbk", r"Stra\xdfe 猫"), ("utf-8", "Straße 猫")):
        file = stream(encoding)
        PlainConsole(file=file).print("Straße 猫")
        assert content(file) == f"{shown}\n"


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_plain_text_in_a_table_is_laid_out_as_it_is_written(encoding: str) -> None:
    table = Table("name", "number")
    table.add_row("Straße 猫", "1")
    file = stream(encoding)
    PlainConsole(file=file, width=40).print(table)
    lines = content(file).splitlines()
    assert len({cell_len(line) for line in lines}) == 1
    assert len(lines) == 5


def test_a_progress_bar_shows_names_as_they_stand() -> None:
    for text in LIKE_MARKUP:
        file = io.StringIO()
        with progress_bar(console=PlainConsole(file=file, force_terminal=True, width=100), note=True) as bar:
            bar.add_task(text, total=2, note=text)
        assert text in file.getvalue()


def test_messages_are_single_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for say in (warn, note):
        say("two\nlines, [red]no color[/red], \x1b[2J and " + "x" * 10**6)
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert r"two lines, [red]no color[/red], \x1b[2J and xxx" in printed
        assert len(printed) < LONGEST_LINE + 20


@pytest.mark.parametrize(
    ("encoding", "locale"),
    [
        ("ascii", {}),
        ("ascii", {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
        ("gbk", {}),
        slow_case("latin-1", {}),
    ],
)
def test_data_check_on_any_terminal(tmp_path: Path, encoding: str, locale: dict[str, str]) -> None:
    data = write_yolo(tmp_path / "犬", {"a": "0 .5 .5 .2 .4", "b": "7 .5 .5 .2 .4"}, "[猫, Straße]")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, **locale}
    command = [sys.executable, "-m", "yolov9k", "data", "check", str(data)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("猫" if encoding == "gbk" else r"\u732b").encode(encoding) in done.stdout
    assert b"1 errors" in done.stdout


def test_crops_of_a_class_whose_name_the_file_system_lacks(tmp_path: Path) -> None:
    """Under an ASCII locale paths are ASCII too; the folder then bears the character's number."""
    script = (
        "import sys; from pathlib import Path; from yolov9k.common.files import write_bytes; "
        "from yolov9k.common.result_names import folder_name; write_bytes(Path(sys.argv[1]) / folder_name('猫 a') / 'a', b'x')"
    )
    locale = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    escaped = script.encode("ascii", "backslashreplace").decode()
    subprocess.run([sys.executable, "-c", escaped, str(tmp_path)], env={**os.environ, **locale}, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["u732b a"]
    assert folder_name("猫 a") == "猫 a"
