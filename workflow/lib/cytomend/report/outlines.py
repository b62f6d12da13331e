"""The outline of marked pixels as the path of a drawing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.measure import approximate_polygon, find_contours

from cytomend.geometry import Box
from cytomend.regions.plan import Plan, SectionFacts
from cytomend.report.corrected import CorrectedSection
from cytomend.report.regions import RegionFacts

TOLERANCE_PX = 0.4
"""An outline departs from the pixels' edges by less than half a pixel."""

TRACED_PX = 2048
"""Longer side of the level on which a region is traced."""

LONGEST_PATH = 6000
"""Characters of a path; a longer one is drawn more simply, so that a page with many regions stays small."""


def region_outline(region: RegionFacts, corrected: CorrectedSection, facts: SectionFacts) -> str:
    """Return the path around a region's mended pixels, in half pixels of the scan.

    A region longer than `TRACED_PX` is traced on the finest level on which it is not, so that a tear of a centimetre
    does not fill the memory; which pixels are mended is told by the tiles, to the pixel.
    """
    level = 0
    while max(at_level(region.box, level).shape) > TRACED_PX and level < len(corrected.labels) - 1:
        level += 1
    box = at_level(region.box, level)
    own = corrected.read_labels(box, level) == region.number
    tolerance_px, scale = TOLERANCE_PX, 2**level
    path = outline(own, (box.y0, box.x0), scale, tolerance_px)
    while len(path) > LONGEST_PATH:
        tolerance_px *= 2
        path = outline(own, (box.y0, box.x0), scale, tolerance_px)
    # On a coarse level a larger neighbour's number may stand in all of a small region's pixels.
    return path or box_outline(region.box.clip(facts.shape))


def left_outline(region: RegionFacts, plan: Plan) -> str:
    """Return the path around a region that stays as it was scanned; of a large one, around its box."""
    box = region.box.clip(plan.facts.shape)
    if max(box.shape) > TRACED_PX:
        return box_outline(box)
    return outline(np.asarray(plan.labels[box.slices]) == region.number, (box.y0, box.x0))


def outline(
    mask: NDArray[np.bool_], origin: tuple[int, int] = (0, 0), scale: int = 1, tolerance_px: float = TOLERANCE_PX
) -> str:
    """Return the path around the marked pixels, holes included, to be filled by the rule `evenodd`.

    Parameters
    ----------
    mask : (h, w)
    origin : (y, x) of the mask's corner
    scale : pixels of the scan a pixel of the mask
    tolerance_px : how far the path may leave the edge, in pixels of the mask

    Returns
    -------
    str
        Steps in half pixels of the scan, x before y; empty if nothing is marked.

    Examples
    --------
    >>> outline(np.ones((1, 1), dtype=bool))
    'm1 2l-1 -1 1 -1 1 1z'
    """
    # A rim of nothing closes the outlines of pixels at the border.
    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5, fully_connected="high")  # type: ignore[no-untyped-call]
    simple = (approximate_polygon(contour, tolerance_px) for contour in contours)  # type: ignore[no-untyped-call]
    # A ring of which two points are left over encloses nothing.
    return _path([np.rint((points - 0.5 + origin) * (2 * scale)).astype(int) for points in simple if len(points) > 3])


def box_outline(box: Box) -> str:
    """Return the path around a box, in half pixels.

    >>> box_outline(Box(0, 0, 1, 2))
    'm0 0l4 0 0 2 -4 0z'
    """
    corners = [(box.y0, box.x0), (box.y0, box.x1), (box.y1, box.x1), (box.y1, box.x0), (box.y0, box.x0)]
    return _path([2 * np.array(corners)])


def at_level(box: Box, level: int) -> Box:
    """Return the pixels of a level that a box of level 0 touches."""
    side = 2**level
    return Box(box.y0 // side, box.x0 // side, -(-box.y1 // side), -(-box.x1 // side))


def _path(rings: list[NDArray[np.int_]]) -> str:
    """Return a path through rings of (n, 2) points (y, x), the last of which repeats the first.

    A closed ring ends where it began; from there the next one starts.
    """
    path, at = "", np.zeros(2, dtype=int)
    for points in rings:
        first, steps = points[0] - at, np.diff(points[:-1], axis=0)
        path += f"m{first[1]} {first[0]}l" + " ".join(f"{x} {y}" for y, x in steps) + "z"
        at = points[0]
    return path
