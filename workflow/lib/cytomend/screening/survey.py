"""A first look at the whole section: how light glass and tissue are, where tissue lies, where its midline is.

One streaming pass keeps one number of each kind per square of about 32 µm, 8 million squares for a section of 100,000 x
80,000 px at 1 µm. All limits of the detectors follow from these, so that a tile is judged by its section.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.geometry import Box
from cytomend.regions.tissue import BLANK_CONTRAST
from cytomend.screening.light import STEPS, Bools, Floats, LightReader, Scale, squares

SQUARE_UM = 32.0
BLOCK, BLOCKED_UM = 4, 5.0
"""On pixels up to so many µm squares are a multiple of so many of the coarsest lattice: ground is seen in blocks."""
BINS = 1024
# Glass is lighter than the ground of tissue by this at least: 1.27 on phantoms, 1.32 on the real cortex tile.
LEAST_GLASS = 1.12
# Where no square is blank, the limit between both; phantoms without damage stay below 1.16 but for single squares.
UNSEEN_GLASS = 1.18
TIGHT_UM = 500.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of the whole section.

    Parameters
    ----------
    square_px : int
        Side of a square of the maps, in pixels of the scan.
    ground : float in [0, 1]
        Light of tissue between its cells: the 90th percentile of tissue at 4 µm.
    middle : float in [0, 1]
        Median light of tissue at 4 µm.
    limit : float
        Lighter is glass.
    light, lightest : (h, w) float32
        Mean light of each square, and the greatest at 4 µm in it.
    tissue : (h, w) bool
        Squares of the section's tissue, with the gaps that its outline encloses.
    """

    square_px: int
    ground: float
    middle: float
    limit: float
    light: Floats
    lightest: Floats
    tissue: Bools


def survey(reader: LightReader, scale: Scale, tile_px: int) -> Survey:
    """Look at every pixel once.

    Parameters
    ----------
    reader : of the section
    scale : its lattices
    tile_px : side of what is read at once, a multiple of the survey's squares
    """
    side = square_px(scale)
    height, width = (-(-size // side) for size in reader.shape)
    light, lightest, contrast = (np.zeros((height, width), np.float32) for _ in range(3))
    textured, flat = (np.zeros(BINS, np.int64) for _ in range(2))
    for box in Box(0, 0, height * side, width * side).tiles(tile_px):
        pixels = reader.read(box)
        here = Box(box.y0 // side, box.x0 // side, box.y1 // side, box.x1 // side).slices
        fine = squares(pixels, scale.factors[1])
        light[here] = squares(pixels, side)
        contrast[here] = _deviation(fine, side // scale.factors[1])
        blank = _spread(contrast[here] < BLANK_CONTRAST, side // scale.factors[2])
        middling = squares(pixels, scale.factors[2])
        lightest[here] = _blocks(middling, side // scale.factors[2]).max((1, 3))
        level = (middling * (BINS - 1)).astype(np.int64)
        textured += np.bincount(level[~blank], minlength=BINS)
        flat += np.bincount(level[blank], minlength=BINS)
    ground, middle = (_percentile(textured if textured.any() else flat, q) for q in (0.9, 0.5))
    limit = _glass_limit(flat, ground)
    closed = max(1, round(TIGHT_UM / (side * scale.pixel_size_um)))
    return Survey(side, ground, middle, limit, light, lightest, _outline(light, contrast, limit, closed))


def square_px(scale: Scale) -> int:
    """Return the side of the survey's squares in pixels, a multiple of the coarsest lattice and of its blocks.

    >>> [square_px(Scale.of(um)) for um in (0.6, 1.0, 2.6, 12.0)]
    [64, 32, 16, 3]
    """
    block = BLOCK if scale.pixel_size_um <= BLOCKED_UM else 1
    return scale.factors[-1] * block * max(1, round(SQUARE_UM / block / scale.side_um(len(scale.factors) - 1)))


def _blocks(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Return a view whose axes 1 and 3 run within squares of count x count values."""
    height, width = values.shape
    return values.reshape(height // count, count, width // count, count)


def _deviation(fine: Floats, count: int) -> Floats:
    """Return the standard deviation within squares of count x count values."""
    # Whole numbers add up to the same in any order, so that no square sits on the fence.
    steps = np.rint(fine * STEPS).astype(np.int64)
    mean, square = (_blocks(values, count).sum((1, 3)) / count**2 for values in (steps, steps**2))
    return np.asarray(np.sqrt((square - mean**2).clip(0)) / STEPS, np.float32)


def _spread(values: Bools, count: int) -> Bools:
    return np.asarray(np.repeat(np.repeat(values, count, 0), count, 1))


def _percentile(counts: NDArray[np.int64], share: float) -> float:
    return float(np.searchsorted(np.cumsum(counts), share * counts.sum())) / (BINS - 1)


def _glass_limit(flat: NDArray[np.int64], ground: float) -> float:
    """Return half way between the ground of tissue and the commonest light of blank squares that are lighter."""
    lighter = flat.copy()
    lighter[: int(ground * LEAST_GLASS * (BINS - 1)) + 1] = 0
    if lighter.sum() < 256:
        return ground * UNSEEN_GLASS
    return (ground + float(np.argmax(lighter)) / (BINS - 1)) / 2


def _outline(light: Floats, contrast: Floats, limit: float, reach: int) -> Bools:
    """Return the area that tissue takes in, with its gaps: closed by a disk, holes filled, crumbs left out."""
    tissue = (light < limit) & ~((contrast == 0) & (light < 0.01))
    if not tissue.any():
        return np.asarray(tissue)
    # Mirrored beyond the border: a section that is cut by the scan goes on there.
    padded = np.pad(tissue, reach + 1, mode="symmetric")
    far = ndimage.distance_transform_edt(~padded) > reach
    closed = ndimage.distance_transform_edt(~far) > reach if far.any() else ~far
    closed = closed[reach + 1 : -reach - 1, reach + 1 : -reach - 1]
    return np.asarray(ndimage.binary_fill_holes(closed | tissue), bool)
