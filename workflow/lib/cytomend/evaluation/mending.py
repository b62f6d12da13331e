"""Mend trials as regions are mended: the same windows on the section's lattice, the same noise, the same network calls.

The model sees the scan around the patch, with all real artefacts masked too, so that an evaluation tells what users
get. Trials share network calls and know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.diffusion.fill import fill
from cytomend.diffusion.samplers import Draws
from cytomend.diffusion.windows import WindowDenoise
from cytomend.errors import InputError
from cytomend.evaluation.placement import Placement
from cytomend.geometry import Box
from cytomend.grafts.join import Joint
from cytomend.grafts.region import Grafted, Tissue, graft_region
from cytomend.grafts.settings import GraftSettings
from cytomend.regions.annotation import Masked
from cytomend.regions.canvas import Canvas, read_canvas
from cytomend.regions.groups import Turn, grouped
from cytomend.regions.lattice import Lattice, Layout
from cytomend.storage.images import SectionImage
from cytomend.values import ValueRange, from_model, to_model

Mask = NDArray[np.bool_]

OWN, DAMAGED = 1, 2
"""Numbers of unknown pixels on a trial's canvas: of its mask, and of the section's artefacts around it."""


@dataclass(frozen=True, slots=True)
class Grafting:
    """How to graft, and what from: the section as it is without any trial."""

    settings: GraftSettings
    tissue: Tissue
    joint: Joint = "network"

    def __post_init__(self) -> None:
        if self.joint == "blend":  # what a network cannot draw is grafted, however narrow it is
            object.__setattr__(self, "settings", replace(self.settings, narrow_um=0.0))


@dataclass(frozen=True, slots=True)
class TrialMender:
    """Fills the masks of trials with one sampler, and with grafts where ``grafting`` is given.

    ``group_windows`` is how many windows share a canvas: it reaches no pixel, only the memory taken.
    """

    image: SectionImage
    artefacts: Masked
    lattice: Lattice
    value_range: ValueRange
    denoise_windows: WindowDenoise
    sampler: Draws
    seed: int
    device: torch.device
    group_windows: int
    grafting: Grafting | None = None

    def __call__(self, places: Sequence[Placement]) -> list[NDArray[np.generic]]:
        """Return what is drawn for each trial, (C, S, S) in the scanner's dtype; 0 outside its mask."""
        layouts = [self.layout(place) for place in places]
        turns = [Turn(i, 0, len(layout.members)) for i, layout in enumerate(layouts)]
        groups = grouped(turns, self.group_windows)
        return [
            drawn for group in groups for drawn in self._mend([(places[t.region], layouts[t.region]) for t in group])
        ]

    def layout(self, place: Placement) -> Layout:
        """Return the cells and windows that a trial needs."""
        y, x = np.nonzero(place.mask)
        cells = np.unique(np.stack([y + place.view.y0, x + place.view.x0], axis=1) // self.lattice.cell_px, axis=0)
        return Layout.of(self.lattice, self.lattice.windows_over(cells))

    def _mend(self, group: list[tuple[Placement, Layout]]) -> Iterator[NDArray[np.generic]]:
        canvases = [self._canvas(place, layout) for place, layout in group]
        filled = self._drawn(canvases, [layout for _, layout in group])
        if not np.isfinite(filled).all():
            raise InputError("what the sampler drew is not finite; is the model a trained one?")
        ends = np.cumsum([len(layout.cells) for _, layout in group])[:-1]
        for (place, layout), (canvas, kept), values in zip(group, canvases, np.split(filled, ends), strict=True):
            drawn = from_model(values, self.value_range, np.dtype(self.image.dtype))
            pixels = np.where(kept, canvas.pixels, drawn)
            yield _in_view(place, layout, np.where(canvas.numbers == OWN, pixels, pixels.dtype.type(0)))

    def _drawn(self, canvases: list[tuple[Canvas, Mask]], layouts: list[Layout]) -> NDArray[np.float32]:
        image = np.concatenate([to_model(canvas.pixels, self.value_range) for canvas, _ in canvases])
        if self.grafting and self.grafting.joint == "blend":
            return image
        return fill(
            image,
            np.concatenate([(canvas.numbers == 0) | kept for canvas, kept in canvases]),
            Layout.joined(layouts),
            self.denoise_windows,
            self.sampler,
            self.seed,
            self.device,
        )

    def _canvas(self, place: Placement, layout: Layout) -> tuple[Canvas, Mask]:
        """Return what is read for a trial, with its grafts, and which pixels of these are kept, (k, 1, c, c)."""

        def numbers(box: Box) -> NDArray[np.uint8]:
            found = self.artefacts.read(box).astype(np.uint8) * DAMAGED
            own = place.view.intersect(box)
            if not own.is_empty:
                found[own.relative_to(box).slices][place.mask[own.relative_to(place.view).slices]] = OWN
            return found

        canvas = read_canvas(self.image.read, numbers, self.image.shape, layout)
        kept = np.zeros(canvas.numbers.shape, dtype=bool)
        for grafted in self._grafted(place):
            corners, cell_px = layout.corners_px, self.lattice.cell_px
            here = (canvas.numbers == OWN) & (grafted.cells(grafted.number[None], corners, cell_px) > 0)
            copied = np.where(here, grafted.cells(grafted.pixels, corners, cell_px), canvas.pixels)
            if self.grafting and self.grafting.joint == "blend":
                own = (canvas.numbers == OWN) & (grafted.cells(grafted.hole[None], corners, cell_px) > 0)
                copied = np.where(own & ~here, grafted.cells(grafted.blended, corners, cell_px), copied)
                here = own
            canvas, kept = canvas._replace(pixels=copied), kept | here
        return canvas, kept

    def _grafted(self, place: Placement) -> Iterator[Grafted]:
        """Yield the parts of a trial's mask with their grafts, each as a region of its own would get them."""
        if self.grafting is None:
            return
        parts, _ = ndimage.label(place.mask, np.ones((3, 3)))
        tissue = without_trial(self.grafting.tissue, place)
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            box = Box(rows.start, columns.start, rows.stop, columns.stop).relative_to(
                Box(-place.view.y0, -place.view.x0, 0, 0)
            )
            hole = parts[rows, columns] == number
            done = graft_region(tissue, box, hole, self.grafting.settings, self.seed, 0)
            if done is not None:
                yield done


def without_trial(tissue: Tissue, place: Placement) -> Tissue:
    """Return a section in which the mask of a trial is damage too."""

    def also(read: Callable[[Box], Mask]) -> Callable[[Box], Mask]:
        def masked(box: Box) -> Mask:
            found = read(box).copy()
            own = place.view.intersect(box)
            if not own.is_empty:
                found[own.relative_to(box).slices] |= place.mask[own.relative_to(place.view).slices]
            return found

        return masked

    return replace(tissue, damaged=also(tissue.damaged), barred=also(tissue.barred))


def _in_view(place: Placement, layout: Layout, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Put the cells of a canvas into the trial's view."""
    side, cell_px = place.view.shape[0], layout.lattice.cell_px
    view = np.zeros((pixels.shape[1], side, side), dtype=pixels.dtype)
    for (y, x), cell in zip(layout.corners_px, pixels, strict=True):
        box = Box(int(y), int(x), int(y) + cell_px, int(x) + cell_px)
        shown = box.intersect(place.view)
        if not shown.is_empty:
            view[(slice(None), *shown.relative_to(place.view).slices)] = cell[
                (slice(None), *shown.relative_to(box).slices)
            ]
    return view
