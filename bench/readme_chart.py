"""README's chart of measured ratios, drawn from the records in bench/results: python -m bench.readme_chart [--check].

The chart shows what README's table shows: each pair's ratio of medians. Its colors read on a light and on a dark page.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

from bench.readme_table import CPU, INPUT, Refused, load, medians_of

ROOT = Path(__file__).resolve().parents[1]
CHART = "docs/images/speed.svg"
GRAY, BLUE = "#7d8590", "#3b82c4"
TITLES = ("task-aligned assigner\n16 images, 20 boxes each", "validation's NMS\n16 images, 30,000 candidates each")
INPUT_TITLE = "a training batch's input\ndefault recipe, 640 px, one thread"


class Bar(NamedTuple):
    """One ratio: how many times as fast as the baseline."""

    title: str
    baseline: str
    ratio: float

    @property
    def label(self) -> str:
        return f"{self.ratio:.1f}x"


def bars(root: Path) -> list[Bar]:
    """The ratios of the records under root. Raises Refused for a record that may not be quoted."""
    cpu = medians_of(load(root / "bench/results/cpu.json", "cpu.json")["benchmarks"])
    found = [
        Bar(title, "plain torch", cpu[pair.name.format(pair.slow)] / cpu[pair.name.format(pair.fast)])
        for title, pair in zip(TITLES, CPU, strict=True)
    ]
    batch = medians_of(load(root / "bench/results/input.json", "input.json")["benchmarks"])
    return [*found, Bar(INPUT_TITLE, "OpenCV", batch[INPUT.format("opencv")] / batch[INPUT.format("fused")])]


def draw(rows: list[Bar], path: Path) -> None:
    """Write the chart as SVG whose text stays text, without a background."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"svg.fonttype": "none", "svg.hashsalt": "yolov9k", "font.size": 11, "font.family": "sans-serif"}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(8.6, 2.5))
        places = range(len(rows), 0, -1)
        axes.barh(places, [bar.ratio for bar in rows], height=0.55, color=BLUE)
        axes.barh(places, [1.0] * len(rows), height=0.55, color=GRAY)
        axes.set_yticks(list(places), [bar.title for bar in rows], color=GRAY)
        for place, bar in zip(places, rows, strict=True):
            axes.text(bar.ratio + 0.3, place, f"{bar.label}  {bar.baseline}", va="center", color=GRAY)
        axes.set_xlim(0, 1.3 * max(bar.ratio for bar in rows))
        axes.set_xlabel("times as fast in C++ on a CPU; gray: the baseline", color=GRAY)
        axes.tick_params(colors=GRAY, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)


def labels(svg: str) -> list[str]:
    """Ratio and baseline of each bar in a chart, from top to bottom."""
    return re.findall(r">(\d+\.\dx\s+[A-Za-z ]+)</text>", svg)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Draw the chart, or compare its numbers; 1 where it and the records disagree, 2 where it cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m bench.readme_chart", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, compare the numbers")
    check, path = parser.parse_args(arguments).check, root / CHART
    try:
        rows = bars(root)
    except (Refused, OSError, LookupError) as error:
        print(f"bench.readme_chart: {error!r}", file=sys.stderr)
        return 2
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(rows, path)
        return 0
    shown = labels(path.read_text(encoding="utf-8")) if path.is_file() else []
    wanted = [f"{bar.label}  {bar.baseline}" for bar in rows]
    if [text.split() for text in shown] != [text.split() for text in wanted]:
        print(f"{CHART} shows {shown}, the records say {wanted}: make readme", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
