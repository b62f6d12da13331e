"""Pixels as a browser shows them: grey values on the display's scale, and small enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytomend.values import ValueRange

PREVIEW_QUALITY = 82
"""Of WebP for overviews, which are reduced anyway: a loss that the eye does not see."""


def to_display(pixels: NDArray[np.generic], value_range: ValueRange) -> NDArray[np.uint8]:
    """Return pixels on the display's scale: the ends of the value range are 0 and 255, what lies beyond is cut off.

    Parameters
    ----------
    pixels : (C, h, w) uint8 or uint16, one channel or three
    value_range : the scanner's values that mean black and white

    Returns
    -------
    (h, w) or (h, w, 3) uint8
        The very same values if the range is that of 8 bit.
    """
    image = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    if image.dtype == np.uint8 and value_range == (0, 255):
        return image.astype(np.uint8, copy=False)
    low, high = value_range
    scaled: NDArray[np.float32] = np.rint((image.astype(np.float32) - low) * (255 / (high - low)))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def fitted(image: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """Return the image reduced until its longer side is at most ``longest_px``; never enlarged."""
    height, width = image.shape[:2]
    factor = longest_px / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.HAMMING))
