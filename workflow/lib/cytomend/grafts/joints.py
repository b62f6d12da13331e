"""Joints: the pixels of a filled hole that the network draws, on either side of every cut and inside the outline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def joints(number: NDArray[np.uint32], hole: Mask, width_px: float) -> Mask:
    """Return which pixels of a hole lie within ``width_px`` of another graft or of the outline, or have no graft.

    Parameters
    ----------
    number : (H, W), which graft each pixel came from, 0 outside of the hole
    hole : (H, W)
    width_px : of a joint, on either side of a cut
    """
    beside = np.zeros(hole.shape, dtype=bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = number[one] != number[other]
        beside[one] |= differs
        beside[other] |= differs
    far = ndimage.distance_transform_edt(~beside) if beside.any() else np.full(hole.shape, np.inf)
    return np.asarray(hole & ((far < width_px) | (number == 0)))
