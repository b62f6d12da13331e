"""How cells are arranged: at which distances they have more or fewer neighbours than chance would give them.

Ripley's K and L and the pair correlation function of all points of a rectangle, and the same question asked inside a
mask: for each cell whose centre lies in it, the neighbours within a radius among all cells of the picture, against as
many as the picture's other cells would send there if they lay anywhere with the same chance. Both counts are sums over
cells, so that trials are pooled by adding them up; under complete randomness their quotient is 1 at every radius.

What chance gives follows from the density of the picture, not of the mask: nothing is divided by itself. A filler that
makes too few cells therefore gives those too few neighbours as well, so that a wrong density shows here too; at the
right density, what shows is the arrangement alone.

References
----------
.. [1] B. D. Ripley, Modelling spatial patterns, J. R. Stat. Soc. B 39 (1977) 172-212.
.. [2] J. Illian, A. Penttinen, H. Stoyan, D. Stoyan, Statistical Analysis and Modelling of Spatial Point Patterns,
   Wiley 2008, ch. 4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

RADII_UM: Float = np.arange(4.0, 41.0, 2.0)
STOYAN = 0.15
"""Bandwidth of the pair correlation's kernel, in mean distances ``1 / sqrt(density)`` (Illian et al., sect. 4.3.3)."""


def neighbour_sums(cells: Float, mask: Mask, pixel_size_um: float, radii_um: Float = RADII_UM) -> tuple[Float, Float]:
    """Return how many neighbours the mask's cells have within each radius, and how many chance would give them.

    Parameters
    ----------
    cells : (n, 2 or more), y_um and x_um of all cells of the picture first
    mask : (Y, X), where to ask; the neighbours may lie outside it
    pixel_size_um : side of a pixel in µm
    radii_um : (R,)

    Returns
    -------
    pairs, expected : (R,) sums over the cells whose centre lies in the mask
        Of a cell's disc only the part that lies in the picture can hold a neighbour, and only that counts.
    """
    places, inside = cells[:, :2], lying_in(cells, mask, pixel_size_um)
    size_um = (mask.shape[0] * pixel_size_um, mask.shape[1] * pixel_size_um)
    apart = cdist(places[inside], places)
    # Every cell lies within any radius of itself.
    pairs = (apart[..., None] <= radii_um).sum((0, 1)) - inside.sum()
    discs_um2 = disc_in_rectangle(places[inside, None], radii_um, size_um).sum(0)
    return pairs.astype(np.float64), discs_um2 * max(len(cells) - 1, 0) / (size_um[0] * size_um[1])


def l_minus_r(pairs: Float, expected: Float, radii: Float = RADII_UM) -> Float:
    """Return Ripley's L minus r, in µm, of pooled sums (..., R): 0 for chance, below where cells keep apart."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(radii * (np.sqrt(pairs / expected) - 1))


def lying_in(cells: Float, mask: Mask, pixel_size_um: float) -> Mask:
    """Return which cells (n,) have their centre in the mask."""
    pixel = np.clip((cells[:, :2] / pixel_size_um).astype(np.int64), 0, np.array(mask.shape) - 1)
    return np.asarray(mask[pixel[:, 0], pixel[:, 1]])


def disc_in_rectangle(centres: Float, radii: Float, size: tuple[float, float]) -> Float:
    """Return the area of the part of each disc that lies in the rectangle.

    Parameters
    ----------
    centres : (..., 2), within the rectangle
    radii : broadcast against the centres
    size : height and width of the rectangle, whose corner is the origin
    """
    y, x = centres[..., 0], centres[..., 1]
    return np.asarray(sum(quarter_in_corner(h, w, radii) for h in (y, size[0] - y) for w in (x, size[1] - x)))


def quarter_in_corner(height: Float, width: Float, radius: Float) -> Float:
    """Return the area of the quarter disc about a rectangle's corner that lies in the rectangle."""
    height, width = (np.clip(side, 0, radius) for side in (height, width))
    # Up to where the circle comes below the rectangle's top, the top is the bound; from there on the circle.
    bend = np.minimum(np.sqrt(radius**2 - height**2), width)
    return np.asarray(height * bend + under_circle(width, radius) - under_circle(bend, radius))


def under_circle(x: Float, radius: Float) -> Float:
    """Return the area between the axis and the circle about the origin, from 0 to x."""
    return np.asarray((x * np.sqrt(radius**2 - x**2) + radius**2 * np.arcsin(x / radius)) / 2)


def ripley_k(points: Float, size: tuple[float, float], radii: Float) -> Float:
    """Return Ripley's K of a point pattern in a rectangle, corrected for its edges by translation.

    A pair counts as many times as there are places in the rectangle for one like it: without bias for every
    homogeneous pattern, isotropic or not, for radii below the shorter side (Illian et al., sect. 4.3.3).

    Parameters
    ----------
    points : (n, 2) of at least two points; y and x from the rectangle's corner
    size : height and width of the rectangle
    radii : (R,), ascending
    """
    apart, weight = weighted_pairs(points, size, float(radii[-1]))
    within = np.searchsorted(radii, apart)
    return np.bincount(within, weight, len(radii) + 1)[:-1].cumsum()


def ripley_l(points: Float, size: tuple[float, float], radii: Float) -> Float:
    """Return ``sqrt(K / pi)``, which is the radius itself for chance."""
    return np.asarray(np.sqrt(ripley_k(points, size, radii) / np.pi))


def pair_correlation(points: Float, size: tuple[float, float], radii: Float, bandwidth: float | None = None) -> Float:
    """Return the pair correlation function g, the density of pairs at a distance over that of chance.

    Epanechnikov's kernel over the distances of pairs. Each pair is divided by its own distance, not by the radius it is
    counted for: otherwise g grows without limit towards radius 0.

    Parameters
    ----------
    points, size, radii : as for `ripley_k`; the radii in any order, greater than the bandwidth
    bandwidth : half width of the kernel; by default Stoyan's rule, see `STOYAN`
    """
    h = STOYAN * np.sqrt(size[0] * size[1] / len(points)) if bandwidth is None else bandwidth
    apart, weight = weighted_pairs(points, size, float(radii.max()) + h)
    kernel = 0.75 / h * np.clip(1 - ((radii[:, None] - apart) / h) ** 2, 0, None)  # (R, pairs)
    return np.asarray(kernel @ (weight / (2 * np.pi * apart)))


def weighted_pairs(points: Float, size: tuple[float, float], reach: float) -> tuple[Float, Float]:
    """Return the distances of all pairs up to ``reach``, and what each adds to K: weights of both its orders."""
    first, second = cKDTree(points).query_pairs(reach, output_type="ndarray").T
    dy, dx = np.abs(points[first] - points[second]).T
    area, n = size[0] * size[1], len(points)
    # n (n - 1) / area² is the unbiased estimate of the squared density, for points in given number.
    weight = 2 * area**2 / (n * (n - 1)) / ((size[0] - dy) * (size[1] - dx))
    return np.hypot(dy, dx), weight
