"""The truth about a phantom's layers: which layer lies at each pixel, without drawing a single cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .areas import Area
from .tissue import choose_area, draw_frame


@dataclass(frozen=True, slots=True)
class LayerImage:
    """The layers of a phantom.

    Parameters
    ----------
    area : Area
        Its area; ``area.layers[i]`` is the layer of index i.
    index : (H, W) int8
        Index of the layer at each pixel's centre. Cells pass into the next layer over some tens of µm
        (`cytomend.phantom.population.LAYER_BLUR_UM`), the image does not.
    """

    area: Area
    index: NDArray[np.int8]


def layer_image(size: tuple[int, int], seed: int, *, pixel_size_um: float = 1.0, area: str | None = None) -> LayerImage:
    """Return the layers of the phantom that `cytomend.phantom.render_tissue` renders with the same arguments.

    Parameters
    ----------
    size : (int, int)
        Height and width in pixels.
    seed : int
        Seed of the phantom.
    pixel_size_um : float
        Side of a pixel in µm.
    area : str, optional
        Name of a cytoarchitectonic area; the seed chooses one if absent.

    Raises
    ------
    InputError
        If there is no such area.
    """
    layout = np.random.default_rng([seed, 0])  # the stream and the order of draws of `render_tissue`
    table = choose_area(area, layout)
    frame = draw_frame(table, (size[0] * pixel_size_um, size[1] * pixel_size_um), layout)
    y_um, x_um = ((np.arange(side, dtype=np.float32) + 0.5) * pixel_size_um for side in size)
    index = table.layer_index(frame.depth_um(y_um[:, None], x_um[None, :]))
    return LayerImage(table, index.astype(np.int8))
