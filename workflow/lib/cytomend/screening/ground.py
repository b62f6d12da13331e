"""The ground of the tissue: how light it is between its cells, and how that changes from place to place.

Cell bodies are dark in any section, and more of them in some layers. What tells a second layer of tissue, a drop of
stain or a badly lit strip from a dense layer is the light between the cells: the 90th percentile over 20 µm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cytomend.screening.light import Bools, Floats
from cytomend.screening.survey import BLOCK
from cytomend.screening.tiles import Tile

FINE, LATTICE = 2, 3
HALO_UM = 1024.0
"""A stripe is averaged over 480 µm to each side, of ground that is seen beside that within 448 µm."""
WINDOW_UM = 20.0
SHARE = 90
AROUND_UM = 448.0
NEAR_UM = 96.0


@dataclass(frozen=True, slots=True)
class Ground:
    """The ground of a tile with its halo, on the coarsest lattice.

    Parameters
    ----------
    here : (h, w) float32
        Of each square.
    around : (h, w) float32
        Median within `AROUND_UM`.
    near : (h, w) float32
        Median within `NEAR_UM`.
    outside : (h, w) bool
        Glass, and what is not of the section; its ground is the section's.
    """

    here: Floats
    around: Floats
    near: Floats
    outside: Bools


def ground_of(tile: Tile, inside: Bools) -> Ground:
    """Return the ground of a tile.

    Parameters
    ----------
    tile : part of a section
    inside : survey squares that belong to the section
    """
    scale, survey = tile.scale, tile.survey
    fine = tile.light(FINE, HALO_UM)
    window = 2 * max(1, round(WINDOW_UM / scale.side_um(FINE) / 2)) + 1
    here = blocks_mean(
        ndimage.percentile_filter(fine, SHARE, window, mode="nearest"), scale.factors[LATTICE] // scale.factors[FINE]
    )
    # Glass and what is outside count as common ground, or the rim of every gap would seem dark beside it.
    outside = (here > survey.limit) | ~tile.surveyed(inside, LATTICE, HALO_UM).astype(bool)
    here[outside] = survey.ground
    around, near = (np.maximum(_median(here, scale.sigma(um, LATTICE)), 0.02) for um in (AROUND_UM, NEAR_UM))
    return Ground(here, around, near, outside)


def blocks_mean(values: Floats, count: int) -> Floats:
    """Return means over blocks, added up in whole steps, so that they are the same in any array."""
    if count == 1:
        return values.copy()
    height, width = values.shape
    steps = np.rint(values * 65535).astype(np.int64)
    sums = steps.reshape(height // count, count, width // count, count).sum((1, 3))
    return np.asarray(sums / (65535 * count * count), np.float32)


def _median(values: Floats, radius: float) -> Floats:
    """Return the median within a square, seen in blocks of `BLOCK` values and held over each block."""
    median = ndimage.median_filter(blocks_mean(values, BLOCK), 2 * max(1, round(radius / BLOCK)) + 1, mode="nearest")
    return np.asarray(np.repeat(np.repeat(median, BLOCK, 0), BLOCK, 1), np.float32)
