"""Where in the search area a block fits: exhaustively on a coarse grid by FFT, then step by step down to the pixel.

The cost of a source has two parts, each about 1 for tissue taken at random: the squared difference to the pixels that
the block overlaps, smoothed, so that shapes count and grain does not; and disagreement with the context map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft, ndimage

from cytomend.grafts.context import ContextMap, coarsest

CANDIDATES = 16
FLAT = 0.2
"""Share of the tissue's variance that is added to that of an overlap, so that in flat ground grain decides nothing."""
FINE_UM, FINE_CANDIDATES = 0.9, 4
"""Below this pixel size that many of the candidates are corrected further."""
STRIP = 256
"""Rows that are computed in float32 at a time."""
REACH_PX = 1
"""How far a place is corrected at each finer level."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Candidate(NamedTuple):
    """A place for a block's corner in the search area, and what it costs."""

    cost: float
    y: int
    x: int


@dataclass(frozen=True, slots=True)
class Level:
    """A picture (C, h, w), halved several times: each pixel is the mean over ``side_px`` squares.

    The first level is the scan itself in its own dtype, so that a search area of small pixels takes little memory.
    """

    side_px: int
    pixels: NDArray[Any]


def levels_of(pixels: NDArray[np.generic], pixel_size_um: float) -> list[Level]:
    """Return the picture at 1, 2, 4, ... px, up to about 4 µm; odd rows at the far border are left out."""
    found = [Level(1, pixels)]
    while found[-1].side_px < coarsest(pixel_size_um):
        found.append(Level(found[-1].side_px * 2, halved(found[-1].pixels)))
    return found


def halved(pixels: NDArray[np.generic]) -> Float32:
    """Return means over 2 x 2 pixels, (C, h // 2, w // 2)."""
    height, width = (n // 2 for n in pixels.shape[-2:])
    means = np.empty((len(pixels), height, width), np.float32)
    for start in range(0, height, STRIP):
        strip = pixels[:, 2 * start : 2 * min(start + STRIP, height), : 2 * width].astype(np.float32)
        rows = strip[:, ::2] + strip[:, 1::2]
        means[:, start : start + STRIP] = (rows[..., ::2] + rows[..., 1::2]) * np.float32(0.25)
    return means


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
        self.features, self.pixel_size_um = Squares(context.there), pixel_size_um
        coarse = self.levels[-1]
        self.factor = coarse.side_px
        self.corners = [
            windows_within(whole_squares(source, level.side_px), side_px // level.side_px) for level in self.levels
        ]
        """By level, (h, w), at which corners a block lies wholly on tissue that may be copied."""
        allowed = whole_squares(source, self.factor)
        tissue = coarse.pixels[:, allowed] if allowed.any() else coarse.pixels.reshape(len(pixels), -1)
        self.mean = tissue.mean(axis=1, dtype=np.float64).astype(np.float32)[:, None, None]
        # What may not be copied is seen by nobody, not even in the last bits.
        centred = np.where(allowed, coarse.pixels - self.mean, np.float32(0))
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
        pools = [pooled(block, have, level.side_px) for level in self.levels]
        cost = self._overlap_cost(*pools[-1]) + context
        cost[~self.possible | barred] = np.inf
        return self._refined(lowest(cost, CANDIDATES), context, pools)

    def _overlap_cost(self, values: Float32, weight: Float32) -> Float32:
        """Return the difference on the overlap at each coarse corner; see `_relative`."""
        known = float(weight.sum()) * len(values)
        if known == 0:
            return np.zeros(self.possible.shape, np.float32)
        centred = (values - self.mean) * weight
        spectrum = (self.spectra * fft.rfft2(centred, self.shape).conj()).sum(axis=0)
        rows, columns = self.possible.shape
        common, theirs = (
            fft.irfft2(part, self.shape)[:rows, :columns]
            for part in (spectrum, self.energy * fft.rfft2(weight, self.shape).conj())
        )
        own = float((centred * (values - self.mean)).sum(dtype=np.float64))
        theirs = np.maximum(theirs, 0)
        return self._relative(np.maximum(theirs - 2 * common + own, 0), theirs, own, known).astype(np.float32)

    def _relative(self, difference: Float64, theirs: Float64, own: float, known: float) -> Float64:
        """Return squared differences over what two pictures without anything in common would have.

        That is the sum of their squared deviations from the mean of the tissue. The plain difference is least for
        sources of low contrast, so that small and faint cells would be copied more often than there are.

        Parameters
        ----------
        difference, theirs : sums over the overlap: squared differences, and squared deviations of each source
        own : squared deviations of what is there
        known : values in the overlap
        """
        return np.asarray(difference / (theirs + own + FLAT * self.variance * known))

    def _context_cost(self, corner: tuple[int, int]) -> Float32:
        """Return the mean squared disagreement with the context map at each coarse corner."""
        grid_px, there, wanted = self.context
        height, width = there.shape[1:]
        side = max(self.side_px // grid_px, 1)
        rows, columns = (
            np.clip((np.arange(side) * grid_px + c + grid_px // 2) // grid_px, 0, n - 1)
            for c, n in zip(corner, (height, width), strict=True)
        )
        mine = wanted[:, rows[: min(side, height), None], columns[: min(side, width)]]  # (F, side, side)
        difference = (self.features.squared(mine) / (2 * mine.size)).astype(np.float32)
        y, x = (
            np.minimum((np.arange(n) * self.factor + grid_px // 2) // grid_px, m - 1)
            for n, m in zip(self.possible.shape, difference.shape, strict=True)
        )
        return np.asarray(difference[y[:, None], x])

    def _refined(
        self, coarse: list[tuple[int, int]], context: Float32, pools: list[tuple[Float32, Float32]]
    ) -> list[Candidate]:
        """Correct coarse places level by level; the difference on the overlap is that at the finest one.

        Below `FINE_UM` a few of the best are corrected, since a block then has many pixels and all agree in its shapes.
        """
        found = [(*self._best_near(-1, y, x, pools[-1], 0), y, x) for y, x in coarse]
        for number in reversed(range(len(self.levels) - 1)):
            if self.levels[number].side_px * self.pixel_size_um < FINE_UM:
                found = sorted(found, key=lambda one: one[0] + context[one[3], one[4]])[:FINE_CANDIDATES]
            found = [
                (*self._best_near(number, 2 * y, 2 * x, pools[number], REACH_PX), coarse_y, coarse_x)
                for _, y, x, coarse_y, coarse_x in found
            ]
        return sorted(
            Candidate(difference + float(context[coarse_y, coarse_x]), y, x)
            for difference, y, x, coarse_y, coarse_x in found
        )

    def _best_near(
        self, number: int, y: int, x: int, pool: tuple[Float32, Float32], reach_px: int
    ) -> tuple[float, int, int]:
        """Return the best place within reach of one that is possible, after the difference there."""
        level, (values, weight) = self.levels[number], pool
        side, known = values.shape[1], float(weight.sum()) * len(values)
        if not known:
            return 0.0, y, x
        y0, x0 = max(y - reach_px, 0), max(x - reach_px, 0)
        crop = level.pixels[:, y0 : y + reach_px + side, x0 : x + reach_px + side].astype(np.float32)
        views = sliding_window_view(crop, (side, side), axis=(1, 2))
        difference = (((views - values[:, None, None]) ** 2) * weight).sum(axis=(0, 3, 4), dtype=np.float64)
        theirs = (((views - self.mean[:, None, None]) ** 2) * weight).sum(axis=(0, 3, 4), dtype=np.float64)
        own = float((((values - self.mean) ** 2) * weight).sum(dtype=np.float64))
        difference = self._relative(difference, theirs, own, known)
        rows, columns = difference.shape
        difference[~self.corners[number][y0 : y0 + rows, x0 : x0 + columns]] = np.inf
        dy, dx = np.unravel_index(int(difference.argmin()), difference.shape)
        return float(difference[dy, dx]), y0 + int(dy), x0 + int(dx)


class Squares:
    """Sums of squared differences between a small picture and every window of a large one, by FFT.

    Parameters
    ----------
    pictures : (F, h, w), the large one
    """

    def __init__(self, pictures: NDArray[np.float64]) -> None:
        self.extent = pictures.shape[1:]
        height, width = (fft.next_fast_len(n, real=True) for n in self.extent)
        self.shape = height, width
        self.spectra = fft.rfft2(pictures, self.shape)
        self.energy = fft.rfft2((pictures**2).sum(axis=0), self.shape)

    def squared(self, small: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum at each corner where ``small``, (F, a, b), lies wholly within, (h - a + 1, w - b + 1)."""
        ones = np.ones(small.shape[1:])
        spectrum = self.energy * fft.rfft2(ones, self.shape).conj()
        spectrum -= 2 * (self.spectra * fft.rfft2(small, self.shape).conj()).sum(axis=0)
        rows, columns = (n - m + 1 for n, m in zip(self.extent, small.shape[1:], strict=True))
        found = fft.irfft2(spectrum, self.shape)[:rows, :columns]
        return np.asarray(np.maximum(found + (small**2).sum(), 0))


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
    if not mask.size:
        return mask.copy()
    found = mask.view(np.uint8)
    for axis in (0, 1):
        found = ndimage.minimum_filter1d(found, side, axis=axis, mode="constant", cval=0, origin=-(side // 2))
    return found.view(bool)


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
