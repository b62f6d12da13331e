"""Where the picture is not sharp.

Sharpness is the contrast of details of 1 to 2 µm over that of cells (4 to 8 µm), in windows of about 100 µm, as a
decimal logarithm; a stain's strength drops out of the ratio. Of the real focus stack the sharpest planes have -0.4,
planes six away -0.8, the outermost -1.4. Sections and stains differ by 0.2 in what is sharp, so that a place is
compared with the sharper places of its section.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.geometry import Box
from cytomend.screening.light import Bools, Floats, LightReader, Scale, squares
from cytomend.screening.survey import Survey, square_px
from cytomend.screening.tiles import Seen, Tile

FINE, CELLS, LATTICE = 0, 1, 3
HALO_UM = 192.0
DETAIL_UM = (1.0, 2.0)
BODIES_UM = (4.0, 8.0)
WINDOW_UM = 40.0
LEAST_BODIES = 0.02
"""Contrast of cells, as light, below which there is nothing to be sharp: glass, mainly."""
LIMIT = 0.35
"""Below what is usual in the section, in decades."""
BLURRED = -0.95
"""A section as a whole may be out of focus: what is below is blurred, wherever its middle is."""
SAMPLES = 48
USUAL = 75
"""Percentile of places that says how sharp the section is; a half of it may be blurred."""


def sharpness(detail: Floats, bodies: Floats, window: float) -> tuple[Floats, Bools]:
    """Return log10 of the ratio of both energies, and where there are cells at all.

    Parameters
    ----------
    detail, bodies : (h, w) energies, light squared
    window : standard deviation of the weights of the window, in squares
    """
    fine, coarse = (ndimage.gaussian_filter(v, window, mode="nearest", truncate=2.5) for v in (detail, bodies))
    shows = coarse > LEAST_BODIES**2
    ratio = np.log10(np.maximum(fine, 1e-12) / np.maximum(coarse, 1e-12))
    return np.where(shows, ratio, 0).astype(np.float32), shows


def energies(fine: Floats, cells: Floats, scale: Scale) -> tuple[Floats, Floats]:
    """Return the energy of details and of cells on the coarsest lattice."""
    pairs = ((fine, FINE, DETAIL_UM), (cells, CELLS, BODIES_UM))
    detail, bodies = (_energy(values, scale, lattice, widths) for values, lattice, widths in pairs)
    return detail, bodies


def usual_sharpness(reader: LightReader, scale: Scale, survey: Survey) -> float | None:
    """Return how sharp places spread over the tissue are, at their better; None where nothing shows cells."""
    side = square_px(scale)
    count = max(1, round(512 / (side * scale.pixel_size_um)))
    height, width = survey.tissue.shape
    boxes = [
        box
        for box in Box(0, 0, height, width).tiles(count)
        if survey.tissue[box.slices].all() and survey.light[box.slices].mean() < survey.limit
    ]
    chosen = [boxes[i] for i in np.unique(np.linspace(0, len(boxes) - 1, SAMPLES).astype(int))] if boxes else []
    found: list[NDArray[np.float32]] = []
    for box in chosen:
        pixels = reader.read(Box(*(side * edge for edge in (box.y0, box.x0, box.y1, box.x1))))
        parts = energies(squares(pixels, scale.factors[FINE]), squares(pixels, scale.factors[CELLS]), scale)
        values, shows = sharpness(*parts, scale.sigma(WINDOW_UM, LATTICE))
        found.append(values[shows])
    every = np.concatenate(found) if found else np.zeros(0)
    return float(np.percentile(every, USUAL)) if every.size else None


def see_blur(tile: Tile, inside: Bools, usual: float | None) -> Seen:
    """Return the places of a tile that are out of focus; aside are those with a margin of a window's width.

    Parameters
    ----------
    tile : part of a section
    inside : survey squares that belong to the section
    usual : sharpness of the section, see `usual_sharpness`
    """
    scale, survey = tile.scale, tile.survey
    pixels = tile.light(FINE, HALO_UM), tile.light(CELLS, HALO_UM)
    values, shows = sharpness(*energies(*pixels, scale), scale.sigma(WINDOW_UM, LATTICE))
    glass = tile.light(LATTICE, HALO_UM) > survey.limit
    # The rim of a gap is a step: sharp or not, it says nothing of the tissue.
    near_gap = ndimage.distance_transform_edt(~glass) <= scale.sigma(2 * WINDOW_UM, LATTICE) if glass.any() else glass
    margin = tile.margin(HALO_UM, LATTICE)
    clear = shows & ~near_gap & tile.surveyed(inside, LATTICE, HALO_UM).astype(bool)
    limit = BLURRED if usual is None else max(BLURRED, usual - LIMIT)
    middle = limit + LIMIT
    evidence = ((middle - values) / LIMIT).astype(np.float32)
    mask = clear & (values <= limit)
    around = ndimage.binary_dilation(mask, iterations=scale.steps(WINDOW_UM, LATTICE)) if mask.any() else mask
    return Seen("blur", LATTICE, mask, evidence, mask, around).cropped(margin)


def _energy(values: Floats, scale: Scale, lattice: int, widths_um: tuple[float, float]) -> Floats:
    narrow, wide = (
        ndimage.gaussian_filter(values, scale.sigma(width, lattice), mode="nearest", truncate=3) for width in widths_um
    )
    # In whole steps, so that the sum over a square is the same wherever it lies in an array.
    steps = np.rint((narrow - wide) * 16384).astype(np.int64) ** 2
    count = scale.factors[LATTICE] // scale.factors[lattice]
    height, width = steps.shape
    sums = steps.reshape(height // count, count, width // count, count).sum((1, 3))
    return np.asarray(sums / (16384.0**2 * count * count), np.float32)
