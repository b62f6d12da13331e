"""Bubbles in the mounting medium: dark circles.

The rim of a bubble bends light away and is a thin dark circle. Every dark ridge votes for the centres of circles it may
belong to; where the votes make up most of a circumference there is a bubble. Radii from 56 to 200 µm are looked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.screening.light import Bools, Floats
from cytomend.screening.tiles import Seen, Tile

LATTICE = 3
HALO_UM = 480.0
LEAST_RADIUS_UM, MOST_RADIUS_UM = 56.0, 200.0
RIDGE_UM = 8.0
RIDGE = 0.035
"""Of the ground: curvature across a ridge, scale-normalised."""
LIMIT = 0.5
"""Share of the circumference that votes."""
SECTORS = 16
DARK_SECTORS = 0.8
"""Share of sectors whose rim is darker than what lies on both of its sides."""
DARKER = 0.15
"""Of the ground, by how much."""
ASIDE_UM = 24.0
RIM_UM = 12.0


def see_bubbles(tile: Tile) -> Seen:
    """Return the disks of a tile that dark circles enclose."""
    light = tile.light(LATTICE, HALO_UM)
    side_um = tile.scale.side_um(LATTICE)
    ground = tile.survey.ground
    places, normals = dark_ridges(light / ground, max(1.0, RIDGE_UM / side_um))
    evidence = np.zeros(light.shape, np.float32)
    least, most = (max(2, round(r / side_um)) for r in (LEAST_RADIUS_UM, MOST_RADIUS_UM))
    for radius in range(least, most + 1):
        share = circle_votes(places, normals, radius, light.shape)
        centres = (share >= LIMIT) & (share == ndimage.maximum_filter(share, 5, mode="nearest"))
        for y, x in np.argwhere(centres):
            dark = dark_sectors(light, int(y), int(x), radius, max(2, round(ASIDE_UM / side_um)), ground)
            if dark >= DARK_SECTORS:
                _raise_disk(evidence, int(y), int(x), radius + RIM_UM / side_um, dark / DARK_SECTORS)
    mask: Bools = evidence >= 1
    seen = Seen("bubble", LATTICE, mask, evidence, mask, np.zeros_like(mask))
    return seen.cropped(tile.margin(HALO_UM, LATTICE))


def dark_ridges(light: Floats, sigma: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return places (2, n) on dark ridges and the unit vectors (2, n) across them."""
    yy, xx, xy = (
        ndimage.gaussian_filter(light, sigma, order=order, mode="nearest", truncate=3).astype(np.float64) * sigma**2
        for order in ((2, 0), (0, 2), (1, 1))
    )
    bend = np.hypot((yy - xx) / 2, xy)
    across, along = (yy + xx) / 2 + bend, (yy + xx) / 2 - bend
    found = (across >= RIDGE) & (across > 3 * np.abs(along))
    angle = np.arctan2(2 * xy, xx - yy) / 2  # of the direction of greatest curvature, from +x towards +y
    y, x = np.nonzero(found)
    return np.stack([y, x]), np.stack([np.sin(angle[found]), np.cos(angle[found])])


def circle_votes(places: NDArray[np.intp], normals: NDArray[np.float64], radius: int, shape: tuple[int, ...]) -> Floats:
    """Return for each place the share of a circle around it that ridges make up.

    A sector of the circle counts once, however many ridges lie in it, so that a bundle of fibres makes no circle.
    """
    seen = np.zeros((SECTORS, *shape), bool)
    for sign in (-1, 1):
        centre = np.rint(places + sign * radius * normals).astype(np.intp)
        inside = ((centre >= 0) & (centre < np.array(shape)[:, None])).all(0)
        angle = np.arctan2(-sign * normals[0], -sign * normals[1])[inside]
        sector = np.floor((angle + np.pi) / (2 * np.pi) * SECTORS).astype(np.intp) % SECTORS
        seen[sector, centre[0, inside], centre[1, inside]] = True
    # Centres of one circle scatter by a square or two.
    near = ndimage.maximum_filter(seen, (1, 3, 3), mode="constant")
    return np.asarray(near.mean(0), np.float32)


def dark_sectors(light: Floats, y: int, x: int, radius: int, aside: int, ground: float) -> float:
    """Return the share of sectors of a circle that are darker than both of its sides; zero where it leaves the array.

    Parameters
    ----------
    light : (h, w)
    y, x, radius : the circle, in squares; its true radius may be a square more or less
    aside : how far on either side it is compared
    ground : light of the tissue's ground
    """
    reach = radius + aside
    if y - reach < 0 or x - reach < 0 or y + reach >= light.shape[0] or x + reach >= light.shape[1]:
        return 0.0
    angle = (np.arange(SECTORS * 6) + 0.5) * (2 * np.pi / (SECTORS * 6))

    def mean(distance: int) -> Floats:
        rows = np.rint(y + distance * np.sin(angle)).astype(int)
        columns = np.rint(x + distance * np.cos(angle)).astype(int)
        return np.asarray(np.rint(light[rows, columns] * 4095).reshape(SECTORS, 6).sum(1) / (6 * 4095), np.float32)

    sides = np.minimum(mean(radius - aside), mean(radius + aside))
    return max(float((mean(near) < sides - DARKER * ground).mean()) for near in (radius - 1, radius, radius + 1))


def _raise_disk(values: Floats, y: int, x: int, radius: float, level: float) -> None:
    """Raise values within a disk to a level."""
    reach = int(radius) + 1
    top, left = max(0, y - reach), max(0, x - reach)
    part = values[top : y + reach + 1, left : x + reach + 1]
    rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    disk = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    part[disk] = np.maximum(part[disk], level)
