"""A hole filled with blocks of intact tissue, from its outline inwards, one after the other.

Blocks lie on a lattice of the section, and chance belongs to their place, so that a region is filled alike whatever
else is mended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.geometry import Box
from cytomend.grafts.context import COARSE_UM, coarsest, context_map, some_of
from cytomend.grafts.cut import cut_by_squares
from cytomend.grafts.match import Candidate, Matcher
from cytomend.grafts.settings import GraftSettings

CHOICE = 3
"""Among how many of the best places chance decides."""
RELAXED = ((1.0, 0.1), (0.6, 0.5), (0.0, np.inf))
"""What is asked of a source, and what is asked where no other is left: parts of `GraftSettings.apart_um`, and the share
of a block that may have been copied into the region before."""
SMOOTH_UM = 1.0
FAINT = 0.15
"""Share of the range of grey values by which the ground itself varies; what stands out further is a body."""
CUT_UM = 1.0
"""Side of the squares by which cuts are decided, where pixels are smaller."""

Mask = NDArray[np.bool_]


class Graft(NamedTuple):
    """One block: its number in the region, corners (y, x) of target and source on the section, side, cost.

    ``mirrored`` is 1 if the source was mirrored left to right before it was laid.
    """

    number: int
    y: int
    x: int
    source_y: int
    source_x: int
    side_px: int
    mirrored: int
    cost: float


GRAFT_COLUMNS = Graft._fields


class Area(NamedTuple):
    """What is read around a region.

    Attributes
    ----------
    box : on the section
    pixels : (C, H, W) in the scanner's dtype
    hole : (H, W), the region's own pixels
    intact : (H, W), neither damaged nor outside of the section's tissue
    source : (H, W), intact pixels that may be copied
    """

    box: Box
    pixels: NDArray[np.generic]
    hole: Mask
    intact: Mask
    source: Mask


@dataclass(slots=True)
class Quilt:
    """A hole, filled, and the blocks' width around it.

    ``box`` on the section; ``pixels`` (C, h, w); ``blended`` the same, in which each block fades into what was there
    over the overlap; ``number`` (h, w) uint32, which graft a pixel of the hole came from, 0 elsewhere and where nothing
    could be copied; ``grafts`` in the order in which they were laid.
    """

    box: Box
    pixels: NDArray[Any]
    blended: NDArray[Any]
    number: NDArray[np.uint32]
    grafts: list[Graft] = field(default_factory=list)


def block_px(settings: GraftSettings, pixel_size_um: float) -> int:
    """Return the side of a block: a multiple of the squares of the coarsest level that blocks are compared at."""
    factor = coarsest(pixel_size_um)
    return max(round(settings.block_um / pixel_size_um / factor), 2) * factor


def quilt(area: Area, wanted: Mask, pixel_size_um: float, settings: GraftSettings, seed: int, sample: int) -> Quilt:
    """Fill the hole of an area with grafts.

    Parameters
    ----------
    area : see `Area`
    wanted : (H, W), the part of the hole that is to be filled; blocks may fill more of it
    pixel_size_um : side of a pixel
    settings : see `GraftSettings`
    seed, sample : of the choice among places that fit alike
    """
    quilter = _Quilter(area, pixel_size_um, settings, (seed, sample))
    for y, x in places(area, wanted, settings.px(settings.step_um, pixel_size_um), quilter.side_px):
        quilter.lay(y, x)
    return quilter.done


def places(area: Area, wanted: Mask, step_px: int, side_px: int) -> list[tuple[int, int]]:
    """Return the corners of blocks in an area, (y, x): a lattice of the section, those at the outline first."""
    ys, xs = np.nonzero(wanted)
    if not len(ys):
        return []
    box = around(area.hole, 1)
    depth = np.zeros(area.hole.shape, np.float32)
    # Beyond the section's border there is no tissue either.
    depth[box.slices] = ndimage.distance_transform_edt(np.pad(area.hole[box.slices], 1))[1:-1, 1:-1]
    rows, columns = (
        np.arange((int(at.min()) + start) // step_px, (int(at.max()) + start) // step_px + 1) * step_px - start
        for at, start in ((ys, area.box.y0), (xs, area.box.x0))
    )
    margin, found = (side_px - step_px) // 2, []
    for y in rows.tolist():
        for x in columns.tolist():
            own = np.s_[max(y, 0) : y + step_px, max(x, 0) : x + step_px]
            if wanted[own].any():
                found.append((float(depth[own][wanted[own]].mean()), y - margin, x - margin))
    most_y, most_x = (n - side_px for n in wanted.shape)
    return [(min(max(y, 0), most_y), min(max(x, 0), most_x)) for _, y, x in sorted(found)]


class _Quilter:
    """Lays block after block."""

    def __init__(self, area: Area, pixel_size_um: float, settings: GraftSettings, key: tuple[int, int]) -> None:
        self.area, self.key = area, key
        self.side_px = block_px(settings, pixel_size_um)
        self.core_px = max(self.side_px - settings.px(settings.step_um, pixel_size_um) - 4, 2)
        self.apart_px = settings.px(settings.apart_um, pixel_size_um)
        self.fade_px = max(settings.joint_um / pixel_size_um, 1.0)
        self.smooth_px = SMOOTH_UM / pixel_size_um
        self.square_px = coarsest(pixel_size_um * COARSE_UM / CUT_UM)
        context = context_map(area.pixels, area.intact, pixel_size_um)
        self.matcher = Matcher(area.pixels, area.source, context, self.side_px, pixel_size_um, settings.context_weight)
        tissue = some_of(area.pixels, area.intact)
        self.ground = middle(tissue)[:, None, None]
        self.faint = FAINT * float(np.ptp(np.percentile(tissue, (1, 99)))) if tissue.size else 0.0
        self.used = np.zeros_like(self.matcher.possible, dtype=np.float32)
        box = around(area.hole, 2 * self.side_px)
        self.y0, self.x0 = box.y0, box.x0
        self.hole, self.intact = area.hole[box.slices], area.intact[box.slices]
        self.have = self.intact.copy()
        # Nobody sees what damage looks like.
        shown = np.where(self.intact, area.pixels[:, *box.slices], self.ground)
        empty = np.zeros(self.hole.shape, dtype=np.uint32)
        on_section = box.relative_to(Box(-area.box.y0, -area.box.x0, 0, 0))
        self.done = Quilt(on_section, shown, shown.copy(), empty)

    def _here(self, y: int, x: int) -> tuple[slice, slice]:
        """Return a block of the area, in what is filled."""
        y, x = y - self.y0, x - self.x0
        return np.s_[y : y + self.side_px, x : x + self.side_px]

    def lay(self, y: int, x: int) -> None:
        """Lay a block at this corner of the area, unless nothing is missing there or nothing fits."""
        side, here = self.side_px, self._here(y, x)
        own, have = self.hole[here], self.have[here].copy()
        chosen = self._choose(y, x) if (own & ~have).any() else None
        if chosen is None:
            return
        new = self.area.pixels[:, chosen.y : chosen.y + side, chosen.x : chosen.x + side]
        old = self.done.pixels[(slice(None), *here)]
        taken = cut_by_squares(self._cost(new, old, have), have, self.core_px, self.square_px)
        take = taken & own
        soft = self.done.blended[(slice(None), *here)]
        levelled = at_outline(new, soft, self.intact[here], self.fade_px)
        self.done.blended[(slice(None), *here)] = np.where(own, faded(levelled, soft, taken, have, self.fade_px), soft)
        self.done.pixels[(slice(None), *here)] = np.where(take, new, old)
        number = self.done.number[here]
        self.done.number[here] = np.where(take, np.uint32(len(self.done.grafts) + 1), number)
        self.have[here] |= take
        self._note(y, x, chosen)

    def _cost(self, new: NDArray[Any], old: NDArray[Any], have: Mask) -> NDArray[np.float64]:
        """Return what a cut costs, (s, s): the squared difference, and how far either side stands out from the ground.

        Where bodies of both sides lie on each other the difference is small, and yet a cut would halve both.
        """
        smooth = (0.0, self.smooth_px, self.smooth_px)
        share = np.maximum(ndimage.gaussian_filter(have.astype(np.float64)[None], smooth), 1e-3)
        a, b = new.astype(np.float64), np.where(have, old, 0).astype(np.float64)
        difference = ndimage.gaussian_filter(np.where(have, (a - b) ** 2, 0), smooth) / share
        means = ndimage.gaussian_filter(a, smooth), ndimage.gaussian_filter(b, smooth) / share
        a, b = (np.abs(mean - self.ground) - self.faint for mean in means)
        body = np.maximum(np.maximum(a, b), 0) ** 2
        return np.asarray((difference + body).mean(axis=0))

    def _note(self, y: int, x: int, chosen: Candidate) -> None:
        box, factor, side = self.area.box, self.matcher.factor, self.side_px
        number = len(self.done.grafts) + 1
        self.done.grafts.append(
            Graft(number, y + box.y0, x + box.x0, chosen.y + box.y0, chosen.x + box.x0, side, 0, chosen.cost)
        )
        rows, columns = (slice(c // factor, -(-(c + side) // factor)) for c in (chosen.y, chosen.x))
        self.used[rows, columns] = 1

    def _choose(self, y: int, x: int) -> Candidate | None:
        """Return one of the best places; where none is left, tissue nearby or copied before is taken too."""
        here = self._here(y, x)
        block, have = self.done.pixels[(slice(None), *here)], self.have[here]
        for near, reused in RELAXED:
            found = self.matcher.candidates(block, have, (y, x), self._barred(y, x, near, reused))
            if found:
                rng = np.random.default_rng([*self.key, y + self.area.box.y0, x + self.area.box.x0])
                return found[int(rng.integers(min(CHOICE, len(found))))]
        return None

    def _barred(self, y: int, x: int, near: float, reused: float) -> Mask:
        """Return coarse corners that are too near to the target, or have been copied already."""
        factor, block = self.matcher.factor, self.side_px // self.matcher.factor
        rows, columns = np.arange(len(self.used)), np.arange(self.used[0].size)
        reach = near * self.apart_px / factor
        close = (np.abs(rows - y / factor) < reach)[:, None] & (np.abs(columns - x / factor) < reach)
        sums = np.pad(self.used.cumsum(0).cumsum(1), ((1, block), (1, block)), mode="edge")
        sums[0], sums[:, 0] = 0, 0
        copied = sums[block:, block:] - sums[:-block, block:] - sums[block:, :-block] + sums[:-block, :-block]
        return np.asarray(close | (copied[: len(rows), : len(columns)] > reused * block**2))


def around(hole: Mask, margin_px: int) -> Box:
    """Return the box of a hole and a margin around it, inside the array."""
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1).grow(margin_px).clip(hole.shape)


def middle(tissue: NDArray[Any]) -> NDArray[Any]:
    """Return the median of intact pixels (C, n), in their dtype: the ground on which cells lie."""
    if not tissue.size:
        return np.asarray(np.zeros(len(tissue), tissue.dtype))
    return np.asarray(np.median(tissue, axis=1).astype(tissue.dtype))


def at_outline(new: NDArray[Any], old: NDArray[Any], intact: Mask, width_px: float) -> NDArray[Any]:
    """Return a block whose grey goes over into that of intact tissue around the hole, (C, s, s).

    Intact pixels must stay, so nothing fades there. But the mean difference of block and tissue, taken outside of the
    outline, is added inside of it, and less and less with depth.

    Parameters
    ----------
    new, old : (C, s, s)
    intact : (s, s), tissue that stays
    width_px : of the outline's reach
    """
    if not intact.any() or intact.all():
        return new
    sigma = (0.0, width_px, width_px)
    share = ndimage.gaussian_filter(intact.astype(np.float32)[None], sigma)
    differences = np.where(intact, old.astype(np.float32) - new, 0)
    mean = ndimage.gaussian_filter(differences, sigma) / np.maximum(share, 1e-3)
    reach = np.exp(-ndimage.distance_transform_edt(~intact) / width_px)
    limits = np.iinfo(new.dtype)
    return np.asarray(np.clip(np.rint(new + reach * mean), limits.min, limits.max).astype(new.dtype))


def faded(new: NDArray[Any], old: NDArray[Any], taken: Mask, have: Mask, width_px: float) -> NDArray[Any]:
    """Return a block that fades into what is there on either side of its cut, and towards its own edge, (C, s, s).

    Both are mixed so that the variance of their grain stays: deviations from the local mean are divided by the root of
    the summed squares of the weights (Heitz & Neyret 2018).

    Parameters
    ----------
    new, old : (C, s, s)
    taken : (s, s), where the block is taken
    have : (s, s), where something is there
    width_px : on either side of the cut
    """
    if not have.any():
        return new.copy()
    depth = ndimage.distance_transform_edt(taken) - ndimage.distance_transform_edt(~taken)
    # Where a block is taken up to its own edge, what lies beyond is what was there.
    inset = np.minimum(np.arange(len(taken)), np.arange(len(taken))[::-1]) + 0.5
    edge = np.minimum(inset[:, None], inset) / width_px
    # Where nothing was there the block is whole, so that it is so too where that begins.
    begins = 1 - (ndimage.distance_transform_edt(have) - 1) / width_px if not have.all() else 0.0
    weight = np.clip(np.maximum(np.minimum(0.5 + depth / (2 * width_px), edge), begins), 0, 1)
    a, b = (np.where(have, part, new).astype(np.float32) for part in (new, old))
    mean_a, mean_b = (ndimage.gaussian_filter(part, (0, width_px * 2, width_px * 2)) for part in (a, b))
    mixed = weight * (a - mean_a) + (1 - weight) * (b - mean_b)
    mixed = mixed / np.sqrt(weight**2 + (1 - weight) ** 2) + weight * mean_a + (1 - weight) * mean_b
    limits = np.iinfo(new.dtype)
    return np.asarray(np.clip(np.rint(mixed), limits.min, limits.max).astype(new.dtype))
