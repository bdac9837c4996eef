"""The roofline's record (bench/roofline.py) to be read: a table of kernels and one of shapes for each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown(made: dict[str, Any]) -> str:
    """The record to be read: what could be gained first."""
    lines = ["# Roofline", "", *(f"- {key}: {value}" for key, value in made["machine"].items())]
    ceilings = made["ceilings"]
    whose = "an H100's, not measured here" if made["device"] == "meta" else "measured"
    lines.append(
        f"- batch {made['batch']}, {made['img']} px; {whose}: copy {ceilings['copy'] / 1e12:.2f} TB/s, matrices "
        f"{ceilings['matrix'] / 1e12:.0f} TFLOP/s, a launch {ceilings['launch'] * 1e6:.1f} us"
    )
    for model in dict.fromkeys(row["model"] for row in made["rows"]):
        rows = [row for row in made["rows"] if row["model"] == model]
        lines += ["", f"## {model or 'Operators'}", "", *kernels_table(rows), "", *shapes_table(rows)]
    return "\n".join(lines) + "\n"


def kernels_table(rows: list[dict[str, Any]]) -> list[str]:
    """A line a kernel, over all of its shapes."""
    lines = [
        "| kernel | launches | GB | TFLOP | least, ms | measured, ms | share | shapes below target |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kernel in [*dict.fromkeys(row["kernel"] for row in rows), "all"]:
        these = [row for row in rows if kernel in (row["kernel"], "all")]
        done = [row for row in these if row["seconds"] is not None]
        launches, moved, flops = (total(these, key) for key in ("launches", "bytes", "flops"))
        least, seconds = total(these, "least"), total(done, "seconds")
        measured = [f"{1e3 * seconds:.3f}", f"{total(done, 'least') / seconds:.0%}"] if done else ["", ""]
        measured[0] += f" ({len(these) - len(done)} not timed)" * (0 < len(done) < len(these))
        short = f"{sum(row['short'] for row in done)} of {len(done)}" if done else ""
        counted = [kernel, str(launches), f"{moved / 1e9:.3f}", f"{flops / 1e12:.3f}", f"{1e3 * least:.3f}"]
        lines.append(f"| {' | '.join([*counted, *measured, short])} |")
    return lines


def total(rows: Sequence[dict[str, Any]], key: str) -> Any:
    """Over all calls of a step."""
    return sum(row["calls"] * row[key] for row in rows)


def shapes_table(rows: list[dict[str, Any]]) -> list[str]:
    """A line a shape; first those that lose most of a step's time."""

    def lost(row: dict[str, Any]) -> float:
        return float(row["calls"] * (row["least"] if row["seconds"] is None else row["seconds"] - row["least"]))

    lines = [
        "| kernel | shapes | calls | MB | GFLOP | least, us | us | share | bound by | us without |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lost, reverse=True):
        counted = [row["kernel"], row["shapes"], str(row["calls"]), f"{row['bytes'] / 1e6:.1f}", f"{row['flops'] / 1e9:.2f}"]
        counted.append(f"{1e6 * row['least']:.1f}")
        times = ["", "", row["why"], ""]
        if row["seconds"] is not None:
            without = ", ".join(f"{name} {1e6 * seconds:.1f}" for name, seconds in row["without"].items())
            times = [f"{1e6 * row['seconds']:.1f}", f"{row['share']:.0%}", row["bound"], without]
        lines.append(f"| {' | '.join([*counted, *times])} |")
    return lines
