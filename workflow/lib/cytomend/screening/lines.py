"""Scratches: thin straight lines, lighter than the ground of the tissue.

What is narrower than 10 µm and lighter than the ground is added up along every direction over half a millimetre.
Fibres and walls of vessels are as light and as thin, but seldom as straight for as long: on six phantoms, one place in
a thousand beside the damage reached 0.35 to 0.41, the median place of a scratch 0.31 to 0.55. Faint ones are missed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.screening.ground import HALO_UM as GROUND_HALO_UM
from cytomend.screening.ground import LATTICE as GROUND
from cytomend.screening.ground import Ground
from cytomend.screening.light import Floats
from cytomend.screening.tiles import Seen, Tile

FINE, LATTICE = 1, 2
HALO_UM = 320.0
SMOOTH_UM = 1.2
THIN_UM = 10.0
FAINT, PLAIN = 0.02, 0.12
"""Of the ground, how much lighter a square counts for nothing and for one."""
LENGTH_UM = 512.0
SLOPES = 49
LIMIT = 0.38
SEED = 0.44
RIDGE = 0.96
LIGHT = 350

Steps = NDArray[np.int32]


def see_lines(tile: Tile, ground: Ground) -> Seen:
    """Return the thin light lines of a tile; ``ground`` is that of the tile."""
    scale, margin = tile.scale, tile.margin(HALO_UM, LATTICE)
    # Pale tissue is no scratch, and dense tissue has no lighter ground than the section.
    local = _on_fine(np.maximum(ground.near, tile.survey.ground), tile)
    thin = thin_light(tile.light(FINE, HALO_UM), local, scale.sigma(SMOOTH_UM, FINE), _odd(THIN_UM, tile))
    ratio = scale.factors[LATTICE] // scale.factors[FINE]
    height, width = thin.shape
    # The lightest of each square: a line may run along the border of two.
    coarse = thin.reshape(height // ratio, ratio, width // ratio, ratio).max((1, 3))
    corner = tuple(edge // scale.factors[LATTICE] - margin for edge in (tile.core.y0, tile.core.x0))
    straight = along_lines(coarse, scale.steps(LENGTH_UM / 2, LATTICE), (corner[0], corner[1]))
    evidence = (straight / LIMIT).astype(np.float32)
    ridge = straight >= RIDGE * ndimage.maximum_filter(straight, 5, mode="nearest")
    light_near = ndimage.maximum_filter(coarse, 3, mode="nearest") >= LIGHT
    mask = (evidence >= 1) & ridge & light_near
    seen = Seen("line", LATTICE, mask, evidence, straight >= SEED, np.zeros_like(mask))
    return seen.cropped(margin)


def thin_light(light: Floats, ground: Floats, sigma: float, size: int) -> Steps:
    """Return what is thin and lighter than the ground, in thousandths (a white top hat)."""
    above = np.maximum(ndimage.gaussian_filter(light, sigma, mode="nearest", truncate=3), 0.9 * ground)
    hat = (above - ndimage.grey_opening(above, (size, size), mode="nearest")) / ground
    return np.asarray(np.rint(((hat - FAINT) / (PLAIN - FAINT)).clip(0, 1) * 1000), np.int32)


def along_lines(values: Steps, reach: int, corner: tuple[int, int]) -> Floats:
    """Return the greatest mean, in ones, along straight lines through each place.

    Parameters
    ----------
    values : (h, w) in thousandths; sums of whole numbers are the same in any array
    reach : half the length of a line, in squares; places nearer to the rim get less than they should
    corner : (y, x) of the array on the absolute lattice, on which lines step from row to row
    """
    best = np.zeros(values.shape, np.int32)
    for array, result, start in ((values, best, corner[1]), (values.T, best.T, corner[0])):
        _sweep(np.ascontiguousarray(array), result, reach, start)
    return (best / (2000.0 * reach)).astype(np.float32)


def _sweep(values: Steps, best: Steps, reach: int, start: int) -> None:
    """Raise ``best`` to the sums along lines with slopes up to one against the second axis."""
    height, width = values.shape
    place = np.arange(start, start + width)
    for slope in np.linspace(-1, 1, SLOPES):
        down = np.rint(slope * place).astype(np.intp)
        sheared_rows = np.arange(height)[:, None] + (down.max() - down)[None, :]
        sheared = np.zeros((height + int(np.ptp(down)), width), np.int32)
        np.put_along_axis(sheared, sheared_rows, values, 0)
        added = np.cumsum(sheared, 1, dtype=np.int32)
        sums = np.zeros_like(added)
        sums[:, reach : width - reach] = added[:, 2 * reach :] - added[:, : width - 2 * reach]
        np.maximum(best, np.take_along_axis(sums, sheared_rows, 0), out=best)


def _on_fine(values: Floats, tile: Tile) -> Floats:
    """Return a map of the ground on the lattice on which lines are looked for, with their halo."""
    unused = tile.margin(GROUND_HALO_UM, GROUND) - tile.margin(HALO_UM, GROUND)
    count = tile.scale.factors[GROUND] // tile.scale.factors[FINE]
    inner = values[unused : -unused or None, unused : -unused or None]
    return np.asarray(np.repeat(np.repeat(inner, count, 0), count, 1))


def _odd(width_um: float, tile: Tile) -> int:
    return 2 * max(1, round(width_um / tile.scale.side_um(FINE) / 2)) + 1
