"""Stripes: bands along the rows or columns of the scan that were lit or stitched otherwise.

The ground, as a share of that within half a millimetre, is averaged along rows, and along columns, over a millimetre.
Nothing in tissue keeps to the scan's axes for that long, but laminae that happen to; so a stripe must also have an even
width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cytomend.screening.ground import HALO_UM, LATTICE, Ground
from cytomend.screening.light import Floats
from cytomend.screening.tiles import Seen, Tile

REACH_UM = 480.0
MOST = 0.25
LIMIT = 0.06
"""Of the ground around, by how much a stripe differs on the average."""


def see_stripes(tile: Tile, ground: Ground) -> list[Seen]:
    """Return light and dark bands of a tile along rows and along columns: four maps."""
    share = np.where(ground.outside, 0, ground.here / ground.around - 1).clip(-MOST, MOST)
    steps = np.rint(share * 10_000).astype(np.int64)
    reach = tile.scale.steps(REACH_UM, LATTICE)
    seen = []
    for axis in (0, 1):
        mean = _along(steps, reach, axis)
        for sign, name in ((1, "light"), (-1, "dark")):
            evidence = (sign * mean / LIMIT).astype(np.float32)
            mask = (evidence >= 1) & ~ground.outside
            kind = f"stripe {name} {axis}"
            one = Seen(kind, LATTICE, mask, evidence, mask, np.zeros_like(mask))
            seen.append(one.cropped(tile.margin(HALO_UM, LATTICE)))
    return seen


def _along(steps: NDArray[np.int64], reach: int, axis: int) -> Floats:
    """Return means of whole numbers along an axis, as shares; zero nearer to the rim than they reach."""
    values = np.moveaxis(steps, axis, -1)
    added = np.cumsum(values, -1)
    sums = np.zeros_like(added)
    sums[:, reach:-reach] = added[:, 2 * reach :] - added[:, : -2 * reach]
    return np.asarray(np.moveaxis(sums, -1, axis) / (2 * reach * 10_000), np.float32)
