"""Where in the search area a block fits: exhaustively on a coarse grid by FFT, then step by step down to the pixel.

The cost of a source has two parts, each about 1 for tissue taken at random: the squared difference to the pixels that
the block overlaps, smoothed, so that shapes count and grain does not; and disagreement with the context map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft

from cytomend.grafts.context import ContextMap, coarsest

CANDIDATES = 16
REACH_PX = 1
"""How far a place is corrected at each finer level."""

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Candidate(NamedTuple):
    """A place for a block's corner in the search area, and what it costs."""

    cost: float
    y: int
    x: int


@dataclass(frozen=True, slots=True)
class Level:
    """A picture (C, h, w), halved several times: each pixel is the mean over ``side_px`` squares."""

    side_px: int
    pixels: Float32


def levels_of(pixels: NDArray[np.generic], pixel_size_um: float) -> list[Level]:
    """Return the picture at 1, 2, 4, ... px, up to about 4 µm; odd rows at the far border are left out."""
    found = [Level(1, pixels.astype(np.float32))]
    while found[-1].side_px < coarsest(pixel_size_um):
        found.append(Level(found[-1].side_px * 2, halved(found[-1].pixels)))
    return found


def halved(pixels: Float32) -> Float32:
    """Return means over 2 x 2 pixels, (..., h // 2, w // 2)."""
    height, width = (n // 2 * 2 for n in pixels.shape[-2:])
    rows = pixels[..., :height:2, :width] + pixels[..., 1:height:2, :width]
    return (rows[..., ::2] + rows[..., 1::2]) * np.float32(0.25)


class Matcher:
    """Finds sources for the blocks of one search area.

    Parameters
    ----------
    pixels : (C, H, W) in any dtype
    source : (H, W), which pixels may be copied
    context : of the area
    side_px : of a block, a multiple of the coarse level's squares
    pixel_size_um : side of a pixel
    context_weight : see `cytomend.grafts.settings.GraftSettings`
    """

    def __init__(
        self,
        pixels: NDArray[np.generic],
        source: Mask,
        context: ContextMap,
        side_px: int,
        pixel_size_um: float,
        context_weight: float,
    ) -> None:
        self.levels = levels_of(pixels, pixel_size_um)
        self.context, self.context_weight, self.side_px = context, context_weight, side_px
        coarse = self.levels[-1]
        self.factor = coarse.side_px
        self.corners = [
            windows_within(whole_squares(source, level.side_px), side_px // level.side_px) for level in self.levels
        ]
        """By level, (h, w), at which corners a block lies wholly on tissue that may be copied."""
        allowed = whole_squares(source, self.factor)
        tissue = coarse.pixels[:, allowed] if allowed.any() else coarse.pixels.reshape(len(pixels), -1)
        self.mean = tissue.mean(axis=1, dtype=np.float64).astype(np.float32)[:, None, None]
        centred = coarse.pixels - self.mean
        self.variance = max(float(((tissue - self.mean[..., 0]) ** 2).mean(dtype=np.float64)), 1e-6)
        height, width = (fft.next_fast_len(n, real=True) for n in centred.shape[1:])
        self.shape = height, width
        self.spectra = fft.rfft2(centred, self.shape)
        self.energy = fft.rfft2((centred**2).sum(axis=0), self.shape)

    @property
    def possible(self) -> Mask:
        """(h, w), coarse corners at which a block lies wholly on tissue that may be copied."""
        return self.corners[-1]

    def candidates(
        self, block: NDArray[np.generic], have: Mask, corner: tuple[int, int], barred: Mask
    ) -> list[Candidate]:
        """Return the best places for a block, the best first; none if there is nothing to copy.

        Parameters
        ----------
        block : (C, s, s), what is there already
        have : (s, s), which of its pixels are
        corner : of the block in the area, px
        barred : shaped as ``possible``, coarse corners that are not to be taken
        """
        context = self.context_weight * self._context_cost(corner)
        cost = self._overlap_cost(*pooled(block, have, self.factor)) + context
        cost[~self.possible | barred] = np.inf
        coarse = lowest(cost, CANDIDATES)
        return sorted(self._refined(y, x, float(context[y, x]), block, have) for y, x in coarse)

    def _overlap_cost(self, values: Float32, weight: Float32) -> Float32:
        """Return the squared difference on the overlap at each coarse corner, in units of that of random tissue."""
        known = float(weight.sum()) * len(values)
        if known == 0:
            return np.zeros(self.possible.shape, np.float32)
        centred = (values - self.mean) * weight
        spectrum = self.energy * fft.rfft2(weight, self.shape).conj()
        spectrum -= 2 * (self.spectra * fft.rfft2(centred, self.shape).conj()).sum(axis=0)
        rows, columns = self.possible.shape
        found = fft.irfft2(spectrum, self.shape)[:rows, :columns]
        own = float((centred * (values - self.mean)).sum(dtype=np.float64))
        return np.asarray(np.maximum((found + own) / (2 * self.variance * known), 0), dtype=np.float32)

    def _context_cost(self, corner: tuple[int, int]) -> Float32:
        """Return the mean squared disagreement with the context map at each coarse corner."""
        grid_px, there, wanted = self.context
        side = max(self.side_px // grid_px, 1)
        height, width = there.shape[1:]
        rows, columns = (
            np.clip((np.arange(side) * grid_px + c + grid_px // 2) // grid_px, 0, n - 1)
            for c, n in zip(corner, (height, width), strict=True)
        )
        mine = wanted[:, rows[:, None], columns]  # (F, side, side)
        views = sliding_window_view(there, (min(side, height), min(side, width)), axis=(1, 2))
        mine = mine[:, : views.shape[3], : views.shape[4]]
        difference = ((views - mine[:, None, None]) ** 2).mean(axis=(0, 3, 4)) / 2
        y, x = (
            np.minimum((np.arange(n) * self.factor + grid_px // 2) // grid_px, m - 1)
            for n, m in zip(self.possible.shape, difference.shape, strict=True)
        )
        return np.asarray(difference[y[:, None], x], dtype=np.float32)

    def _refined(self, y: int, x: int, context: float, block: NDArray[np.generic], have: Mask) -> Candidate:
        """Correct a coarse place level by level; the difference on the overlap is that at the finest one."""
        y, x, difference = self._best_near(-1, y, x, block, have, 0)
        for level in reversed(range(len(self.levels) - 1)):
            y, x, difference = self._best_near(level, 2 * y, 2 * x, block, have, REACH_PX)
        return Candidate(difference / (2 * self.variance) + context, y, x)

    def _best_near(
        self, number: int, y: int, x: int, block: NDArray[np.generic], have: Mask, reach_px: int
    ) -> tuple[int, int, float]:
        """Return the best place within reach of one that is possible, and the mean squared difference there."""
        level = self.levels[number]
        values, weight = pooled(block, have, level.side_px)
        side, known = values.shape[1], float(weight.sum()) * len(values)
        if not known:
            return y, x, 0.0
        y0, x0 = max(y - reach_px, 0), max(x - reach_px, 0)
        crop = level.pixels[:, y0 : y + reach_px + side, x0 : x + reach_px + side]
        views = sliding_window_view(crop, (side, side), axis=(1, 2))
        difference = (((views - values[:, None, None]) ** 2) * weight).sum(axis=(0, 3, 4), dtype=np.float64)
        rows, columns = difference.shape
        difference[~self.corners[number][y0 : y0 + rows, x0 : x0 + columns]] = np.inf
        dy, dx = np.unravel_index(int(difference.argmin()), difference.shape)
        return y0 + int(dy), x0 + int(dx), float(difference[dy, dx]) / known


def pooled(block: NDArray[np.generic], have: Mask, side_px: int) -> tuple[Float32, Float32]:
    """Return means of what is there, (C, h, w), and its share of each square of ``side_px``, (h, w)."""
    known = have.astype(np.float32)
    count = known.shape[0] // side_px
    squares = (len(block), count, side_px, count, side_px)
    share = known.reshape(squares[1:]).mean(axis=(1, 3))
    total = (block.astype(np.float32) * known).reshape(squares).mean(axis=(2, 4))
    return total / np.maximum(share, np.float32(1e-6)), share


def whole_squares(mask: Mask, side_px: int) -> Mask:
    """Return which squares of ``side_px`` lie wholly in a mask, (H // side, W // side)."""
    rows, columns = (n // side_px for n in mask.shape)
    squares = mask[: rows * side_px, : columns * side_px].reshape(rows, side_px, columns, side_px)
    return np.asarray(squares.all(axis=(1, 3)))


def windows_within(mask: Mask, side: int) -> Mask:
    """Return at which corners a square window lies wholly in a mask, shaped as the mask."""
    found = np.zeros(mask.shape, dtype=bool)
    rows, columns = (n - side + 1 for n in mask.shape)
    if rows > 0 and columns > 0:
        sums = np.pad((~mask).astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        missing = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        found[:rows, :columns] = missing == 0
    return found


def lowest(cost: Float32, count: int) -> list[tuple[int, int]]:
    """Return the places of up to ``count`` lowest finite costs that are no neighbours of each other."""
    left, found = cost.copy(), list[tuple[int, int]]()
    while len(found) < count:
        y, x = (int(i) for i in np.unravel_index(int(left.argmin()), left.shape))
        if not np.isfinite(left[y, x]):
            break
        found.append((y, x))
        left[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = np.inf
    return found
