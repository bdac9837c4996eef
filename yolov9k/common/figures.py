"""Figures as files. Figure objects only, never pyplot: any thread may draw, and nothing of a user's own plots is touched."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write a figure in the format of the path's suffix, PNG without one; the folder is made where it is not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, format=path.suffix.lstrip(".") or "png")
