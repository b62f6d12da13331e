"""The direction in which cells and fibres run, inside a region and in its rim: the structure tensor (Bigun 1987).

Gradients of the smoothed picture are squared and added up over a mask. Two numbers are left, the components of the
doubled angle over the trace: their length, the *coherence*, is 0 where no direction prevails and 1 in stripes. They add
up over parts, so that a large region is measured as a small one is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.report.rim import Part

SMOOTH_UM = 1.5
"""Standard deviation of the Gaussian before the gradient: below the size of a cell body, above the grain."""
GUARD = 3.0
"""In standard deviations: so far from the outline and from damage the gradient knows nothing of the other side."""

ORIENTATION_SUMS = tuple(
    f"{where}_{what}" for where in ("own", "rim") for what in ("px", "across", "diagonal", "trace")
)
"""What is added up over parts: pixels, and the entries of the tensor Jyy - Jxx, 2 Jxy and Jyy + Jxx."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """Which way structures run over ``area_um2``: ``across`` and ``diagonal`` are the doubled angle's components.

    ``across`` is 1 for horizontal lines and -1 for vertical ones, ``diagonal`` 1 for lines that rise to the right.
    """

    area_um2: float
    across: float
    diagonal: float

    @classmethod
    def of(cls, area_um2: float, across: float, diagonal: float, trace: float) -> Self | None:
        """Return the orientation that sums tell, or None where nothing varies."""
        return cls(area_um2, across / trace, diagonal / trace) if trace > 0 else None

    @property
    def coherence(self) -> float:
        """How strongly one direction prevails, from 0 to 1."""
        return math.hypot(self.across, self.diagonal)

    @property
    def degrees(self) -> float:
        """The direction in degrees from the horizontal, counterclockwise, from 0 to below 180.

        >>> Orientation(1.0, 0.2, 0.0).degrees, Orientation(1.0, -0.2, 0.0).degrees, Orientation(1.0, 0.0, 0.2).degrees
        (0.0, 90.0, 45.0)
        """
        return math.degrees(math.atan2(self.diagonal, self.across)) / 2 % 180

    def apart(self, other: Orientation) -> float:
        """Return the distance of the two pairs of components: 0 for equals, twice the coherence at right angles."""
        return math.hypot(self.across - other.across, self.diagonal - other.diagonal)


def orientation_sums(part: Part, pixel_size_um: float) -> NDArray[np.float64]:
    """Return the sums of a part, in the order of `ORIENTATION_SUMS`."""
    sigma_px = SMOOTH_UM / pixel_size_um
    smooth = ndimage.gaussian_filter(part.pixels.astype(np.float32), sigma_px)
    down, right = (np.asarray(slope, np.float64) for slope in np.gradient(smooth))
    tensor = down**2 - right**2, 2 * down * right, down**2 + right**2
    sums = list[float]()
    for mask, allowed in ((part.own, part.own), (part.rim, part.intact & ~part.own)):
        deep = mask & (ndimage.distance_transform_edt(allowed) > GUARD * sigma_px)
        inside = deep[part.within]
        sums += [float(inside.sum()), *(float(values[part.within][inside].sum()) for values in tensor)]
    return np.array(sums)


def orientations(sums: NDArray[np.float64], pixel_size_um: float) -> tuple[Orientation | None, Orientation | None]:
    """Return the orientation inside and in the rim, None where too little is left to measure."""
    own, rim = sums.reshape(2, 4)
    area_um2 = pixel_size_um**2
    return Orientation.of(own[0] * area_um2, *own[1:]), Orientation.of(rim[0] * area_um2, *rim[1:])
