"""Published figures that several tests, and README's table, compare with."""

from __future__ import annotations

OFFICIAL = {"ap": 0.50458, "ap50": 0.69697, "ap75": 0.57298}  # of the published sample of COCO, by the official evaluator
