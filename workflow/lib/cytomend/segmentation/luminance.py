"""How bright colours are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (Rec. 601)."""


def luminance(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return (3, h, w) pixels by their luminance, (h, w).

    >>> luminance(np.full((3, 1, 2), 100, np.uint8)).tolist()
    [[100.0, 100.0]]
    """
    return np.asarray(np.tensordot(np.array(LUMINANCE, np.float32), pixels.astype(np.float32), axes=1))
