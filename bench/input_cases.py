"""The size of the input benchmark, which its record is read with."""

from __future__ import annotations

SIZE, BATCH, IMAGES = 640, 16, 24
