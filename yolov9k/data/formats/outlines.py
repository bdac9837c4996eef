"""Several outlines of one object as one."""

from __future__ import annotations

import numpy as np

from yolov9k.common.arrays import Float32Array

BRIDGE_CORNERS = 512  # of each of two outlines that are joined
_GROUP = 64  # outlines that are joined one after the other


def join_outlines(outlines: list[Float32Array]) -> Float32Array:
    """One outline around several, each tied to the ones before by a bridge without width at the nearest two corners.

    Of long or many outlines the nearest of some corners, evenly spaced: a bridge encloses nothing, wherever it is. Very many
    are joined in groups, else the time would go with the square of their number.
    """
    if len(outlines) > _GROUP:
        groups = [outlines[start : start + _GROUP] for start in range(0, len(outlines), _GROUP)]
        return join_outlines([join_outlines(group) for group in groups])
    joined, rest = outlines[0], outlines[1:]
    most = min(max(BRIDGE_CORNERS * 8 // len(outlines), 32), BRIDGE_CORNERS)
    for outline in rest:
        here_step, there_step = -(-len(joined) // most), -(-len(outline) // most)
        distance = ((joined[::here_step, None] - outline[None, ::there_step]) ** 2).sum(-1)
        nearest = np.unravel_index(int(distance.argmin()), distance.shape)
        here, there = int(nearest[0]) * here_step, int(nearest[1]) * there_step
        loop = np.roll(outline, -there, axis=0)
        joined = np.concatenate([joined[: here + 1], loop, loop[:1], joined[here:]])
    return joined
