"""Copying: which intact tissue of the section a window looks most like, how much, and how far away it lies.

A fill should look like the tissue around it, and not be a copy of it. For a graft, which is a copy by design, the
search finds its source again: how far it lies from its target, and how often one source is used.

Windows are compared by the correlation of their grey values, so that a copy in another brightness or contrast counts
too: 1 is a copy. All places and all eight poses (four turns, each plain and mirrored) are searched. The search first
looks at block means of `COARSE_PX` a window, by FFT, and then at the best `CANDIDATES` pixel by pixel.

What real tissue finds in the rest of the section is the yardstick. Two windows of one tissue are never quite unlike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cytomend.errors import InputError

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Mask = NDArray[np.bool_]

POSES = 8
COPY = 0.95
"""Correlation from which on a window counts as a copy."""
COARSE_PX = 16
CANDIDATES = 24
FLAT = 0.05
"""A place whose standard deviation is less than this part of the section's is glass: nothing is found there."""


class Source(NamedTuple):
    """Where a window was found: its correlation, upper left corner in px, and pose (`poses`) of the window there."""

    correlation: float
    y: int
    x: int
    pose: int


class Correlator:
    """Finds the correlation of squares of one size with an image at every place.

    Parameters
    ----------
    image : (Y, X)
    side_px : of the squares
    """

    def __init__(self, image: Float, side_px: int) -> None:
        self.image, self.side = image, side_px
        centred = image - image.mean()
        self.shape = tuple(scipy.fft.next_fast_len(n, real=True) for n in image.shape)
        self.spectrum = scipy.fft.rfft2(centred, self.shape)
        total, square = (box_sums(centred.astype(np.float64) ** k, side_px) for k in (1, 2))
        self.deviation = np.sqrt(np.maximum(square - total**2 / side_px**2, 0))  # (Y - side + 1, X - side + 1)
        self.flat = self.deviation < max(FLAT * float(centred.std()) * side_px, 1e-6)

    def correlate(self, query: Float) -> Float:
        """Return the correlation of a square with every place, (Y - side + 1, X - side + 1); -1 where all is flat."""
        centred = query - query.mean()
        height, width = self.deviation.shape
        spectrum = self.spectrum * scipy.fft.rfft2(centred, self.shape).conj()
        products = scipy.fft.irfft2(spectrum, self.shape)[:height, :width]
        scale = np.where(self.flat, np.inf, self.deviation) * max(float(np.linalg.norm(centred)), 1e-6)
        return np.where(self.flat, -1, products / scale).astype(np.float32)

    def nearest(self, query: Float, barred: Mask | None = None) -> Source:
        """Return the best of all places and poses but those that are barred, (Y - side + 1, X - side + 1)."""
        found = []
        for number, posed in enumerate(poses(query)):
            correlation = self.correlate(posed)
            if barred is not None:
                correlation = np.where(barred, -1, correlation)
            y, x = np.unravel_index(int(correlation.argmax()), correlation.shape)
            found.append(Source(float(correlation[y, x]), int(y), int(x), number))
        return max(found)


class Tissue:
    """Intact tissue that can be searched, from coarse to fine.

    Parameters
    ----------
    image : (Y, X) grey values
    side_px : of the windows
    unknown : (Y, X), pixels that are no source; a window that meets any of them is none

    Raises
    ------
    InputError
        If no window of this size is intact.
    """

    def __init__(self, image: NDArray[np.generic], side_px: int, unknown: Mask) -> None:
        self.side, self.step = side_px, max(side_px // COARSE_PX, 1)
        known = ~unknown
        level = float(image[known].mean()) if known.any() else 0.0
        self.image = np.where(unknown, np.float32(level), image.astype(np.float32))
        fits = min(image.shape) >= side_px
        self.barred = box_sums(unknown.astype(np.float64), side_px) > 0.5 if fits else np.ones((1, 1), bool)
        if self.barred.all():
            raise InputError(
                f"expected intact tissue to search for windows of {side_px} px, found none in {image.shape} px; search"
                " further around, or take smaller windows"
            )
        self.coarse = Correlator(block_means(self.image, self.step), side_px // self.step)
        # Only what is unknown for certain is barred here: the fine search looks at every pixel.
        wholly = block_means(unknown.astype(np.float32), self.step) > 1 - 1e-6
        self.coarse_barred = box_sums(wholly.astype(np.float64), self.coarse.side) > 0.5

    def nearest(self, query: NDArray[np.generic]) -> Source:
        """Return where a window (S, S) is most like this tissue."""
        window = query.astype(np.float32)
        even = self.coarse.side * self.step
        small = block_means(window[:even, :even], self.step)
        maps = [np.where(self.coarse_barred, -1, self.coarse.correlate(posed)) for posed in poses(small)]
        refined = [
            self._refine(pose(window, number), number, y * self.step, x * self.step)
            for number, y, x in peaks(np.stack(maps), max(self.coarse.side // 4, 1))
        ]
        return max(refined)

    def _refine(self, posed: Float, number: int, y: int, x: int) -> Source:
        """Return the best place within a coarse pixel of this corner."""
        height, width = self.barred.shape
        (y0, y1), (x0, x1) = (
            (min(max(at - self.step, 0), size - 1), min(at + self.step + 1, size))
            for at, size in ((y, height), (x, width))
        )
        area = self.image[y0 : y1 + self.side - 1, x0 : x1 + self.side - 1]
        places = sliding_window_view(area, (self.side, self.side))  # (h, w, S, S)
        query = posed - posed.mean()
        products = np.einsum("ijkl,kl->ij", places, query)
        deviation = places.std((2, 3)) * self.side
        norm = max(float(np.linalg.norm(query)), 1e-6)
        correlation = np.where(self.barred[y0:y1, x0:x1], -1, products / np.maximum(deviation * norm, 1e-6))
        i, j = np.unravel_index(int(correlation.argmax()), correlation.shape)
        return Source(float(correlation[i, j]), y0 + int(i), x0 + int(j), number)


def peaks(maps: Float, apart: int) -> Iterator[tuple[int, int, int]]:
    """Yield index, y and x of the highest values of maps (n, Y, X), those of one map further apart than that."""
    left = maps.copy()
    for _ in range(CANDIDATES):
        i, y, x = map(int, np.unravel_index(int(left.argmax()), left.shape))
        yield i, y, x
        left[i, max(y - apart, 0) : y + apart + 1, max(x - apart, 0) : x + apart + 1] = -2


def block_means(image: Float, step: int) -> Float:
    """Return the mean of every square of ``step`` px, side by side; what does not fill a square is left out."""
    height, width = (side // step for side in image.shape)
    blocks = image[: height * step, : width * step].reshape(height, step, width, step)
    return np.asarray(blocks.mean((1, 3)), dtype=np.float32)


def box_sums(values: Double, side_px: int) -> Double:
    """Return the sum over every square of a side."""
    table = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return np.asarray(
        table[side_px:, side_px:]
        - table[:-side_px, side_px:]
        - table[side_px:, :-side_px]
        + table[:-side_px, :-side_px]
    )


def pose(square: Float, number: int) -> Float:
    """Return a square in one of eight poses: four turns, each plain and (from 4 on) mirrored."""
    turned = np.rot90(square, number % 4)
    return turned[:, ::-1] if number >= 4 else turned


def poses(square: Float) -> Iterator[Float]:
    """Yield the eight poses of a square."""
    for number in range(POSES):
        yield pose(square, number)


def unposed(square: Float, number: int) -> Float:
    """Return a square that was found for a pose as the query's own pose would show it."""
    return np.rot90(square[:, ::-1] if number >= 4 else square, -(number % 4))


class Use(NamedTuple):
    """How sources are used: pixels of all of them, different pixels among these, and the most uses of one pixel.

    The first two add up over sections. Their ratio is how often a pixel that is a source is used: 1 if none is twice.
    """

    used_px: int
    different_px: int
    most: int


def source_use(sources: Sequence[Source], side_px: int) -> Use:
    """Return how the sources of one section are used."""
    if not sources:
        return Use(0, 0, 0)
    y0, x0 = min(s.y for s in sources), min(s.x for s in sources)
    shape = (max(s.y for s in sources) - y0 + side_px, max(s.x for s in sources) - x0 + side_px)
    used = np.zeros(shape, np.int32)
    for source in sources:
        used[source.y - y0 : source.y - y0 + side_px, source.x - x0 : source.x - x0 + side_px] += 1
    return Use(int(used.sum()), int((used > 0).sum()), int(used.max()))
