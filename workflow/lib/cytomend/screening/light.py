"""A section as light on lattices of about 1, 2, 4 and 8 µm: the one way in which detectors see pixels.

Light is the luminance between black (0) and white (1), in whole steps of 1/4095. Means over squares of the absolute
lattice are sums of whole numbers, and filters have kernels that end, so that a value depends on the pixels around it
and not on the tile in which it was computed. Beyond its border a section is mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.storage.images import SectionImage
from cytomend.values import ValueRange

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

STEPS = 4095
LATTICES_UM = (1.0, 2.0, 4.0, 8.0)
RED, GREEN, BLUE = 299, 587, 114


@dataclass(frozen=True, slots=True)
class Scale:
    """How the lattices of a section lie over its pixels.

    Parameters
    ----------
    pixel_size_um : float
        Side of a pixel of the scan.
    factors : tuple of int
        Pixels a lattice square has on a side, one for each of `LATTICES_UM`; each is a multiple of the one before.
    """

    pixel_size_um: float
    factors: tuple[int, ...]

    @classmethod
    def of(cls, pixel_size_um: float) -> Scale:
        """Choose the lattices nearest to `LATTICES_UM`; where pixels are coarser, the pixels themselves.

        >>> Scale.of(1.0).factors, Scale.of(0.5).factors, Scale.of(12.0).factors
        ((1, 2, 4, 8), (2, 4, 8, 16), (1, 1, 1, 1))
        """
        factors: list[int] = []
        for side_um in LATTICES_UM:
            before = factors[-1] if factors else 1
            factors.append(before * max(1, round(side_um / (pixel_size_um * before))))
        return cls(pixel_size_um, tuple(factors))

    def side_um(self, lattice: int) -> float:
        """Return the side of a square of a lattice in µm."""
        return self.factors[lattice] * self.pixel_size_um

    def sigma(self, width_um: float, lattice: int) -> float:
        """Return a width in squares of a lattice."""
        return width_um / self.side_um(lattice)

    def steps(self, length_um: float, lattice: int) -> int:
        """Return a length in whole squares of a lattice, at least one."""
        return max(1, round(length_um / self.side_um(lattice)))


class LightReader:
    """Reads light of boxes that may reach outside the section."""

    def __init__(self, image: SectionImage, value_range: ValueRange) -> None:
        self.shape = image.shape
        self._image = image
        self._range = value_range

    def read(self, box: Box) -> NDArray[np.uint16]:
        """Return the light of a box in steps, (h, w), mirrored beyond the border."""
        rows, columns = (
            _mirrored(*span) for span in ((box.y0, box.y1, self.shape[0]), (box.x0, box.x1, self.shape[1]))
        )
        seen = Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
        light = to_light(self._image.read(seen), self._range)
        if seen == box:
            return light
        return light[np.ix_(rows - seen.y0, columns - seen.x0)]


def to_light(pixels: NDArray[Any], value_range: ValueRange) -> NDArray[np.uint16]:
    """Return (C, h, w) pixels as light in steps, (h, w); RGB by its luminance (Rec. 601).

    >>> to_light(np.array([[[0, 255, 128]]], np.uint8), (0.0, 255.0)).tolist()
    [[0, 4095, 2056]]
    """
    low, high = value_range
    # A table over all values, in thousandths for RGB, is many times faster than arithmetic on every pixel.
    thousandths = 1 if len(pixels) == 1 else 1000
    values = np.arange(int(np.iinfo(pixels.dtype).max) * thousandths + 1) / thousandths
    table = np.rint((values - low) * (STEPS / (high - low))).clip(0, STEPS).astype(np.uint16)
    if len(pixels) == 1:
        return np.asarray(table[pixels[0]])
    red, green, blue = (channel.astype(np.uint32) for channel in pixels)
    return np.asarray(table[RED * red + GREEN * green + BLUE * blue])


def squares(light: NDArray[np.uint16], factor: int) -> Floats:
    """Return means over squares in [0, 1]; the sides must be multiples of the factor."""
    if factor == 1:
        return (light / STEPS).astype(np.float32)
    height, width = light.shape
    # Rows first, which lie one after another: five times as fast as both at once.
    rows = light.reshape(height // factor, factor, width).sum(1, dtype=np.uint32)
    sums = rows.reshape(height // factor, width // factor, factor).sum(2, dtype=np.int64)
    return np.asarray(sums / (STEPS * factor * factor), np.float32)


def _mirrored(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the indices of a line of pixels that continues mirrored at both ends."""
    place = np.arange(start, stop) % (2 * size)
    return np.where(place < size, place, 2 * size - 1 - place).astype(np.intp)
