"""profile.png: where a step's time goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from yolov9k.common.figures import save_figure


def plot_profile(
    parts: Mapping[str, float], stages: Mapping[str, float], bounds: Mapping[str, float], title: str, path: str | Path
) -> None:
    """A bar for each part of a training step with its roofline bound, and one for each stage of the forward; milliseconds."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.barh(list(parts), list(parts.values()), color="tab:blue", label="measured")
    known = [part for part in parts if part in bounds]
    left.barh(known, [bounds[part] for part in known], height=0.3, color="tab:orange", label="roofline bound")
    left.legend(fontsize=8)
    right.barh(list(stages), list(stages.values()), color="tab:blue")
    for axes, text in ((left, "parts of a step"), (right, "stages of the forward")):
        axes.set(title=text, xlabel="ms")
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, path)
