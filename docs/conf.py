"""The documentation's settings: `make docs` builds it, and any warning fails the build."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(Path(os.environ.get("YOLOV9K_DOCS_SOURCE", HERE.parent)))]

import gen_options  # noqa: E402

project = "yolov9k"
author = "the yolov9k authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "yolov9k"
html_copy_source = False
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_fence_as_directive = ["mermaid"]  # GitHub draws the same fences; without a network a reader sees their text
mermaid_height = "auto"
mermaid_fullscreen = False  # its button covers the last box
myst_heading_anchors = 3

# A reference to something of ours that does not exist is a warning, and a warning is an error. Types of other projects in
# signatures are not links: no inventory is fetched, so that the build needs no network.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!yolov9k).*")]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

gen_options.write(HERE / "options.md")
gen_options.write_names(HERE / "names.md")


def escape_underscores(app: Any, what: str, name: str, item: object, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: a name that ends in an underscore, as torch's in-place functions do, is no link."""
    lines[:] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", escape_underscores)
