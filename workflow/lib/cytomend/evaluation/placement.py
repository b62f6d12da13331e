"""Where trials lie in a section: squares of intact tissue, each with a mask, and, where the truth is known, artefacts.

A trial's *patch* is as many pixels wide as some of the model's windows, and its mask lies within it. Its *view* is the
patch with a margin of tissue, which cells at the patch's rim reach into and segmenters need. The whole view is intact
and shows tissue. Places follow from the section's name and the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cytomend.evaluation.trials import stratified_masks
from cytomend.geometry import Box
from cytomend.regions.annotation import Masked
from cytomend.regions.intact import intact_squares
from cytomend.regions.tissue import tissue_share
from cytomend.storage.images import SectionImage
from cytomend.values import ValueRange

INTACT, ARTEFACT = "intact", "artefact"
MARGIN_UM = 32.0
TISSUE_SHARE = 0.75
"""Of a view, so that no trial asks for cells on glass."""

Mask = NDArray[np.bool_]
Read = Callable[[Box], Mask]


@dataclass(frozen=True, slots=True)
class Placement:
    """One trial before anything is read: ``mask`` (S, S) bool lies in ``view``, ``other`` is the floor's view."""

    trial: int
    kind: str
    view: Box
    margin_px: int
    mask: Mask
    other: Box

    @property
    def patch(self) -> Box:
        """The view without its margin."""
        return self.view.grow(-self.margin_px)

    @property
    def fraction(self) -> float:
        """Share of the patch that is masked."""
        return float(self.mask.sum() / (self.patch.shape[0] * self.patch.shape[1]))


def place_intact(
    image: SectionImage,
    mask: Masked,
    value_range: ValueRange,
    *,
    count: int,
    patch_px: int,
    margin_px: int,
    name: str,
    seed: int,
) -> list[Placement]:
    """Return up to ``count`` trials on intact tissue, their mask fractions spread evenly over 5 to 50 %.

    Parameters
    ----------
    image, mask : the section and its artefacts, which no view touches
    value_range : grey values that mean black and white
    count : trials wanted; there are fewer if the section has not so much intact tissue
    patch_px, margin_px : side of the patches, and what a view is wider on each side
    name : of the section, which decides the places
    seed : of the masks
    """
    side = patch_px + 2 * margin_px

    def shows_tissue(box: Box) -> bool:
        return tissue_share(image.read(box), value_range) >= TISSUE_SHARE

    views = list(islice(filter(shows_tissue, intact_squares(image.shape, mask, side, name)), count))
    masks = stratified_masks(len(views), patch_px, seed)
    placed = []
    for i, (view, own) in enumerate(zip(views, masks, strict=True)):
        other = next(filter(shows_tissue, _beside(view, mask, np.random.default_rng([seed, 3, i]))), None)
        other = other or _elsewhere(view, views)
        if other is not None:
            placed.append(Placement(i, INTACT, view, margin_px, np.pad(own, margin_px), other))
    return placed


def _beside(view: Box, mask: Masked, rng: np.random.Generator) -> Iterator[Box]:
    """Yield the intact squares that touch a view, in random order: the same tissue, as nearly as there is."""
    height, width = mask.shape
    side = view.shape[0]
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    for i in rng.permutation(len(steps)):
        y, x = view.y0 + steps[i][0] * side, view.x0 + steps[i][1] * side
        box = Box(y, x, y + side, x + side)
        if 0 <= y <= height - side and 0 <= x <= width - side and not mask.read(box).any():
            yield box


def _elsewhere(view: Box, views: list[Box]) -> Box | None:
    """Return the nearest other trial's view that does not meet this one."""
    apart = [other for other in views if view.intersect(other).is_empty]
    return min(apart, key=lambda other: (other.y0 - view.y0) ** 2 + (other.x0 - view.x0) ** 2, default=None)


def place_on_artefacts(
    boxes: list[Box],
    mask: Masked,
    intact: list[Placement],
    *,
    count: int,
    patch_px: int,
    margin_px: int,
    seed: int,
) -> list[Placement]:
    """Return up to ``count`` trials on real artefacts, for sections whose truth is known.

    Parameters
    ----------
    boxes : of the section's regions
    mask : the artefacts
    intact : trials on intact tissue, whose views serve as the floor
    count, patch_px, margin_px, seed : as for intact trials
    """
    side = patch_px + 2 * margin_px
    height, width = mask.shape
    rng = np.random.default_rng([seed, 4])
    placed: list[Placement] = []
    if not boxes or not intact:
        return placed
    for _ in range(4 * count):  # some artefacts lie too near to the rim of the section
        box = boxes[int(rng.integers(len(boxes)))]
        y, x = (int(rng.integers(low, high)) - side // 2 for low, high in ((box.y0, box.y1), (box.x0, box.x1)))
        view = Box(y, x, y + side, x + side)
        if y < 0 or x < 0 or view.y1 > height or view.x1 > width or len(placed) == count:
            continue
        own = np.pad(mask.read(view.grow(-margin_px)), margin_px)
        if own.mean() * side**2 < 0.05 * patch_px**2:
            continue
        apart = [p.view for p in intact if p.view.intersect(view).is_empty]
        if apart:
            other = min(apart, key=lambda o: (o.y0 - view.y0) ** 2 + (o.x0 - view.x0) ** 2)
            placed.append(Placement(len(intact) + len(placed), ARTEFACT, view, margin_px, own, other))
    return placed
