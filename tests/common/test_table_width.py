"""Tables fit a terminal of 80 columns: numbers are whole, names that differ late are told apart, long ones are cut."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.table import Table

from yolov9k.common.console import PlainConsole, add_columns
from yolov9k.data.check import DataReport, SplitReport, Spread, print_report
from yolov9k.tasks.detect.metrics import ClassMetrics, Metrics

NAMES = [
    "left_front_wheel_arch_liner_inner",
    "left_front_wheel_arch_liner_outer",
    "犬" + "猫" * 40,
    "word " * 400,
    "two\nlines",
]


def _report(splits: str) -> DataReport:
    n, spread = len(NAMES), Spread(1, 12345, 123456)
    counts = [1_438_128] * n, [807_090] * n
    reports = [
        SplitReport(split, NAMES, 1_743_042, 14_610_229, 1234, 9, *counts, (7_000_000,) * 3, spread, spread, [])
        for split in splits.split()
    ]
    return DataReport(Path("data.yaml"), reports, [])


def _metrics() -> Metrics:
    rows = [ClassMetrics(name, 1_743_042, 14_610_229, 0.5, 0.5, 0.5, 0.5) for name in NAMES]
    return Metrics(*[0.5] * 9, 1_743_042, rows, SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "gbk"])
@pytest.mark.parametrize("kind", ["train", "train val test", "metrics"])
def test_tables_of_classes_fit_80_columns(kind: str, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
    console = PlainConsole(file=stream, width=80)
    if kind == "metrics":
        _metrics().print(console)
    else:
        print_report(_report(kind), console)
    stream.seek(0)
    text = stream.read()
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= 80
    border = "│" if encoding == "utf-8" else "|"
    first_column = "".join(line.split(border)[1].strip() for line in lines if line.startswith(border))
    assert (r"\u72ac\u732b\u732b" if encoding == "ascii" else "犬猫猫") in first_column
    assert all(name in first_column for name in NAMES[:2])  # folded, not cut
    assert len(lines) < 140  # a name of a page takes a few lines, its escapes some more
    wanted = ["14610229"] * len(NAMES) if kind == "metrics" else ["1,438,128"] * len(NAMES) * len(kind.split())
    assert all(text.count(number) >= wanted.count(number) for number in wanted)


def test_numbers_are_whole_where_there_is_no_room() -> None:
    table = Table()
    add_columns(table, "class", "images", "objects")
    table.add_row("wheel " * 5, "1,743,042", "14,610,229")
    stream = io.StringIO()
    PlainConsole(file=stream, width=34).print(table)
    assert all(number in stream.getvalue() for number in ("1,743,042", "14,610,229"))
