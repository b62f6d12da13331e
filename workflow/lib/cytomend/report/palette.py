"""The colours of the layer ``origin``: one for drawn pixels, three cool ones for copies, so that neighbours differ."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytomend.grafts.record import DRAWN, DRAWN_COLOUR, FIRST, GRAFT_COLOURS

Colour = tuple[int, int, int]

DRAWN_RGB: Colour = (DRAWN_COLOUR[0], DRAWN_COLOUR[1], DRAWN_COLOUR[2])
COPIED_RGB: tuple[Colour, ...] = tuple((red, green, blue) for red, green, blue, _ in GRAFT_COLOURS)


def origin_colours(grafts: pd.DataFrame) -> NDArray[np.uint8]:
    """Return the colour of each value of the label ``origin``, (2 + n, 3); black for 0, which is not shown.

    Parameters
    ----------
    grafts : the table of n grafts, see `cytomend.grafts.record`
    """
    colours = np.zeros((FIRST + len(grafts), 3), np.uint8)
    colours[DRAWN] = DRAWN_RGB
    colours[FIRST:] = np.array(COPIED_RGB, np.uint8)[graft_turns(grafts)]
    return colours


def graft_turns(grafts: pd.DataFrame) -> NDArray[np.intp]:
    """Return which of the colours of copies each graft takes, (n,).

    Row by row, each graft takes the colour that overlaps least with it among the grafts before it. Blocks that lie side
    by side overlap much, and those at a corner little, so that blocks side by side on a lattice differ.
    """
    turns = np.zeros(len(grafts), np.intp)
    table = grafts[["y", "x", "side_px"]].to_numpy(np.int64)
    regions = grafts["region"].to_numpy(np.int64)
    for region in np.unique(regions):
        own = np.flatnonzero(regions == region)
        rows = own[np.lexsort((table[own, 1], table[own, 0]))]
        for place, row in enumerate(rows):
            before = rows[:place]
            shared = _overlap_px(table[row], table[before])
            sums = np.bincount(turns[before], weights=shared, minlength=len(COPIED_RGB))
            # Where nothing overlaps, colours take turns.
            turns[row] = min(range(len(COPIED_RGB)), key=lambda turn: (sums[turn], (turn - place) % len(COPIED_RGB)))
    return turns


def _overlap_px(block: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the area that a block (y, x, side) shares with each of the others, (n, 3)."""
    starts = np.maximum(block[:2], others[:, :2])
    ends = np.minimum(block[:2] + block[2], others[:, :2] + others[:, 2:])
    return np.asarray(np.maximum(ends - starts, 0).prod(axis=1), np.int64)
