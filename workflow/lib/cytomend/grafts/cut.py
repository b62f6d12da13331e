"""Where a block ends: the path along which it differs least from what is there already."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP

LEAST_SPEED = 0.05
MOST_DIFFERENCE = 4.0

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


def cut(difference: Float, have: Mask, core_px: int) -> Mask:
    """Return which pixels of a block to take, (s, s).

    Two fronts run through the overlap. One starts from the pixels that only the block has, the other from those that
    lie deep in what is there. They are fast where both differ and slow where they agree, so they meet along a path of
    little difference: the least-error path of image quilting (Efros & Freeman 2001), for an overlap of any shape.

    Parameters
    ----------
    difference : (s, s), between the block and what is there, not negative; not read where nothing is there
    have : (s, s), where something is there
    core_px : how deep in the overlap no pixel of the block is taken
    """
    if not have.any() or have.all():
        return ~have
    depth = ndimage.distance_transform_edt(have)
    core = have & (depth >= min(core_px, max(float(depth.max()) - 1, 1)))
    relative = difference / max(float(difference[have].mean()), 1e-6)
    slowness = 1 / (LEAST_SPEED + np.minimum(relative, MOST_DIFFERENCE))
    return np.asarray(~have | (arrival(slowness, ~have) < arrival(slowness, core)))


def arrival(slowness: Float, start: Mask) -> Float:
    """Return the least sum of slowness on a way from a start pixel, (h, w); 0 within the start."""
    inner = ndimage.binary_erosion(start, border_value=1)
    # Ways begin at the start's rim: MCP takes its starts one by one, and its inside needs none.
    costs = MCP(np.where(inner, -1.0, slowness)).find_costs(np.argwhere(start & ~inner))[0]
    return np.where(start, 0.0, costs)
