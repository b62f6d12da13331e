"""A picture on the pixel lattice of the model, read box by box, each box as if the whole picture had been resampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.errors import InputError
from cytomend.geometry import Box

Floats = NDArray[np.float32]

CLOSE = 1.1
"""A pixel size within this factor of the model's is used as it is; the model learned from cells of all such sizes."""
FINEST, COARSEST = 0.1, 2.5
"""Pixel sizes that can be resampled, relative to the model's. A cell of 12 µm is five pixels wide at the coarsest."""
TRUNCATE = 3.0


@dataclass(frozen=True, slots=True)
class Grid:
    """``shape`` (height, width) in px of the model's lattice, their side, and source pixels to one of them."""

    shape: tuple[int, int]
    pixel_size_um: float
    step: float


def grid_for(shape: tuple[int, int], pixel_size_um: float, model_um: float) -> Grid:
    """Return the lattice on which a model sees a picture.

    Parameters
    ----------
    shape : (height, width) of the picture in px
    pixel_size_um : of the picture
    model_um : pixel size of the model

    Raises
    ------
    InputError
        If the pixel size is too far from the model's.
    """
    ratio = pixel_size_um / model_um
    if not FINEST <= ratio <= COARSEST:
        raise InputError(
            f"pixel size {pixel_size_um} µm: expected between {FINEST * model_um:g} and {COARSEST * model_um:g} µm for"
            f" this segmenter, which learned at {model_um:g} µm; give the right --pixel-size-um, or resample the image"
        )
    if 1 / CLOSE <= ratio <= CLOSE:
        return Grid(shape, pixel_size_um, 1.0)
    height, width = (max(round(side * ratio), 1) for side in shape)
    return Grid((height, width), model_um, 1 / ratio)


class Resampled:
    """Pixels on a grid.

    Parameters
    ----------
    read : returns the pixels (h, w) of a box inside the picture
    shape : (height, width) of the picture in its own px
    grid : the lattice wanted
    """

    def __init__(self, read: Callable[[Box], Floats], shape: tuple[int, int], grid: Grid) -> None:
        self._read, self._shape, self.grid = read, shape, grid
        # Half a step of blur keeps what the coarser lattice cannot show from folding into it.
        self._sigma = 0.5 * grid.step if grid.step > 1 else 0.0

    def read(self, box: Box) -> Floats:
        """Return the pixels (h, w) of a box inside the grid."""
        step = self.grid.step
        if step == 1:
            return np.ascontiguousarray(self._read(box))
        y = (np.arange(box.y0, box.y1) + 0.5) * step - 0.5
        x = (np.arange(box.x0, box.x1) + 0.5) * step - 0.5
        around = int(np.ceil(TRUNCATE * self._sigma)) + 2
        source = Box(int(y[0]), int(x[0]), int(np.ceil(y[-1])) + 1, int(np.ceil(x[-1])) + 1).grow(around)
        source = source.clip(self._shape)
        pixels = self._read(source)
        if self._sigma:
            pixels = ndimage.gaussian_filter(pixels, self._sigma, mode="nearest", truncate=TRUNCATE)
        at = np.meshgrid(y - source.y0, x - source.x0, indexing="ij")
        return np.asarray(ndimage.map_coordinates(pixels, at, order=1, mode="nearest"), np.float32)
