"""Precipitate: clouds of small black grains.

A grain is smaller and sharper than a cell body. Its mark is the Laplacian of a Gaussian at 1.5 µm, as a share of the
ground: on five phantoms, tissue had 0 to 3 marks above 0.46 a mm², the middle of most clouds 300 to 800. Single grains
are left alone, for a single mark may be the dark nucleus of a glia cell.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cytomend.screening.light import Bools, Floats
from cytomend.screening.tiles import Seen, Tile

LATTICE = 0
HALO_UM = 128.0
MARK_UM = 1.5
MARK = 0.42
"""Of the ground; scale-normalised Laplacian."""
CLOUD_UM = 25.0
LIMIT_PER_MM2 = 360.0
"""Density of marks, seen through a Gaussian of `CLOUD_UM`: one mark alone gives 255, two at 20 µm 450."""
FAINT_CLOUD = 0.5
"""Evidence down to which grains belong to a cloud that has some above one."""
DARK = 0.42
FAINT = 0.22
REACH_UM = 3.0
BODY_UM = 5.0
"""Radius of a disk that fits into a cell body and into no grain but the coarsest."""


def see_grains(tile: Tile) -> Seen:
    """Return the grains of a tile that lie in clouds."""
    scale = tile.scale
    light = tile.light(LATTICE, HALO_UM)
    ground = tile.survey.ground
    marks = _laplacian(light, scale.sigma(MARK_UM, LATTICE)) / ground
    size = 2 * max(1, round(2.0 / scale.side_um(LATTICE))) + 1
    peaks = (marks >= MARK) & (marks == ndimage.maximum_filter(marks, size, mode="nearest"))
    density = ndimage.gaussian_filter(
        peaks.astype(np.float32), scale.sigma(CLOUD_UM, LATTICE), mode="nearest", truncate=3
    ) / (scale.side_um(LATTICE) ** 2 * 1e-6)
    evidence = (density / LIMIT_PER_MM2).astype(np.float32)
    # Around marks and fainter ones of other sizes: the dark squares, as far as a grain reaches.
    near = marks >= FAINT
    for width_um in (1.0, 2.2):
        near |= _laplacian(light, scale.sigma(width_um, LATTICE)) >= FAINT * ground
    near = ndimage.distance_transform_edt(~near) <= scale.sigma(REACH_UM, LATTICE) if near.any() else near
    dark = light < DARK * ground
    mask = (evidence >= FAINT_CLOUD) & near & dark & ~_bodies(dark, scale.sigma(BODY_UM, LATTICE))
    seen = Seen("grains", LATTICE, mask, evidence, evidence >= 1, np.zeros_like(mask))
    return seen.cropped(tile.margin(HALO_UM, LATTICE))


def _bodies(dark: Bools, radius: float) -> Bools:
    """Return the dark squares of cell bodies: what a disk fits into, and as much around it."""
    if dark.all() or not dark.any():
        return dark
    cores = ndimage.distance_transform_edt(dark) > radius
    return np.asarray(dark & (ndimage.distance_transform_edt(~cores) <= 1.5 * radius), bool) if cores.any() else cores


def _laplacian(light: Floats, sigma: float) -> Floats:
    """Return the scale-normalised Laplacian; positive where it is darker than around."""
    return np.asarray(ndimage.gaussian_laplace(light, sigma, mode="nearest") * sigma**2, np.float32)
