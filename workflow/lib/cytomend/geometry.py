"""Boxes on the pixel lattice of a section: the one geometric word that every layer shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True, slots=True)
class Box:
    """A half-open rectangle of level-0 pixels, ``y0 <= y < y1`` and ``x0 <= x < x1``; it may reach outside the section.

    >>> Box(0, 0, 4, 6).grow(1).clip((5, 5))
    Box(y0=0, x0=0, y1=5, x1=5)
    """

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def is_empty(self) -> bool:
        """Whether the box holds no pixel."""
        return self.y1 <= self.y0 or self.x1 <= self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as an index of a (y, x) array; only for boxes inside the section."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def grow(self, margin_px: int) -> Box:
        """Return the box with a margin on every side."""
        return Box(self.y0 - margin_px, self.x0 - margin_px, self.y1 + margin_px, self.x1 + margin_px)

    def clip(self, shape: tuple[int, int]) -> Box:
        """Return the part of the box inside a section of this (height, width)."""
        return self.intersect(Box(0, 0, *shape))

    def intersect(self, other: Box) -> Box:
        """Return the pixels both boxes hold."""
        return Box(max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1))

    def union(self, other: Box) -> Box:
        """Return the smallest box that holds both."""
        return Box(min(self.y0, other.y0), min(self.x0, other.x0), max(self.y1, other.y1), max(self.x1, other.x1))

    def relative_to(self, other: Box) -> Box:
        """Return the box in coordinates whose origin is the corner of ``other``."""
        return Box(self.y0 - other.y0, self.x0 - other.x0, self.y1 - other.y0, self.x1 - other.x0)

    def tiles(self, tile_px: int) -> Iterator[Box]:
        """Cut the box along the absolute grid of ``tile_px``, row by row; tiles at the rim are smaller."""
        for y in range(self.y0 // tile_px * tile_px, self.y1, tile_px):
            for x in range(self.x0 // tile_px * tile_px, self.x1, tile_px):
                yield Box(y, x, y + tile_px, x + tile_px).intersect(self)
