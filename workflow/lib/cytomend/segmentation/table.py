"""The table of cells that every segmenter returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

Contour = NDArray[np.float32]
"""(n, 2) points (y, x) of a polygon, the first not repeated; from the corner of the first pixel."""

COLUMNS = ("y_um", "x_um", "area_um2", "score", "contour_y_um", "contour_x_um")


def cell_table(
    places_um: NDArray[np.floating],
    area_um2: NDArray[np.floating],
    score: NDArray[np.floating],
    contours_um: Sequence[Contour],
) -> pd.DataFrame:
    """Return the table of cells.

    Parameters
    ----------
    places_um : (n, 2) centroids (y, x) in µm
    area_um2 : (n,)
    score : (n,) in [0, 1]
    contours_um : n arrays (points, 2) in µm
    """
    table = pd.DataFrame(
        {
            "y_um": np.asarray(places_um[:, 0], np.float64),
            "x_um": np.asarray(places_um[:, 1], np.float64),
            "area_um2": np.asarray(area_um2, np.float64),
            "score": np.asarray(score, np.float64),
        }
    )
    for axis, name in enumerate(("contour_y_um", "contour_x_um")):
        column = np.empty(len(contours_um), dtype=object)
        for i, contour in enumerate(contours_um):
            column[i] = np.ascontiguousarray(contour[:, axis], np.float32)
        table[name] = column
    return table


def table_contours(cells: pd.DataFrame, pixel_size_um: float = 1.0) -> list[Contour]:
    """Return the contours (points, 2) of a table of cells, in pixels of this size."""
    pairs = zip(cells["contour_y_um"], cells["contour_x_um"], strict=True)
    return [np.asarray(np.stack(pair, axis=1) / pixel_size_um, np.float32) for pair in pairs]


def label_contours(labels: NDArray[np.integer]) -> list[Contour]:
    """Return the outline in px of every label 1..n of a label image (Y, X): halfway between its pixels and others."""
    boxes = ndimage.find_objects(np.asarray(labels, np.int64))
    return [_outline(labels[box] == i, box) for i, box in enumerate(boxes, 1)]


def _outline(body: NDArray[np.bool_], box: tuple[slice, slice]) -> Contour:
    rings = find_contours(np.pad(body, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    longest = max(rings, key=len)[:-1]
    # The pad shifts by one pixel, and a pixel's centre lies half a pixel from its corner.
    return np.asarray(longest - 0.5 + [box[0].start, box[1].start], np.float32)
