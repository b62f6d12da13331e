"""Pairs of windows for a judge: of a fill, of the original in the same place, and of tissue elsewhere.

A fill can be held against two kinds of real tissue:

``same place``
    The original's window under the same mask. Both windows lie in the same layer, in the same light, beside the same
    cells. They differ in nothing but the fill, so a judge cannot succeed by telling places apart. This is the honest
    comparison, and it needs a trial, whose original is known.
``elsewhere``
    Another window of intact tissue of the same section. That is all there is for real damage. A judge may also learn
    how places differ, so read it beside real tissue against real tissue, where it has the same chance to.

Real against real is the tissue elsewhere against the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.evaluation.realism import Groups, groups_by_place

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.generic]

REAL = "real tissue"
SAME, ELSEWHERE = "same place", "elsewhere"
WINDOW_UM = 64.0
COVERED = 0.75
"""Least share of a window that is filled. What is left is the same in both windows of a pair."""


def covered_corners(mask: Mask, side_px: int, least: float) -> list[tuple[int, int]]:
    """Return the corners of windows that do not overlap and of which at least this share is masked, fullest first.

    Parameters
    ----------
    mask : (Y, X)
    side_px : of the windows
    least : share of 1
    """
    if min(mask.shape) < side_px:
        return []
    table = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    count = table[side_px:, side_px:] - table[:-side_px, side_px:] - table[side_px:, :-side_px]
    count = count + table[:-side_px, :-side_px]
    found: list[tuple[int, int]] = []
    while count.max() >= max(least * side_px**2, 1):
        y, x = map(int, np.unravel_index(count.argmax(), count.shape))
        found.append((y, x))
        count[max(y - side_px + 1, 0) : y + side_px, max(x - side_px + 1, 0) : x + side_px] = -1
    return found


class Shown(NamedTuple):
    """One place of a section: its pictures (C, Y, X), its mask (Y, X), and where it lies.

    ``fills`` by filler, each equal to the original outside the mask. ``other`` is intact tissue elsewhere, as large.
    ``corner`` and ``other_corner`` are the upper left corners (y, x) of both in the section, in px.
    """

    section: int
    original: Pixels
    other: Pixels
    mask: Mask
    fills: Mapping[str, Pixels]
    corner: tuple[int, int]
    other_corner: tuple[int, int]


class Pairs(NamedTuple):
    """Windows (n, C, S, S) of a fill and of real tissue, and the group (n,) of each pair."""

    fills: Pixels
    reals: Pixels
    groups: Groups


@dataclass
class WindowPairs:
    """Windows of fills, originals and other tissue, gathered place by place.

    Parameters
    ----------
    pixel_size_um : side of a pixel in µm, the same in all sections
    window_um : side of a window in µm
    covered : least share of a window that is filled
    """

    pixel_size_um: float
    window_um: float = WINDOW_UM
    covered: float = COVERED
    original: list[Pixels] = field(default_factory=list)
    other: list[Pixels] = field(default_factory=list)
    fills: dict[str, dict[int, Pixels]] = field(default_factory=dict)
    sections: list[int] = field(default_factory=list)
    places_um: list[list[tuple[float, float]]] = field(default_factory=list)

    @property
    def side_px(self) -> int:
        """Side of a window in px."""
        return round(self.window_um / self.pixel_size_um)

    def add(self, shown: Shown) -> None:
        """Take the windows of a place that are masked enough."""
        for y, x in covered_corners(shown.mask, self.side_px, self.covered):
            box = (slice(None), slice(y, y + self.side_px), slice(x, x + self.side_px))
            for name, picture in shown.fills.items():
                self.fills.setdefault(name, {})[len(self.original)] = picture[box]
            self.original.append(shown.original[box])
            self.other.append(shown.other[box])
            self.sections.append(shown.section)
            corners = (shown.corner, shown.other_corner)
            self.places_um.append([((a + y) * self.pixel_size_um, (b + x) * self.pixel_size_um) for a, b in corners])

    def pairs(self, filler: str, against: str) -> Pairs:
        """Return the pairs of a filler, or of `REAL` tissue elsewhere, against real tissue of the same place or not.

        Raises
        ------
        InputError
            If the filler filled no window.
        """
        groups = self.groups()
        kept = [i for i in (range(len(groups)) if filler == REAL else self.fills.get(filler, {})) if groups[i] >= 0]
        if not kept:
            raise InputError(
                f"{filler}: expected windows of {self.window_um:g} µm that are filled to {100 * self.covered:g} %,"
                " found none; give larger masks, smaller windows, or a smaller share"
            )
        real = self.original if against == SAME else self.other
        fill: Sequence[Pixels] | Mapping[int, Pixels] = self.other if filler == REAL else self.fills[filler]
        return Pairs(np.stack([fill[i] for i in kept]), np.stack([real[i] for i in kept]), groups[kept])

    def groups(self) -> Groups:
        """Return the group of every window: its section, or, of a single section, its part of it; -1 for none."""
        if len(set(self.sections)) != 1:
            return np.array(self.sections, np.int64)
        return groups_by_place(np.array(self.places_um), self.window_um)
