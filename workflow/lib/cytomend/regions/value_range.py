"""Which of a scanner's values mean black and white: the same for planning, gathering and training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.regions.annotation import ArtefactMask
from cytomend.storage.images import SectionImage
from cytomend.values import ValueRange

SAMPLED_BLOCKS = 64
SAMPLED_PX = 256


def value_range(image: SectionImage, mask: ArtefactMask | None) -> ValueRange:
    """Return the values that mean black and white.

    All of its range for 8 bit. For 16 bit, of which scanners use a part, the 0.1 and 99.9 percentile of intact blocks
    spread over the section, widened by a twentieth.
    """
    if image.dtype == np.uint8:
        return 0.0, 255.0
    values = np.concatenate([_intact_values(image, mask, box) for box in sampled_boxes(image)])
    if not len(values):
        return 0.0, float(np.iinfo(image.dtype).max)
    low, high = (float(v) for v in np.percentile(values, [0.1, 99.9]))
    margin = max((high - low) / 20, 1.0)
    return max(low - margin, 0.0), high + margin


def sampled_boxes(image: SectionImage) -> list[Box]:
    """Return blocks spread over a section, always the same ones."""
    tiles = list(Box(0, 0, *image.shape).tiles(SAMPLED_PX))
    return [tiles[i] for i in np.linspace(0, len(tiles) - 1, min(SAMPLED_BLOCKS, len(tiles))).astype(int)]


def _intact_values(image: SectionImage, mask: ArtefactMask | None, box: Box) -> NDArray[Any]:
    pixels = image.read(box)
    return (pixels if mask is None else pixels[:, ~mask.read(box)]).reshape(-1)
