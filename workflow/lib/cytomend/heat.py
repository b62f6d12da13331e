"""How uncertainty is coloured, in viewers and on pages: one ramp, one scale for all sections of a value range."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cytomend.values import ValueRange

UNCERTAINTY = "uncertainty"
"""Name of the image beside the label ``mended``."""

RAMP = ((26, 18, 84), (110, 30, 140), (196, 60, 110), (244, 130, 60), (255, 236, 130))
"""Dark blue over red to pale yellow, ever lighter: also read in grey, and by the colour blind."""


def uncertainty_scale(value_range: ValueRange) -> float:
    """Return the standard deviation, in grey values, at the upper end of the ramp: a third of the value range.

    That is where a dark cell in one sample and pale ground in another come to; agreement is far below.
    """
    low, high = value_range
    return (high - low) / 3


def heat_colour(share: float) -> tuple[int, int, int]:
    """Return (red, green, blue) at a share of the ramp; beyond its ends, the ends.

    >>> heat_colour(0), heat_colour(2)
    ((26, 18, 84), (255, 236, 130))
    """
    red, green, blue = heat(np.array([share]))[0].tolist()
    return red, green, blue


def heat(shares: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the colours, (..., 3), of shares of the ramp."""
    places = np.linspace(0, 1, len(RAMP))
    parts = [np.interp(shares, places, channel) for channel in zip(*RAMP, strict=True)]
    colours: NDArray[np.uint8] = np.rint(np.stack(parts, axis=-1)).astype(np.uint8)
    return colours
