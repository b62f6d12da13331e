"""One part of a section with enough around it that no detector can tell where the part ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.screening.light import Bools, Floats, LightReader, Scale, squares
from cytomend.screening.survey import Survey


@dataclass(frozen=True, slots=True)
class Seen:
    """What a detector saw in a tile, on one lattice.

    Parameters
    ----------
    kind : str
        Name of the detector.
    lattice : int
        Index of the lattice.
    mask : (h, w) bool
        What is to be proposed.
    evidence : (h, w) float32
        How plain it is; 1 at the detector's limit.
    seed : (h, w) bool
        A proposal without any such square is dropped.
    aside : (h, w) bool
        Squares that speak for a natural cause.
    """

    kind: str
    lattice: int
    mask: Bools
    evidence: Floats
    seed: Bools
    aside: Bools

    def cropped(self, margin: int) -> Seen:
        """Return the tile without its margin."""
        inner = (slice(margin, -margin or None),) * 2
        maps = (self.mask, self.evidence, self.seed, self.aside)
        return Seen(self.kind, self.lattice, *(values[inner] for values in maps))  # type: ignore[arg-type]

    def without(self, otherwise: Bools) -> Seen:
        """Return what was seen but for squares that something else explains."""
        return Seen(self.kind, self.lattice, self.mask & ~otherwise, self.evidence, self.seed & ~otherwise, self.aside)


class Tile:
    """A part of a section on all lattices.

    Parameters
    ----------
    reader : LightReader
        Of the section.
    scale : Scale
        Its lattices.
    survey : Survey
        Of the whole section.
    core : Box
        The part, in pixels of the scan, along the survey's squares.
    halo_um : float
        How far around it pixels are read: no detector looks farther.
    """

    def __init__(self, reader: LightReader, scale: Scale, survey: Survey, core: Box, halo_um: float) -> None:
        self.scale = scale
        self.survey = survey
        self.core = core
        self._halo_px = self.margin(halo_um, 0) * scale.factors[0]
        self._pixels = reader.read(core.grow(self._halo_px))

    def margin(self, halo_um: float, lattice: int) -> int:
        """Return a halo in squares of a lattice, rounded up to whole squares of the survey."""
        side = self.survey.square_px
        return -(-round(halo_um / self.scale.pixel_size_um) // side) * (side // self.scale.factors[lattice])

    def light(self, lattice: int, halo_um: float) -> Floats:
        """Return the light of the core and a halo around it."""
        return squares(self._within(halo_um), self.scale.factors[lattice])

    def surveyed(self, values: NDArray[np.generic], lattice: int, halo_um: float) -> NDArray[np.generic]:
        """Return a map of the survey on a lattice; beyond its rim it goes on as it ends."""
        side = self.survey.square_px
        box = self.core.grow(self.margin(halo_um, lattice) * self.scale.factors[lattice])
        rows = np.arange(box.y0 // side, -(-box.y1 // side)).clip(0, values.shape[0] - 1)
        columns = np.arange(box.x0 // side, -(-box.x1 // side)).clip(0, values.shape[1] - 1)
        count = side // self.scale.factors[lattice]
        return np.repeat(np.repeat(values[np.ix_(rows, columns)], count, 0), count, 1)

    def _within(self, halo_um: float) -> NDArray[np.uint16]:
        unused = self._halo_px - self.margin(halo_um, 0) * self.scale.factors[0]
        return self._pixels[unused : -unused or None, unused : -unused or None]


def tiles(shape: tuple[int, int], square_px: int, tile_px: int) -> Iterator[Box]:
    """Yield the parts of a section row by row, in whole squares of the survey, beyond the border if they must."""
    height, width = (-(-size // square_px) * square_px for size in shape)
    yield from Box(0, 0, height, width).tiles(tile_px)
