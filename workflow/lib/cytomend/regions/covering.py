"""Masks that cover the tissue, or the glass, instead of the damage: known by what they cover.

Quality control writes masks of usable tissue (HistoQC's ``mask_use``) and classes for every pixel (GrandQC), and masks
of damage are inverted by mistake. Their share of the picture tells little, for most of a picture may be glass. So
blocks spread over the scan are looked at as `cytomend.regions.tissue` does: which share of the tissue is covered?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.annotation import Masked
from cytomend.regions.tissue import tissue_squares
from cytomend.storage.images import SectionImage
from cytomend.values import ValueRange

BLOCK_PX = 128
"""Four squares of `cytomend.regions.tissue` a side."""
BLOCKS_A_SIDE = 20
"""Blocks lie on a grid of at most as many rows and columns, so that strips are decoded once for a row of blocks."""
MOST_COVERED = 0.5
"""Of tissue, unless somebody says otherwise: what is mended has to be continued from more than itself."""
DOUBTFUL_COVERED = 0.25
"""Of tissue, from here on a warning asks."""
GLASS_RIM, GLASS_COVERED = 0.5, 0.9
"""A mask of the background covers nearly all glass at the rim of a scan, where at least half of the rim is glass."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a mask covers.

    Attributes
    ----------
    tissue : float in [0, 1]
        Share of what shows tissue that is covered; 0 where nothing does.
    rim_glass : float in [0, 1]
        Share of the rim of the scan that is glass.
    covered_rim_glass : float in [0, 1]
        Share of that glass that is covered.
    """

    tissue: float
    rim_glass: float
    covered_rim_glass: float

    @property
    def is_background(self) -> bool:
        """Whether it covers the glass around the section."""
        return self.rim_glass >= GLASS_RIM and self.covered_rim_glass >= GLASS_COVERED


def coverage(image: SectionImage, mask: Masked, value_range: ValueRange) -> Coverage:
    """Return what a mask covers, from blocks spread over the scan.

    Parameters
    ----------
    image, mask : of the same size
    value_range : the scanner's values that mean black and white
    """
    shown = covered = rim = rim_blank = rim_covered = 0.0
    for box in _blocks(image.shape):
        shows, side = tissue_squares(image.read(box), value_range)
        rows, columns = shows.shape
        masked = mask.read(box)[: rows * side, : columns * side].reshape(rows, side, columns, side).mean((1, 3))
        shown += float(shows.sum()) * side**2
        covered += float(masked[shows].sum()) * side**2
        if box.y0 == 0 or box.x0 == 0 or box.y1 == image.shape[0] or box.x1 == image.shape[1]:
            rim += shows.size * side**2
            rim_blank += float((~shows).sum()) * side**2
            rim_covered += float(masked[~shows].sum()) * side**2
    return Coverage(_share(covered, shown), _share(rim_blank, rim), _share(rim_covered, rim_blank))


def check_covering(where: str, found: Coverage, max_covered: float) -> list[str]:
    """Refuse a mask that covers more of the tissue than it may, or the background; return what should be looked at.

    Parameters
    ----------
    where : section and annotation, for messages
    found : what it covers
    max_covered : share of the tissue, in [0, 1], that may be covered; with 1 nothing is refused

    Raises
    ------
    InputError
        If the mask is one of tissue or of the background.
    """
    cure = (
        "give the mask of the damage (invert this one, or keep the values of artefacts only); if all of it is damage,"
        " say so: max_covered 1 (column max_covered of the sheet, mask.max_covered of the configuration, or"
        " --max-covered)"
    )
    if found.tissue > max_covered:
        raise InputError(
            f"{where}: expected a mask of the damage, at most {max_covered:.0%} of the tissue, found one that covers"
            f" {found.tissue:.0%} of the tissue, as a mask of tissue, of usable tissue (HistoQC's mask_use) or of all"
            f" classes (GrandQC) does; {cure}"
        )
    if found.is_background and max_covered < 1:
        raise InputError(
            f"{where}: expected a mask of the damage, found one that covers {found.tissue:.0%} of the tissue and"
            f" {found.covered_rim_glass:.0%} of the empty glass along the rim of the scan, as a mask of the background"
            f" does; {cure}"
        )
    if found.tissue > DOUBTFUL_COVERED:
        return [f"{where}: covers {found.tissue:.0%} of the tissue; is it the mask of the damage?"]
    return []


def _blocks(shape: tuple[int, int]) -> Iterator[Box]:
    """Yield blocks on a grid, row by row; all of a small scan. Rims of less than 2 px show nothing and are left out."""
    height, width = shape
    starts = [_spread(-(-length // BLOCK_PX)) for length in shape]
    for y in starts[0]:
        for x in starts[1]:
            box = Box(y, x, min(y + BLOCK_PX, height), min(x + BLOCK_PX, width))
            if min(box.shape) >= 2:
                yield box


def _spread(blocks: int) -> list[int]:
    """Return where blocks begin, of a length of so many of them, in px: the first, the last, and some between."""
    chosen = np.linspace(0, blocks - 1, min(blocks, BLOCKS_A_SIDE)).round().astype(int)
    return [int(block) * BLOCK_PX for block in np.unique(chosen)]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
