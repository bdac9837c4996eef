"""Names for the arrays that travel between modules, and the gray that fills what no image covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # [h, w, 3], BGR as OpenCV has it
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

FILL = 114  # of 255, every channel: padding and canvases, as the published training has them
