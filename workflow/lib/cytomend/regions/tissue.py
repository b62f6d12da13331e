"""What shows tissue and what is empty glass.

Stained tissue at cellular resolution is nowhere flat: cell bodies, fibres and neuropil differ. Glass is, but for the
noise of the camera. So the scan is looked at in squares of 32 px, as means over 2 x 2 pixels, which halves the noise:
a square whose values have a standard deviation below 3 % of the value range is blank. On the real cortex tile and on
phantoms the flattest square of tissue has 4 to 6 %, and the blurred outermost planes of the real focus stack still
count as tissue. The rule knows no colour of glass, so that scans with black or masked ground are served too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomend.values import ValueRange

SQUARE_PX = 32
BLANK_CONTRAST = 0.03


def tissue_share(pixels: NDArray[Any], value_range: ValueRange, intact: NDArray[np.bool_] | None = None) -> float:
    """Return the share of squares that are not blank.

    Parameters
    ----------
    pixels : (C, h, w), at least 2 px a side; a rim that fills no square is left out
    value_range : the scanner's values that mean black and white
    intact : (h, w); squares with other pixels do not count; all do by default
    """
    shows, side = tissue_squares(pixels, value_range)
    if intact is not None:
        rows, columns = shows.shape
        shows = shows[intact[: rows * side, : columns * side].reshape(rows, side, columns, side).all((1, 3))]
    return float(shows.mean()) if shows.size else 0.0


def tissue_squares(pixels: NDArray[Any], value_range: ValueRange) -> tuple[NDArray[np.bool_], int]:
    """Return which squares are not blank, (h // side, w // side), and their side in px.

    Parameters
    ----------
    pixels, value_range : as for `tissue_share`
    """
    height, width = pixels.shape[1:]
    side = min(SQUARE_PX, height, width) // 2 * 2
    rows, columns = height // side, width // side
    contrast = np.zeros((rows, columns), np.float32)
    for row in range(rows):  # in float32 one row of squares at a time
        grey = pixels[:, row * side : (row + 1) * side, : columns * side].mean(0, dtype=np.float32)
        halved = grey.reshape(side // 2, 2, columns * side // 2, 2).mean((1, 3))
        contrast[row] = halved.reshape(side // 2, columns, side // 2).std((0, 2))
    return contrast >= BLANK_CONTRAST * (value_range[1] - value_range[0]), side
