"""Closed contours as elliptic Fourier descriptors (Kuhl & Giardina 1982).

A contour of order N is::

    x(t) = x0 + sum_k a_k cos(2 pi k t) + b_k sin(2 pi k t)
    y(t) = y0 + sum_k c_k cos(2 pi k t) + d_k sin(2 pi k t),    k = 1..N, t in [0, 1)

with ``t`` the share of the perimeter that has been walked. Where the walk begins is fixed by the first ellipse: it
begins at +x and goes on towards +y, so that like shapes have like descriptors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


class Descriptors(NamedTuple):
    """``centre`` (2,) is (y0, x0); ``coefficients`` (N, 4) are a, b, c, d of each order."""

    centre: Float
    coefficients: Float

    def contour(self, points: int) -> Float:
        """Return (points, 2) of (y, x) at equal steps of t."""
        angle = 2 * np.pi * np.outer(np.arange(points) / points, np.arange(1, len(self.coefficients) + 1))
        cos, sin = np.cos(angle), np.sin(angle)
        a, b, c, d = self.coefficients.T
        return np.asarray(self.centre + np.stack([cos @ c + sin @ d, cos @ a + sin @ b], axis=1))

    def area(self) -> float:
        """Return the area enclosed, by Green's theorem."""
        a, b, c, d = self.coefficients.T
        return float(np.pi * np.sum(np.arange(1, len(a) + 1) * (a * d - b * c)))

    def began_at(self, t: float) -> Descriptors:
        """Return the same contour, begun at t."""
        angle = 2 * np.pi * t * np.arange(1, len(self.coefficients) + 1)
        cos, sin = np.cos(angle), np.sin(angle)
        a, b, c, d = self.coefficients.T
        turned = [a * cos + b * sin, b * cos - a * sin, c * cos + d * sin, d * cos - c * sin]
        return Descriptors(self.centre, np.stack(turned, axis=1))


def describe(polygon: NDArray[np.floating], order: int) -> Descriptors:
    """Return the descriptors of a polygon, in closed form.

    Parameters
    ----------
    polygon : (n, 2) points (y, x), the first not repeated, in either sense of rotation
    order : number of harmonics

    Examples
    --------
    >>> t = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    >>> circle = describe(np.stack([7 + 3 * np.sin(t), 5 + 3 * np.cos(t)], axis=1), 2)
    >>> circle.centre.round(2), abs(circle.coefficients[0].round(2))
    (array([7., 5.]), array([3., 0., 0., 3.]))
    """
    points = _towards_plus_y(np.asarray(polygon, np.float64))
    steps, t = _walk(points)
    length = np.diff(t)
    # A polygon's x(t) is made of straight pieces: the integral over each has a closed form (Kuhl & Giardina, Eq. 4).
    angle = 2 * np.pi * np.outer(np.arange(1, order + 1), t)
    scale = 1 / (2 * np.pi**2 * np.arange(1, order + 1) ** 2)
    slope = steps / length[:, None]
    in_phase = scale[:, None] * (np.diff(np.cos(angle)) @ slope)  # (order, 2) of (y, x)
    out_of_phase = scale[:, None] * (np.diff(np.sin(angle)) @ slope)
    ring = np.vstack([points, points[:1]])
    centre = ((ring[:-1] + ring[1:]) / 2 * length[:, None]).sum(axis=0)
    coefficients = np.stack([in_phase[:, 1], out_of_phase[:, 1], in_phase[:, 0], out_of_phase[:, 0]], axis=1)
    found = Descriptors(centre, coefficients)
    return found.began_at(_beginning(found))


def walk_contour(polygon: NDArray[np.floating], points: int) -> Float:
    """Return (points, 2) at equal steps along a polygon's outline, begun where its descriptors begin."""
    outline = _towards_plus_y(np.asarray(polygon, np.float64))
    _, t = _walk(outline)
    ring = np.vstack([outline, outline[:1]])
    even = np.stack([np.interp(np.arange(64) / 64, t, axis) for axis in ring.T], axis=1)
    begin = _beginning(_first_ellipse(even))
    at = (begin + np.arange(points) / points) % 1
    return np.stack([np.interp(at, t, axis) for axis in ring.T], axis=1)


def _first_ellipse(even: Float) -> Descriptors:
    """Return the first order of a contour given at even steps; cheaper than the closed form, and close to it."""
    y, x = np.fft.rfft(even.T)[:, 1] * 2 / len(even)
    return Descriptors(even.mean(axis=0), np.array([[x.real, -x.imag, y.real, -y.imag]]))


def _beginning(found: Descriptors) -> float:
    """Return the t at which the first ellipse lies at +x of its centre."""
    a, b, c, d = found.coefficients[0]
    angle = np.arctan2(-c, d)  # y of the first ellipse vanishes here and half a turn later
    if a * np.cos(angle) + b * np.sin(angle) < 0:
        angle += np.pi
    return float(angle / (2 * np.pi) % 1)


def _towards_plus_y(points: Float) -> Float:
    """Return the polygon without repeated points, in the sense of rotation that leads from +x to +y."""
    kept = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
    y, x = kept.T
    twice_area = np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
    return kept if twice_area > 0 else kept[::-1]


def _walk(points: Float) -> tuple[Float, Float]:
    """Return the steps (n, 2) around a polygon, and the share of the perimeter (n + 1) before and after each."""
    steps = np.roll(points, -1, axis=0) - points
    walked = np.concatenate([[0.0], np.cumsum(np.hypot(*steps.T))])
    return steps, walked / walked[-1]
