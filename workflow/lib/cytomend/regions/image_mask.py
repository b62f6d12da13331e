"""An artefact mask painted as an image: full size, or reduced by one whole factor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.storage.images import SectionImage, open_labels
from cytomend.storage.raster import require_inside

FEWEST_PX = 8
"""A smaller picture fits any section by chance."""


class ImageMask:
    """Damage marked by nonzero pixels of an image, each standing for ``factor`` x ``factor`` pixels of the section.

    Parameters
    ----------
    image : SectionImage
        One channel.
    shape : (height, width)
        Size of the section in pixels.
    factor : int
        How much smaller the image is; rows and columns that it lost to rounding take the value beside them.
    warnings : list of str
        What the user should know.
    """

    def __init__(self, image: SectionImage, shape: tuple[int, int], factor: int, warnings: list[str]) -> None:
        self.shape = shape
        self.warnings = warnings
        self._image = image
        self._factor = factor

    def candidate_boxes(self, tile_px: int, margin_px: int = 0) -> Iterator[Box]:
        """Yield the tiles of the absolute grid that hold a nonzero pixel, row by row; with a margin, tiles near these.

        The image is decoded once, in bands of whole tiles that are as close to its own blocks as may be.
        """
        reach = -(-margin_px // tile_px)
        if reach == 0:
            yield from self._damaged(tile_px)
            return
        last_row, last_column = ((side - 1) // tile_px for side in self.shape)
        near = {
            (y, x)
            for tile in self._damaged(tile_px)
            for y in range(max(tile.y0 // tile_px - reach, 0), min(tile.y0 // tile_px + reach, last_row) + 1)
            for x in range(max(tile.x0 // tile_px - reach, 0), min(tile.x0 // tile_px + reach, last_column) + 1)
        }
        for y, x in sorted(near):
            yield Box(y * tile_px, x * tile_px, (y + 1) * tile_px, (x + 1) * tile_px).clip(self.shape)

    def _damaged(self, tile_px: int) -> Iterator[Box]:
        height, width = self.shape
        band_height, band_width = (_whole_tiles(side * self._factor, tile_px) for side in self._image.block_px)
        for y in range(0, height, band_height):
            band = Box(y, 0, y + band_height, width).clip(self.shape)
            blocks = (Box(y, x, y + band_height, x + band_width).clip(self.shape) for x in range(0, width, band_width))
            damaged = {tile for block in blocks for tile in self._damaged_tiles(block, tile_px)}
            yield from (tile for tile in band.tiles(tile_px) if tile in damaged)

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Read the mask of one box, (h, w); ValueError when the box is empty or reaches outside the section."""
        require_inside(box, self.shape)
        reduced = self._reduced(box)
        pixels: NDArray[np.bool_] = self._image.read(reduced)[0] != 0
        if self._factor == 1:
            return pixels
        if not pixels.any():
            return np.zeros(box.shape, np.bool_)
        rows = np.minimum(np.arange(box.y0, box.y1) // self._factor, reduced.y1 - 1) - reduced.y0
        columns = np.minimum(np.arange(box.x0, box.x1) // self._factor, reduced.x1 - 1) - reduced.x0
        enlarged: NDArray[np.bool_] = pixels[:, columns][rows]
        return enlarged

    def _damaged_tiles(self, block: Box, tile_px: int) -> list[Box]:
        """Return the tiles of a block that are damaged; the whole block is looked at first, for most hold nothing."""
        reduced = self._reduced(block)
        pixels = self._image.read(reduced)[0]
        if not pixels.any():
            return []
        tiles = block.tiles(tile_px)
        return [tile for tile in tiles if pixels[self._reduced(tile).relative_to(reduced).slices].any()]

    def _reduced(self, box: Box) -> Box:
        """Return the pixels of the image that a box of the section takes its values from."""
        height, width = self._image.shape
        y0, x0 = min(box.y0 // self._factor, height - 1), min(box.x0 // self._factor, width - 1)
        y1, x1 = min(-(-box.y1 // self._factor), height), min(-(-box.x1 // self._factor), width)
        return Box(y0, x0, y1, x1)


def read_image_mask(path: Path, shape: tuple[int, int], warnings: list[str]) -> ImageMask:
    """Open a mask image; see `cytomend.regions.annotation.open_mask`."""
    image = open_labels(path)
    warnings += image.warnings
    factor = _nearest_factor(image.shape, shape)
    if not all(_fits(small, large, factor) for small, large in zip(image.shape, shape, strict=True)):
        raise InputError(
            f"{path}: expected a mask of the section's {_size(shape)} pixels (height x width) or one reduced by a whole"
            f" factor, found {_size(image.shape)}, nearest to a factor of {factor}, which gives"
            f" {_size((-(-shape[0] // factor), -(-shape[1] // factor)))}; export the mask of this section at such"
            f" a size{''.join(f' ({warning})' for warning in image.warnings)}"
        )
    if factor > 1 and min(image.shape) < FEWEST_PX:
        raise InputError(
            f"{path}: expected a mask of the section's {_size(shape)} pixels (height x width) or a reduced one of at"
            f" least {FEWEST_PX} a side, found {_size(image.shape)}; export the mask of this section"
        )
    return ImageMask(image, shape, factor, warnings)


def _nearest_factor(small: tuple[int, int], large: tuple[int, int]) -> int:
    """Return the whole factor that comes closest to both axes."""
    guess = max(1, round((large[0] / small[0] + large[1] / small[1]) / 2))
    nearby = range(max(1, guess - 1), guess + 2)
    return min(nearby, key=lambda factor: sum(abs(b / factor - a) for a, b in zip(small, large, strict=True)))


def _fits(small: int, large: int, factor: int) -> bool:
    return small in (large // factor, -(-large // factor))


def _whole_tiles(length_px: int, tile_px: int) -> int:
    return -(-length_px // tile_px) * tile_px


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
