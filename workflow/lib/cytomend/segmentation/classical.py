"""The control segmenter: dark cell bodies by Otsu's threshold and a watershed on the distance from the ground.

Nothing is learned, so nothing can have been learned from mended tissue; what it finds in a picture depends on that
picture and four lengths alone. It is crude where bodies touch, and the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_multiotsu
from skimage.segmentation import watershed

from cytomend.errors import InputError

Grey = NDArray[np.generic]
Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClassicalSettings:
    """Lengths in µm, so that a scan of any pixel size is treated alike.

    ``smooth_um`` is the blur before the threshold, ``apart_um`` the least distance of two centres, ``even_um`` the blur
    of the distance map that keeps a ragged body in one piece, ``smallest_um2`` the least area of a cell.
    """

    smooth_um: float = 0.7
    apart_um: float = 4.0
    even_um: float = 1.0
    smallest_um2: float = 20.0


def body_threshold(image: Grey, settings: ClassicalSettings | None = None, *, pixel_size_um: float = 1.0) -> float:
    """Return the grey value below which a pixel belongs to a cell body, from a picture of many cells.

    Otsu's method for three classes: bodies in focus, what lies out of focus, ground. With two, hazy bodies count as
    cells, and cells come out a third too large.

    Parameters
    ----------
    image : (Y, X)
    settings : lengths in µm
    pixel_size_um : side of a pixel in µm
    """
    settings = settings or ClassicalSettings()
    return darkest_class(smoothed(image, settings.smooth_um / pixel_size_um))


def find_cells(
    image: Grey,
    settings: ClassicalSettings | None = None,
    *,
    pixel_size_um: float = 1.0,
    threshold: float | None = None,
) -> pd.DataFrame:
    """Return the dark cell bodies of a picture.

    Parameters
    ----------
    image : (Y, X), dark bodies on light ground
    settings : lengths in µm
    pixel_size_um : side of a pixel in µm
    threshold : grey value below which a pixel belongs to a body; by default the picture's own, by Otsu. A patch with
        few cells has no good threshold of its own: give that of its surroundings, also so that two versions of a patch
        are measured alike.

    Returns
    -------
    A row a cell: ``y_um``, ``x_um`` (centre, from the corner of the first pixel), ``area_um2``

    Raises
    ------
    InputError
        If the picture is not of one channel.

    Examples
    --------
    >>> image = np.full((40, 40), 200, np.uint8)
    >>> image[10:16, 20:28] = 50
    >>> find_cells(image, threshold=125).round(1).to_dict("records")
    [{'y_um': 13.0, 'x_um': 24.0, 'area_um2': 44.0}]
    """
    settings = settings or ClassicalSettings()
    table = measure_bodies(
        find_bodies(image, settings, pixel_size_um=pixel_size_um, threshold=threshold), pixel_size_um
    )
    return table[table["area_um2"] >= settings.smallest_um2].reset_index(drop=True)


def find_bodies(
    image: Grey,
    settings: ClassicalSettings | None = None,
    *,
    pixel_size_um: float = 1.0,
    threshold: float | None = None,
) -> NDArray[np.int64]:
    """Return the picture (Y, X) of numbered bodies, 0 for ground, those that are too small to be cells included.

    Parameters and errors are those of `find_cells`.
    """
    if image.ndim != 2:
        raise InputError(f"expected a grey picture (Y, X) to find cells in, found one of shape {image.shape}")
    settings = settings or ClassicalSettings()
    smooth = smoothed(image, settings.smooth_um / pixel_size_um)
    if threshold is None:
        threshold = darkest_class(smooth)
    dark = ndimage.binary_opening(smooth < threshold)
    return split(dark, settings.even_um / pixel_size_um, settings.apart_um / pixel_size_um)


def measure_bodies(bodies: NDArray[np.int64], pixel_size_um: float) -> pd.DataFrame:
    """Return ``y_um``, ``x_um`` and ``area_um2`` of numbered bodies (Y, X), in the order of their numbers."""
    labels = np.arange(1, bodies.max(initial=0) + 1)
    area_um2 = np.bincount(bodies.ravel(), minlength=len(labels) + 1)[1:] * pixel_size_um**2
    centres = np.reshape(ndimage.center_of_mass(bodies > 0, bodies, labels), (-1, 2))
    places = (centres + 0.5) * pixel_size_um
    return pd.DataFrame({"y_um": places[:, 0], "x_um": places[:, 1], "area_um2": area_um2})


def darkest_class(smooth: Float) -> float:
    """Return the lower of two thresholds between three classes of grey (Otsu 1979); an even picture has no dark one."""
    if len(np.unique(smooth)) < 3:
        return -np.inf
    return float(threshold_multiotsu(smooth, classes=3)[0])  # type: ignore[no-untyped-call]


def smoothed(image: Grey, sigma_px: float) -> Float:
    """Return the picture without its grain."""
    return np.asarray(ndimage.gaussian_filter(image.astype(np.float64), sigma_px))


def split(dark: NDArray[np.bool_], even_px: float, apart_px: float) -> NDArray[np.int64]:
    """Number the bodies: dark pixels go to the peak of the distance from the ground that they lie below."""
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(dark), even_px)
    apart = {"min_distance": max(round(apart_px), 1), "exclude_border": False}
    peaks = peak_local_max(depth, labels=ndimage.label(dark)[0], **apart)  # type: ignore[no-untyped-call]
    seeds = np.zeros(dark.shape, dtype=np.int64)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-depth, seeds, mask=dark), dtype=np.int64)  # type: ignore[no-untyped-call]
