"""Segmenters by name: a grey picture in, a table of cells with their contours out."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.places import MODELS
from cytomend.plugins import is_plugin, plugin
from cytomend.segmentation.classical import ClassicalSettings, body_threshold, find_bodies, measure_bodies
from cytomend.segmentation.table import cell_table, label_contours

Grey = NDArray[np.generic]

BUNDLED = MODELS / "cells" / "model.safetensors"
NAMES = (
    "'cpn' (bundled), 'classical', the path of a .safetensors file written by `cytomend train-segmenter`,"
    " 'celldetection:FILE' or 'package.module:factory'"
)


class Segmenter(Protocol):
    """Whatever finds cells.

    Attributes
    ----------
    name : str
        What tables call it.
    """

    name: str

    def find(
        self,
        image: Grey,
        *,
        pixel_size_um: float,
        value_range: tuple[float, float],
        surroundings: Grey | None = None,
    ) -> pd.DataFrame:
        """Return the dark cell bodies of a picture.

        Parameters
        ----------
        image : (Y, X) of any dtype, dark cells on light ground
        pixel_size_um : side of a pixel in µm
        value_range : values that mean black and white
        surroundings : (Y, X), a larger picture of the same tissue, for segmenters that take a threshold from it, so
            that two versions of a patch are measured alike

        Returns
        -------
        A row a cell: ``y_um``, ``x_um`` (centroid of the contour, from the corner of the first pixel), ``area_um2``,
        ``score`` in [0, 1], ``contour_y_um``, ``contour_x_um`` (float32 arrays, the polygon's points)
        """
        ...


class ClassicalSegmenter:
    """Otsu's threshold and a watershed, with contours; every cell has the score 1."""

    name = "classical"

    def __init__(self, settings: ClassicalSettings | None = None) -> None:
        self.settings = settings or ClassicalSettings()

    def find(
        self,
        image: Grey,
        *,
        pixel_size_um: float,
        value_range: tuple[float, float],  # noqa: ARG002 - the threshold follows from the picture
        surroundings: Grey | None = None,
    ) -> pd.DataFrame:
        """Return the cells of a picture; see `Segmenter.find`."""
        about = image if surroundings is None else surroundings
        threshold = body_threshold(about, self.settings, pixel_size_um=pixel_size_um)
        bodies = find_bodies(image, self.settings, pixel_size_um=pixel_size_um, threshold=threshold)
        places = measure_bodies(bodies, pixel_size_um)
        contours = [contour * np.float32(pixel_size_um) for contour in label_contours(bodies)]
        large = np.flatnonzero(places["area_um2"] >= self.settings.smallest_um2)
        return cell_table(
            places[["y_um", "x_um"]].to_numpy()[large],
            places["area_um2"].to_numpy()[large],
            np.ones(len(large)),
            [contours[i] for i in large],
        )


def open_segmenter(name: str, device: str = "cpu") -> Segmenter:
    """Return a segmenter by its name.

    Parameters
    ----------
    name : ``cpn``, ``classical``, the path of a .safetensors file, ``celldetection:FILE`` or ``package.module:factory``
    device : torch device, for those that use one

    Raises
    ------
    InputError
        If there is none of this name, or it cannot be loaded.
    """
    if name == "classical":
        return ClassicalSegmenter()
    if name.startswith("celldetection:"):
        from cytomend.segmentation.celldetection import open_celldetection

        return open_celldetection(Path(name.removeprefix("celldetection:")), device)
    if name == "cpn" or name.endswith(".safetensors"):
        from cytomend.segmentation.cpn_segmenter import CpnSegmenter  # torch is heavy

        return CpnSegmenter.load(
            BUNDLED if name == "cpn" else Path(name), device, name="cpn" if name == "cpn" else Path(name).stem
        )
    if is_plugin(name):
        segmenter: Segmenter = plugin(name, "segmenter")()
        return segmenter
    raise InputError(f"segmenter {name!r}: expected {NAMES}")
