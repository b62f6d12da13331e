"""The outline of marked pixels as the path of an SVG drawing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.measure import approximate_polygon, find_contours

from cytomend.geometry import Box

TOLERANCE_PX = 0.4
"""An outline departs from the pixels' edges by less than half a pixel."""


def outline(mask: NDArray[np.bool_], *, origin: tuple[float, float] = (0, 0), scale: float = 1) -> str:
    """Return the path around the marked pixels, holes included, to be filled by the rule `evenodd`.

    Parameters
    ----------
    mask : (h, w)
    origin : (y, x) of the mask's corner
    scale : units of the drawing a pixel

    Returns
    -------
    str
        Coordinates, x before y, with pixel (0, 0) reaching from 0 to ``scale``; empty if nothing is marked.

    Examples
    --------
    >>> outline(np.ones((1, 1), dtype=bool))
    'M0.5 1L0 0.5L0.5 0L1 0.5Z'
    """
    # A rim of nothing closes the outlines of pixels at the border.
    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5, fully_connected="high")  # type: ignore[no-untyped-call]
    simple = (approximate_polygon(contour, TOLERANCE_PX) for contour in contours)  # type: ignore[no-untyped-call]
    return "".join(_closed((points - 0.5 + origin) * scale) for points in simple)


def box_outline(box: Box, scale: float) -> str:
    """Return the path around a box of level-0 pixels."""
    corners = np.array([(box.y0, box.x0), (box.y0, box.x1), (box.y1, box.x1), (box.y1, box.x0), (box.y0, box.x0)])
    return _closed(corners * scale)


def _closed(points: NDArray[np.float64]) -> str:
    """Return a closed path through (n, 2) points (y, x), the last of which repeats the first."""
    return "M" + "L".join(f"{round(x, 1):g} {round(y, 1):g}" for y, x in points[:-1]) + "Z"
