"""How deep a region is, and how much tissue there is around it: what can be known of its middle from its surroundings.

Both are measured on the finest level of the pyramid on which the surroundings fit into `LOOKED_PX`, so that memory is
bounded whatever the size of a region. On a coarser level a pixel is mended if any pixel below it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.geometry import Box
from cytomend.regions.annotation import Masked
from cytomend.regions.plan import SectionFacts
from cytomend.regions.tissue import tissue_squares
from cytomend.report.corrected import CorrectedSection
from cytomend.report.outlines import at_level
from cytomend.report.rim import RIM_UM

LOOKED_PX = 2048
"""Longer side of the level on which a region's surroundings are looked at."""
TILE_PX = 256
"""Side of the tiles of this level that are read at once: some squares of `cytomend.regions.tissue`."""
READ_PX = 2048
"""Side of the tiles of level 0 in which damage that was left is read."""

Mask = NDArray[np.bool_]


class Surroundings(NamedTuple):
    """What lies around a region.

    Attributes
    ----------
    depth_um : radius of the largest disc that fits into the region and its neighbours; how far its middle lies from
        intact tissue
    tissue_um2 : intact tissue within the region's box, widened on each side by the side of a square of its
        area, at least by the rim
    """

    depth_um: float
    tissue_um2: float


def surroundings(
    region: int,
    box: Box,
    area_um2: float,
    corrected: CorrectedSection,
    facts: SectionFacts,
    artefacts: Masked | None = None,
) -> Surroundings:
    """Return what lies around a region.

    Parameters
    ----------
    region, box, area_um2 : of the region
    corrected, facts : the section
    artefacts : pixels that are no tissue although nothing was mended there
    """
    reach_px = math.ceil(max(math.sqrt(area_um2), RIM_UM) / facts.pixel_size_um)
    wanted = box.grow(reach_px).clip(facts.shape)
    level = 0
    while max(at_level(wanted, level).shape) > LOOKED_PX and level < len(corrected.labels) - 1:
        level += 1
    around, side_um = at_level(wanted, level).intersect(corrected.whole(level)), facts.pixel_size_um * 2**level
    own, mended, shows = _looked_at(region, around, level, corrected, facts)
    tissue = shows & ~mended
    if artefacts is not None:
        tissue &= ~_reduced(artefacts, around, level, facts.shape)
    return Surroundings(_depth_px(own, mended) * side_um, float(tissue.sum()) * side_um**2)


def _looked_at(
    region: int, around: Box, level: int, corrected: CorrectedSection, facts: SectionFacts
) -> tuple[Mask, Mask, Mask]:
    """Return which pixels of a box of a level are the region's, are mended, and lie in squares that show tissue."""
    own, mended, shows = np.zeros((3, *around.shape), dtype=bool)
    for tile in around.tiles(TILE_PX):
        at, labels = tile.relative_to(around).slices, corrected.read_labels(tile, level)
        own[at], mended[at] = labels == region, labels > 0
        shows[at] = _tissue(corrected.read(tile, level), facts)
    return own, mended, shows


def _depth_px(own: Mask, mended: Mask) -> float:
    """Return how far a region's deepest pixel lies from the nearest that was not mended; 0 if none is seen."""
    if not own.any() or mended.all():
        return 0.0
    return float(ndimage.distance_transform_edt(mended)[own].max())


def _tissue(pixels: NDArray[np.generic], facts: SectionFacts) -> Mask:
    """Return which pixels lie in squares that show tissue; those beyond the last whole square count with it."""
    shape = pixels.shape[1:]
    if min(shape) < 2:
        return np.ones(shape, dtype=bool)
    squares, side = tissue_squares(pixels, facts.value_range)
    rows, columns = (np.minimum(np.arange(n) // side, m - 1) for n, m in zip(shape, squares.shape, strict=True))
    return np.asarray(squares[rows[:, None], columns])


def _reduced(artefacts: Masked, around: Box, level: int, shape: tuple[int, int]) -> Mask:
    """Return artefacts on a level: those of the pixels at the corners of its squares."""
    step, found = 2**level, np.zeros(around.shape, dtype=bool)
    for tile in around.tiles(max(READ_PX // step, 1)):
        fine = Box(tile.y0 * step, tile.x0 * step, tile.y1 * step, tile.x1 * step).clip(shape)
        damaged = artefacts.read(fine)[::step, ::step]
        at = tile.relative_to(around)
        found[at.y0 : at.y0 + damaged.shape[0], at.x0 : at.x0 + damaged.shape[1]] = damaged
    return found
