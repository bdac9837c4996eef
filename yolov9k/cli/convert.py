"""`yolov9k convert`."""

from __future__ import annotations

from yolov9k.cli.parser import console
from yolov9k.config import ConvertOptions


def run(options: ConvertOptions) -> None:
    """Write a checkpoint's model as a file of another implementation, or of this one; a table says what became of its parts."""
    from rich.table import Table

    from yolov9k.common.console import literal
    from yolov9k.compat import convert, load
    from yolov9k.compat.convert import forecast

    options.check()
    model = load(options.source, options.cfg)
    table = Table(title=literal(f"{options.source} as {options.to}"))
    for column in ("part", "in the file", "written"):
        table.add_column(column)
    for row in forecast(model, options.to):
        table.add_row(*map(literal, (row.part, row.given, row.written if row.fits else f"cannot be: {row.written}")))
    console.print(table)
    convert(model, options.out, options.to, options.source)
    console.print(literal(f"written: {options.out}"))
