"""The record of a command: JSON, and a table with each variant's ratio to ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.baselines.measure import Row
from bench.gpu_check import commit_info, machine

KEY = ("what", "model", "batch_kind", "img")  # what is compared with what
COLUMNS = ("images_per_s", "median_ms", "peak_gib", "host_syncs", "launches")


def write(folder: Path, name: str, rows: list[Row], skipped: list[Row]) -> Path:
    """Write NAME.json and NAME.md; returns the latter's path."""
    path = write_json(folder, name, rows, skipped)
    path.write_text("\n".join([*head(name), *tables(rows), *not_measured(skipped)]) + "\n", encoding="utf-8")
    return path


def write_json(folder: Path, name: str, rows: list[Row], skipped: list[Row]) -> Path:
    """Write NAME.json; returns where its NAME.md belongs."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "commit_info": commit_info(), "rows": rows, "skipped": skipped}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder / f"{name}.md"


def head(name: str) -> list[str]:
    return [f"# {name}", "", *(f"- {key}: {value}" for key, value in machine().items()), ""]


def not_measured(skipped: list[Row]) -> list[str]:
    """Each with the last line of why; the record has the rest."""
    if not skipped:
        return []
    return ["## Not measured", "", *(f"- {_title(row)}: {row['why'].splitlines()[-1]}" for row in skipped)]


def tables(rows: list[Row]) -> list[str]:
    """One for each model and size of batch; a ratio over 1 says that ours, the fastest of our variants, is the faster."""
    lines: list[str] = []
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in KEY), []).append(row)
    for (what, model, kind, img), members in groups.items():
        lines += [f"## {what}, {model}, batch {kind}, {img} px", "", *_table(members), ""]
    return lines


def _table(rows: list[Row]) -> list[str]:
    lines = ["| variant | batch | images/s | median, ms | peak, GiB | synchronizations | launches | ours is faster by "
             "| version |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    ours = max((row["images_per_s"] for row in rows if row["variant"].startswith("ours")), default=None)
    for row in rows:
        ratio = f"{ours / row['images_per_s']:.2f}x" if ours else ""
        figures = ["" if row.get(key) is None else str(row[key]) for key in COLUMNS]
        lines.append(f"| {' | '.join([variant_of(row), str(row['batch']), *figures, ratio, row.get('version', '')])} |")
    return lines


def variant_of(row: Row) -> str:
    """Its name, with what it came to and in what it is not the same work."""
    ran = f", ran {row['ran']}" if row.get("ran", "") not in row["variant"] else ""
    ran += ", the search was cut short" if row.get("cut_short") else ""
    return str(row["variant"]) + ran + (f" ({row['note']})" if row.get("note") else "")


def _title(row: Row) -> str:
    return ", ".join(str(row[key]) for key in ("variant", "model", "batch", "seed") if row.get(key) is not None)
