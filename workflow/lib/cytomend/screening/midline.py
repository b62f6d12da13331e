"""The midline of a whole brain section, and the gaps that it tells to be natural.

A coronal section is nearly its own mirror image, its ventricles and sulci with it; a tear is where it happened to be.
So a gap with a gap at its mirrored place, or on the midline itself, is taken as natural. Where a section is not
symmetric (one hemisphere, a block of cortex, a sagittal section), nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.screening.light import Bools
from cytomend.screening.survey import Survey

LEAST_OVERLAP = 0.85
"""Of a section and its mirror image, as the share of the area that either covers."""
SMALL = 192
MOST_AT_BORDER = 0.05
"""Of a scan's border, how much may show tissue before the section counts as a part."""
ANGLES_DEG = np.arange(-20, 20.5, 1)
TOLERANCE = 0.012
"""How far from its mirrored place a gap may lie, as a share of the width of tissue."""
NEAR_MIDLINE = 0.035
"""How far from the midline a gap is natural, as the same share."""
LIKE_SIZE = 0.1
"""Of the size of a gap, how large its mirror image must be."""


@dataclass(frozen=True, slots=True)
class Midline:
    """A line across the survey's squares.

    Parameters
    ----------
    normal : (float, float)
        Unit vector across it, (y, x).
    offset : float
        Product of its points with the normal.
    overlap : float in [0, 1]
        How well it halves the section, see `LEAST_OVERLAP`.
    """

    normal: tuple[float, float]
    offset: float
    overlap: float

    def distance(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the signed distance of places (2, n) of (y, x)."""
        return np.asarray(np.array(self.normal) @ places - self.offset)

    def mirrored(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mirror image of places (2, n)."""
        return np.asarray(places - 2 * np.array(self.normal)[:, None] * self.distance(places))


def find_midline(tissue: Bools) -> Midline | None:
    """Return the line that best mirrors an outline onto itself, or None if none does.

    Parameters
    ----------
    tissue : (h, w) the outline of a section
    """
    border = np.concatenate([tissue[0], tissue[-1], tissue[:, 0], tissue[:, -1]])
    if border.mean() > MOST_AT_BORDER or not tissue.any():
        return None
    step = max(1, -(-max(tissue.shape) // SMALL))
    small = tissue[::step, ::step]
    places = np.stack(np.nonzero(small)).astype(float)
    centre = places.mean(1)
    _, axes = np.linalg.eigh(np.cov(places - centre[:, None]))
    best = Midline((0.0, 1.0), 0.0, 0.0)
    for axis in axes.T:
        start = np.arctan2(axis[0], axis[1])
        for angle in start + np.deg2rad(ANGLES_DEG):
            normal = np.array([np.sin(angle), np.cos(angle)])
            for shift in np.linspace(-0.04, 0.04, 9) * max(small.shape):
                line = Midline((normal[0], normal[1]), float(normal @ centre + shift), 0.0)
                overlap = _overlap(small, places, line)
                if overlap > best.overlap + 1e-9:
                    best = Midline(line.normal, line.offset, overlap)
    if best.overlap < LEAST_OVERLAP:
        return None
    # The middle of a strided square lies (step - 1) / 2 squares before that of its block.
    return Midline(best.normal, best.offset * step, best.overlap)


def natural_gaps(survey: Survey, midline: Midline) -> Bools:
    """Return the squares of gaps that have a mirror image or touch the midline, with a margin of a square."""
    gaps = (survey.lightest > survey.limit) & survey.tissue
    if not gaps.any():
        return gaps
    width = np.sqrt(survey.tissue.sum())
    labels, count = ndimage.label(gaps, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    far, nearest = ndimage.distance_transform_edt(~gaps, return_indices=True)
    places = np.stack(np.nonzero(gaps)).astype(float)
    twin = np.rint(midline.mirrored(places)).astype(int)
    inside = ((twin >= 0) & (twin < np.array(gaps.shape)[:, None])).all(0)
    twin = twin.clip(0, np.array(gaps.shape)[:, None] - 1)
    opposite = labels[tuple(nearest[:, twin[0], twin[1]])]
    # A speck opposite a tear is no twin of it.
    natural = inside & (far[twin[0], twin[1]] <= max(1.0, TOLERANCE * width))
    natural &= sizes[opposite] >= LIKE_SIZE * sizes[labels[gaps]]
    natural |= np.abs(midline.distance(places)) <= NEAR_MIDLINE * width
    result = np.zeros_like(gaps)
    result[gaps] = natural
    return np.asarray(ndimage.binary_dilation(result), bool)


def _overlap(small: Bools, places: NDArray[np.float64], line: Midline) -> float:
    twin = np.rint(line.mirrored(places)).astype(int)
    inside = ((twin >= 0) & (twin < np.array(small.shape)[:, None])).all(0)
    both = int(small[twin[0, inside], twin[1, inside]].sum())
    return float(both / (2 * places.shape[1] - both))
