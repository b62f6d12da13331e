"""Random artefact-shaped masks: strips like tears, polygons like folds and cuts, blobs like stain drops and holes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def random_mask(rng: np.random.Generator, side_px: int) -> Mask:
    """Return the unknown pixels of a window, about 5 to 100 % of it, never none.

    Parameters
    ----------
    rng : the only source of chance
    side_px : window side

    Returns
    -------
    (side_px, side_px) bool
    """
    if rng.random() < 0.1:
        return np.ones((side_px, side_px), dtype=bool)
    mask: Mask = (_strip, _polygon, _blobs, _border)[rng.integers(4)](rng, side_px)
    return mask if mask.mean() >= 0.05 else mask | _disk(rng, side_px, 0.15 * side_px)


def _grid(side_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[:side_px, :side_px] + 0.5
    return y, x


def _disk(rng: np.random.Generator, side_px: int, radius_px: float) -> Mask:
    y, x = _grid(side_px)
    cy, cx = rng.uniform(0.2, 0.8, 2) * side_px
    return np.asarray((y - cy) ** 2 + (x - cx) ** 2 < radius_px**2)


def _strip(rng: np.random.Generator, side_px: int) -> Mask:
    """A band of varying width along a gently curved line: a tear."""
    y, x = _grid(side_px)
    angle = rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    middle = side_px / 2 * (np.cos(angle) - np.sin(angle)) + rng.uniform(-0.35, 0.35) * side_px
    wave = rng.uniform(0, 0.12) * side_px * np.sin(along / side_px * rng.uniform(2, 8) + rng.uniform(0, 7))
    width = (
        rng.uniform(0.05, 0.6) * side_px * (1 + 0.3 * np.sin(along / side_px * rng.uniform(2, 9) + rng.uniform(0, 7)))
    )
    return np.asarray(np.abs(across - middle - wave) < width / 2)


def _polygon(rng: np.random.Generator, side_px: int) -> Mask:
    """A convex polygon: the side of every pixel of some random half planes around a centre."""
    y, x = _grid(side_px)
    cy, cx = rng.uniform(0.1, 0.9, 2) * side_px
    reach = rng.uniform(0.15, 0.7) * side_px
    mask = np.ones((side_px, side_px), dtype=bool)
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(3, 8)):
        mask &= (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle) < reach * rng.uniform(0.6, 1.2)
    return mask


def _blobs(rng: np.random.Generator, side_px: int) -> Mask:
    """Some overlapping round lobes."""
    mask = np.zeros((side_px, side_px), dtype=bool)
    for _ in range(rng.integers(1, 6)):
        mask |= _disk(rng, side_px, rng.uniform(0.08, 0.4) * side_px)
    return mask


def _border(rng: np.random.Generator, side_px: int) -> Mask:
    """All on one side of a line, or all but a rim: what a window sees within a region larger than itself."""
    y, x = _grid(side_px)
    angle = rng.uniform(0, 2 * np.pi)
    beyond = (x - side_px / 2) * np.cos(angle) + (y - side_px / 2) * np.sin(angle) > rng.uniform(-0.45, 0.3) * side_px
    if rng.random() < 0.3:
        other = angle + rng.uniform(0.4, 2.7)
        beyond |= (x - side_px / 2) * np.cos(other) + (y - side_px / 2) * np.sin(other) > rng.uniform(
            -0.3, 0.3
        ) * side_px
    return np.asarray(beyond)
