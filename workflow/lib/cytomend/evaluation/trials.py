"""Trials: intact patches with a mask in the shape of an artefact. Drawn by seed alone, the same for every sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomend.diffusion.masks import random_mask
from cytomend.errors import InputError
from cytomend.geometry import Box

FRACTIONS = (0.05, 0.5)
TOLERANCE = 0.015
TRIES = 2000
COARSE_PX = 256
"""Side on which the shapes of larger masks are tried: they are scaled to the patch."""
GRIDS = 100

Grey = NDArray[np.generic]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trial:
    """An intact patch, which of its pixels are to be mended, and another patch of the same tissue.

    ``patch`` and ``other`` (Y, X) in the scanner's dtype, ``mask`` (Y, X); ``dark`` is the grey value of cell bodies in
    this tissue, ``source`` and ``box`` say where the patch was cut.
    """

    patch: Grey
    other: Grey
    mask: Mask
    dark: float
    source: str
    box: Box

    @property
    def floor(self) -> Grey:
        """The other patch as it stands, to be measured under the same mask: nothing is pasted, no cell is cut."""
        return self.other

    @property
    def pasted(self) -> Grey:
        """The patch with the other patch's pixels under the mask: real tissue in the wrong place."""
        return np.where(self.mask, self.other, self.patch)


def stratified_masks(count: int, side_px: int, seed: int, offset: float = 0.5) -> list[Mask]:
    """Return masks whose fractions of the patch are spread evenly over `FRACTIONS`, in random order.

    ``offset``, in [0, 1), is where each fraction lies in its stratum.
    """
    fractions = stratified_fractions(count, seed, offset)
    return [stratified_mask(i, fraction, side_px, seed) for i, fraction in enumerate(fractions)]


def stratified_fractions(count: int, seed: int, offset: float = 0.5) -> list[float]:
    """Return the mask fractions of so many trials, spread evenly over `FRACTIONS`, in random order."""
    low, high = FRACTIONS
    order = np.random.default_rng([seed, 0]).permutation(count)
    return [float(fraction) for fraction in low + (high - low) * (order + offset) / count]


def stratified_mask(number: int, fraction: float, side_px: int, seed: int) -> Mask:
    """Return the mask of one of these trials, by its number from 0."""
    return mask_of(np.random.default_rng([seed, 1, number]), side_px, fraction)


def mask_of(rng: np.random.Generator, side_px: int, fraction: float) -> Mask:
    """Return a random artefact's mask that covers about this fraction of the patch.

    Shapes are tried on at most `COARSE_PX` pixels a side: a million pixels a try would take minutes.
    """
    coarse_px, closest, nearest = min(side_px, COARSE_PX), None, np.inf
    for _ in range(TRIES + 1):
        state = rng.bit_generator.state
        mask = random_mask(rng, coarse_px)
        if side_px > coarse_px and abs(mask.mean() - fraction) < min(nearest, TOLERANCE):
            mask = _drawn_again(state, side_px)  # its fraction differs a little
        off = abs(float(mask.mean()) - fraction)
        if off < nearest and len(mask) == side_px:
            closest, nearest = mask, off
        if nearest <= TOLERANCE:
            break
    if closest is None:
        raise AssertionError(f"no mask of {100 * fraction:g} % in {TRIES} tries")
    return closest


def _drawn_again(state: Mapping[str, Any], side_px: int) -> Mask:
    """Return the mask that a generator in this state draws, on a patch of another size."""
    again = np.random.default_rng()
    again.bit_generator.state = dict(state)
    return random_mask(again, side_px)


def spread_boxes(intact: Mask, side_px: int, seed: int) -> Iterator[Box]:
    """Yield squares of intact tissue, first as many as fit side by side, then those of other grids, without end.

    Raises
    ------
    InputError
        If there is no intact square.
    """
    height, width = intact.shape
    counts = np.pad(intact.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rng, empty = np.random.default_rng([seed, 2]), 0
    while empty < GRIDS:
        # Moved no further than leaves a full grid; further only where damage leaves none of its squares intact.
        room = (side_px, side_px) if empty else (height % side_px + 1, width % side_px + 1)
        offset = rng.integers(0, room)
        ys, xs = (np.arange(o, n - side_px + 1, side_px) for o, n in zip(offset, (height, width), strict=True))
        corners = [(int(y), int(x)) for y in ys for x in xs if whole(counts, y, x, side_px)]
        empty = 0 if corners else empty + 1
        for i in rng.permutation(len(corners)):
            y, x = corners[i]
            yield Box(y, x, y + side_px, x + side_px)
    raise InputError(
        f"no intact square of {side_px} px found in {height} x {width} px; give a larger box, or a smaller patch"
    )


def whole(counts: NDArray[np.int64], y: int, x: int, side_px: int) -> bool:
    """Whether a square is intact, from the table of sums."""
    y1, x1 = y + side_px, x + side_px
    return bool(counts[y1, x1] - counts[y, x1] - counts[y1, x] + counts[y, x] == side_px**2)


def far_from(box: Box, boxes: list[Box], rng: np.random.Generator) -> Box:
    """Return one of the boxes that does not meet this one.

    Raises
    ------
    InputError
        If all of them do: there is no other tissue to compare with.
    """
    others = [other for other in boxes if box.intersect(other).is_empty]
    if not others:
        raise InputError("no second intact patch beside the trial's own; give a larger box, or a smaller patch")
    return others[int(rng.integers(len(others)))]
