"""`yolov9k download`."""

from __future__ import annotations

from pathlib import Path

from yolov9k.cli.parser import console
from yolov9k.common.console import literal
from yolov9k.config import DownloadOptions


def run(options: DownloadOptions) -> None:
    """Fetch published weights. What was cut goes on where it ended; size and hash are shown, and held to later."""
    from yolov9k.common.download import fetch
    from yolov9k.common.files import user_path
    from yolov9k.models.releases import RELEASES, find_published

    if options.variant is None:
        for release in RELEASES:
            console.print(literal(f"{release.folder} (license of the repository: {release.license})"))
            console.print(literal(f"  {' '.join(release.files)}"))
        return
    published = find_published(options.variant)
    url = f"{(options.mirror or published.folder).rstrip('/')}/{published.file}"
    path = user_path(options.to) / published.file
    console.print(literal(f"{url} (license of the repository: {published.license})"))
    digest = fetch(url, Path(path), progress=console.is_terminal)
    console.print(literal(f"{path}: {path.stat().st_size:,} bytes, SHA-256 {digest}"))
