"""Orientation: whether a fill has a common direction, and whether it is that of the tissue around it.

Cells and fibres of the cortex have a direction. Pyramidal cells point to the surface, and columns run with them. A fill
whose cells point anywhere has the right number of cells and still looks wrong.

The structure tensor [1]_ is the product of the grey gradient with itself. Its trace is the energy of the gradient. The
rest is a vector with twice the angle of the lines (`vector`), so that directions that differ by 180° are equal, and
directions that differ by 90° cancel. Both are sums over pixels: vectors and energies of trials pool by adding up.

References
----------
.. [1] J. Bigün, G. H. Granlund, Optimal orientation detection of linear symmetry, Proc. 1st ICCV (1987) 433-438.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import structure_tensor

from cytomend.evaluation.statistics import Ratio

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

SMOOTH_UM = 1.5
"""Sigma of the Gaussian before the gradient: noise of single pixels has no direction."""
LOCAL_UM = 6.0
"""Sigma within which the local coherence looks for one direction: about one cell body."""
GAP_UM, RIM_UM = 4.0, 32.0
"""The rim: known pixels at this distance from the mask. In the gap, gradients still see the fill."""

ORIENTATION_STATISTICS = {
    "local coherence": Ratio("local_oriented", "local_energy", ""),
    "direction strength": Ratio("oriented", "gradient_energy", ""),
    "direction kept": Ratio("kept", "kept_possible", ""),
    "direction of the rim": Ratio("rim_shared", "rim_possible", ""),
}
"""By name. ``local coherence``: how far gradients within `LOCAL_UM` share one direction, from 0 to 1. ``direction
strength``: the same over the whole mask. ``direction kept``: mean of cos 2a, where a is the angle between the fill's
direction and the original's: 1 for the same, 0 for any, -1 for the perpendicular. ``direction of the rim``: the same
against the rim of the picture. The last two weigh trials by the length of the vector that they are compared with."""

VECTOR_SUMS = ("orient_cos", "orient_sin", "rim_orient_cos", "rim_orient_sin", "rim_gradient_energy")
"""Sums that are no part of a ratio: the vectors themselves, for pooling, see `direction_deg`."""


def orientation_sums(
    picture: NDArray[np.generic], original: NDArray[np.generic], mask: Mask, pixel_size_um: float
) -> dict[str, float]:
    """Return the sums of `ORIENTATION_STATISTICS` and `VECTOR_SUMS` for one picture.

    Parameters
    ----------
    picture, original : (Y, X) grey
    mask : (Y, X), where to measure; the rim lies around it
    pixel_size_um : side of a pixel in µm
    """
    field, rim = tensor_field(picture, pixel_size_um), rim_of(mask, pixel_size_um)
    own, around, energies = vector(field, mask), vector(field, rim), field[2]
    before = own if picture is original else vector(tensor_field(original, pixel_size_um), mask)
    local = local_sums(field, mask, pixel_size_um)
    return {
        "orient_cos": float(own[0]),
        "orient_sin": float(own[1]),
        "gradient_energy": float(energies[mask].sum()),
        "oriented": float(np.hypot(*own)),
        "local_oriented": local[0],
        "local_energy": local[1],
        "kept": along(own, before),
        "kept_possible": float(np.hypot(*before)),
        "rim_shared": along(own, around),
        "rim_possible": float(np.hypot(*around)),
        "rim_orient_cos": float(around[0]),
        "rim_orient_sin": float(around[1]),
        "rim_gradient_energy": float(energies[rim].sum()),
    }


def tensor_field(picture: NDArray[np.generic], pixel_size_um: float) -> Float:
    """Return the structure tensor of every pixel, (3, Y, X), as cosine and sine of twice the lines' angle, and energy.

    Nothing is averaged over neighbours, so that a sum over some pixels knows of those alone and of the next ones.
    """
    smooth = ndimage.gaussian_filter(picture.astype(np.float64), SMOOTH_UM / pixel_size_um)
    rows, mixed, columns = structure_tensor(  # type: ignore[no-untyped-call]
        smooth, sigma=0, mode="nearest", order="rc"
    )
    # Lines run across the gradient. On the screen y points up, in an array down.
    return np.stack([rows - columns, 2 * mixed, rows + columns]) / pixel_size_um**2


def vector(field: Float, where: Mask) -> Float:
    """Return the summed vector (2,) of twice the lines' angle, of the pixels ``where``."""
    return np.asarray(field[:2, where].sum(1))


def direction_deg(cosine: float, sine: float) -> float:
    """Return the angle of the lines of a summed vector: from the horizontal, anticlockwise on the screen, in [0, 180).

    Examples
    --------
    >>> direction_deg(0.0, 2.0)
    45.0
    """
    return float(np.rad2deg(np.arctan2(sine, cosine)) / 2 % 180)


def along(own: Float, other: Float) -> float:
    """Return the other vector's length times the cosine of the angle between them; 0 where one has no direction."""
    length = float(np.hypot(*own))
    return float(own @ other) / length if length > 0 else 0.0


def local_sums(field: Float, mask: Mask, pixel_size_um: float) -> tuple[float, float]:
    """Return the lengths of the vectors averaged within `LOCAL_UM`, and the energies, both summed over the mask."""
    cosine, sine, energy = (ndimage.gaussian_filter(part * mask, LOCAL_UM / pixel_size_um) for part in field)
    return float(np.hypot(cosine, sine)[mask].sum()), float(energy[mask].sum())


def rim_of(mask: Mask, pixel_size_um: float) -> Mask:
    """Return the known pixels between `GAP_UM` and `RIM_UM` from the mask."""
    if not mask.any():
        return np.zeros_like(mask)
    far_um = ndimage.distance_transform_edt(~mask) * pixel_size_um
    return np.asarray((far_um > GAP_UM) & (far_um <= RIM_UM))
