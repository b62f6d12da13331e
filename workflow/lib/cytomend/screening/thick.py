"""Where the ground of the tissue is darker than around it: folds, and drops of stain.

A second layer of tissue darkens the ground by a tenth to a third, a drop of stain by a fifth and more. The ground is
smoothed over 14 µm and compared with the median within half a millimetre, so that areas and layers of another density
of cells are no folds.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cytomend.screening.ground import HALO_UM, LATTICE, Ground
from cytomend.screening.light import Bools
from cytomend.screening.tiles import Seen, Tile

SMOOTH_UM = 12.0
LIMIT = 0.11
"""Of the ground around, how much darker."""
SEED = 1.7
"""Evidence that some square of a proposal must have."""


def see_thick(tile: Tile, ground: Ground, otherwise: Bools) -> Seen:
    """Return the places of a tile whose ground is darker than that around them.

    Parameters
    ----------
    tile : part of a section
    ground : of the tile
    otherwise : squares of the core that another class explains: a bubble, a stripe, a place out of focus
    """
    smooth = ndimage.gaussian_filter(ground.here, tile.scale.sigma(SMOOTH_UM, LATTICE), mode="nearest", truncate=3)
    evidence = np.where(ground.outside, 0, (1 - smooth / ground.around) / LIMIT).astype(np.float32)
    mask = evidence >= 1
    seen = Seen("thick", LATTICE, mask, evidence, evidence >= SEED, np.zeros_like(mask))
    return seen.cropped(tile.margin(HALO_UM, LATTICE)).without(otherwise)
