"""Grey pictures of coloured ones, as segmenters want them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (Rec. 601)."""


def grey(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return (C, h, w) pixels as grey (h, w); RGB by its luminance.

    >>> grey(np.full((3, 1, 2), 100, np.uint8)).tolist()
    [[100.0, 100.0]]
    """
    if len(pixels) == 1:
        return np.asarray(pixels[0])
    return np.asarray(np.tensordot(np.array(LUMINANCE, np.float32), pixels.astype(np.float32), axes=1))
