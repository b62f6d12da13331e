"""The whole corrected section in one small picture, on which synthetic pixels are told from measured ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cytomend.regions.plan import SectionFacts
from cytomend.report.corrected import CorrectedSection
from cytomend.report.pictures import fitted, to_display

THUMBNAIL_PX = 96
PLAIN_PX = 1200
"""Longer side of the overview that is seen without a viewer."""
MENDED_COLOUR = (230, 97, 1)


def draw_overview(corrected: CorrectedSection, facts: SectionFacts, longest_px: int) -> NDArray[np.uint8]:
    """Draw the section from the nearest larger level of the pyramid, mended regions within orange lines.

    Returns
    -------
    (h, w, 3) uint8
        The longer side is at most ``longest_px``; no pixel of a mended region's inner edge keeps its grey.
    """
    level = corrected.level_for(longest_px)
    whole = corrected.whole(level)
    image = fitted(to_display(corrected.read(whole, level), facts.value_range), longest_px)
    drawn = np.array(np.broadcast_to(image[..., np.newaxis], (*image.shape, 3)) if image.ndim == 2 else image)
    mended = _reduced(corrected.read_labels(whole, level) > 0, drawn.shape[:2])
    drawn[mended & ~ndimage.binary_erosion(mended)] = MENDED_COLOUR
    return drawn


def _reduced(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask at a smaller size, set wherever a pixel that it covers is."""
    size = shape[1], shape[0]
    share = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return np.asarray(share) > 0
