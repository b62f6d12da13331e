"""Whether the cells beside the mask are still where they were: the rim, whose pixels mending does not touch.

A cell of the rim may reach into the mask, and what was mended there decides whether it still has one body of the same
size in the same place. A filler that leaves a seam cuts such cells, moves their centres, or splits them.

The matching is one to one, as many cells as possible within `REACH_UM` of each other and, among such matchings, that of
the least total distance (`scipy.optimize.linear_sum_assignment`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cytomend.evaluation.arrangement import lying_in
from cytomend.evaluation.statistics import Ratio

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

RIM_UM = 16.0
REACH_UM = 4.0

RIM_STATISTICS = {
    "rim matched": Ratio("rim_matched", "rim_cells", ""),
    "rim displacement": Ratio("rim_displacement_um", "rim_matched", "µm"),
    "rim area change": Ratio("rim_area_change", "rim_matched", ""),
    "rim new": Ratio("rim_new", "rim_cells", ""),
}
"""By name. ``rim matched``: share of the original's cells in the rim that are found again. ``rim area change``: mean
of |area after - before| / before. ``rim new``: cells of the filled picture in the rim that no cell of the original
beside the mask stands for, per cell of the original."""


def rim_sums(original_cells: Float, filled_cells: Float, mask: Mask, pixel_size_um: float) -> dict[str, float]:
    """Return the sums of `RIM_STATISTICS` for one trial; they pool by adding up.

    Parameters
    ----------
    original_cells, filled_cells : (n, 3), (m, 3), y_um, x_um and area_um2 of all cells of either picture
    mask : (Y, X), what was filled
    pixel_size_um : side of a pixel in µm
    """
    rim = rim_of(mask, pixel_size_um)
    # Cells of the mask are gone, nobody looks for them; those beyond the rim keep their own from being taken for new.
    known = original_cells[~lying_in(original_cells, mask, pixel_size_um)]
    in_rim = lying_in(known, rim, pixel_size_um)
    before, after = match_cells(known, filled_cells, REACH_UM)
    new = lying_in(filled_cells, rim, pixel_size_um)
    new[after] = False
    before, after = before[in_rim[before]], after[in_rim[before]]
    area_before, area_after = known[before, 2], filled_cells[after, 2]
    return {
        "rim_cells": float(in_rim.sum()),
        "rim_matched": float(len(before)),
        "rim_displacement_um": float(np.hypot(*(known[before, :2] - filled_cells[after, :2]).T).sum()),
        "rim_area_change": float((np.abs(area_after - area_before) / area_before).sum()),
        "rim_new": float(new.sum()),
    }


def rim_of(mask: Mask, pixel_size_um: float) -> Mask:
    """Return the ring of known pixels within `RIM_UM` of the mask."""
    if not mask.any():
        return np.zeros_like(mask)
    far_um = ndimage.distance_transform_edt(~mask) * pixel_size_um
    return np.asarray(~mask & (far_um <= RIM_UM))


def match_cells(a: Float, b: Float, reach_um: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of matched cells in both tables, which have y_um and x_um first."""
    apart = cdist(a[:, :2], b[:, :2])
    # A pair out of reach costs more than all pairs within it, so that no such pair is left to chance.
    beyond = (min(apart.shape) + 1) * reach_um
    first, second = linear_sum_assignment(np.where(apart <= reach_um, apart, beyond))
    near = apart[first, second] <= reach_um
    return first[near], second[near]
