"""Where trials lie in a section: squares of intact tissue, each with a mask, and, where the truth is known, artefacts.

A trial's mask lies within its *patch*. A `SMALL` patch is as many pixels wide as some of the model's windows, a `LARGE`
one is as many µm wide as those of the paper. The *view* is the patch with a margin of tissue, which cells at the
patch's rim reach into and segmenters need. The whole view is intact and shows tissue. Places follow from the section's
name and the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from cytomend.evaluation.trials import FRACTIONS, stratified_fractions, stratified_mask
from cytomend.geometry import Box
from cytomend.regions.annotation import Masked
from cytomend.regions.intact import intact_squares
from cytomend.regions.tissue import tissue_share
from cytomend.storage.images import SectionImage
from cytomend.values import ValueRange

INTACT, ARTEFACT = "intact", "artefact"
SMALL, LARGE = "small", "large"
SIZES = (SMALL, LARGE)
MARGIN_UM = 32.0
TISSUE_SHARE = 0.75
"""Of a view, so that no trial asks for cells on glass."""

TRIES = 8
"""Places that are tried for a trial on an artefact: some lie at the rim of the section, or on another trial."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Placement:
    """One trial before anything is read: ``mask`` (S, S) bool lies in ``view``, ``other`` is the view of the floor.

    ``size`` is one of `SIZES`: trials of different sizes are never pooled.
    """

    trial: int
    kind: str
    view: Box
    margin_px: int
    mask: Mask
    other: Box
    size: str = SMALL

    @property
    def patch(self) -> Box:
        """The view without its margin."""
        return self.view.grow(-self.margin_px)

    @property
    def at_floor(self) -> Placement:
        """The same mask at the place of the floor."""
        return replace(self, view=self.other, other=self.view)

    @property
    def fraction(self) -> float:
        """Share of the patch that is masked."""
        return float(self.mask.sum() / (self.patch.shape[0] * self.patch.shape[1]))


class Spot(NamedTuple):
    """A trial without its mask: its number, its view, the view of its floor, and which mask of how many it gets."""

    trial: int
    view: Box
    other: Box
    mask: int
    fraction: float


@dataclass(frozen=True, slots=True)
class Placements(Sequence[Placement]):
    """Trials on intact tissue, each with its mask drawn when it is asked for: many large masks fill the memory."""

    spots: Sequence[Spot]
    size: str
    patch_px: int
    margin_px: int
    seed: int

    def __len__(self) -> int:
        return len(self.spots)

    @overload
    def __getitem__(self, which: int) -> Placement: ...

    @overload
    def __getitem__(self, which: slice) -> Placements: ...

    def __getitem__(self, which: int | slice) -> Placement | Placements:
        """Return one trial, or some that are drawn when they are asked for."""
        if isinstance(which, slice):
            return replace(self, spots=self.spots[which])
        spot = self.spots[which]
        mask = np.pad(stratified_mask(spot.mask, spot.fraction, self.patch_px, self.seed), self.margin_px)
        return Placement(spot.trial, INTACT, spot.view, self.margin_px, mask, spot.other, self.size)


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
    offset: float = 0.5,
    size: str = SMALL,
    first: int = 0,
) -> Placements:
    """Return up to ``count`` trials on intact tissue, their mask fractions spread evenly over 5 to 50 %.

    Parameters
    ----------
    image, mask : the section and its artefacts, which no view touches
    value_range : grey values that mean black and white
    count : trials wanted; there are fewer if the section has not so much intact tissue
    patch_px, margin_px : side of the patches, and what a view is wider on each side
    name : of the section, which decides the places
    seed : of the masks
    offset : where each mask's fraction lies in its stratum, in [0, 1)
    size : of the patches, one of `SIZES`
    first : number of the first trial
    """
    side = patch_px + 2 * margin_px

    def shows_tissue(box: Box) -> bool:
        return tissue_share(image.read(box), value_range) >= TISSUE_SHARE

    views = list(islice(filter(shows_tissue, intact_squares(image.shape, mask, side, name)), count))
    placed = []
    for i, (view, fraction) in enumerate(zip(views, stratified_fractions(len(views), seed, offset), strict=True)):
        other = next(filter(shows_tissue, _beside(view, mask, np.random.default_rng([seed, 3, i]))), None)
        other = other or _elsewhere(view, views)
        if other is not None:
            placed.append(Spot(first + i, view, other, i, fraction))
    return Placements(placed, size, patch_px, margin_px, seed)


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
    intact: Sequence[Placement],
    *,
    count: int,
    patch_px: int,
    margin_px: int,
    seed: int,
) -> list[Placement]:
    """Return up to ``count`` trials on real artefacts, for sections whose truth is known; their patches do not overlap.

    Parameters
    ----------
    boxes : of the section's regions
    mask : the artefacts
    intact : trials on intact tissue, whose views serve as the floor
    count, patch_px, margin_px, seed : as for intact trials
    """
    side = patch_px + 2 * margin_px
    rng = np.random.default_rng([seed, 4])
    areas = np.array([mask.read(box).sum() for box in boxes], float)
    placed: list[Placement] = []
    first = next_number(intact)
    for _ in range(TRIES * count if intact and areas.sum() else 0):
        view = _around(boxes[int(rng.choice(len(boxes), p=areas / areas.sum()))], mask, side, rng)
        if view is None or len(placed) == count:
            continue
        patch = view.grow(-margin_px)
        own = np.pad(mask.read(patch), margin_px)
        apart = [p.view for p in intact if p.view.intersect(view).is_empty]
        taken = any(not patch.intersect(p.patch).is_empty for p in placed)
        if taken or not apart or own.sum() < FRACTIONS[0] * patch_px**2:
            continue
        other = min(apart, key=lambda o: (o.y0 - view.y0) ** 2 + (o.x0 - view.x0) ** 2)
        placed.append(Placement(first + len(placed), ARTEFACT, view, margin_px, own, other))
    return placed


def next_number(placed: Sequence[Placement]) -> int:
    """Return the number of the trial after these: some numbers are left out, where no floor was found."""
    return max((place.trial for place in placed), default=-1) + 1


def _around(box: Box, mask: Masked, side: int, rng: np.random.Generator) -> Box | None:
    """Return a view around a random pixel of an artefact, if it lies in the section."""
    own = mask.read(box)
    y, x = np.unravel_index(int(rng.choice(np.flatnonzero(own))), own.shape)
    corner = box.y0 + int(y) - side // 2, box.x0 + int(x) - side // 2
    view = Box(*corner, corner[0] + side, corner[1] + side)
    return view if view.clip(mask.shape) == view else None
