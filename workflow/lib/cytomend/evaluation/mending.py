"""Mend trials as regions are mended: the same windows on the section's lattice, the same noise, the same network calls.

The model sees the scan around the patch, with all real artefacts masked too, so that an evaluation tells what users
get. Trials share network calls and know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

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
from cytomend.grafts.join import Joining
from cytomend.grafts.network_canvas import NetworkCanvas, changed, laid_back, network_canvas
from cytomend.grafts.region import Grafted, Tissue, graft_region
from cytomend.grafts.settings import GraftSettings
from cytomend.regions.annotation import Masked
from cytomend.regions.canvas import Canvas, read_canvas, read_cells
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
    joining: Joining = field(default_factory=Joining)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", self.joining.settings(self.settings))


class _Trial(NamedTuple):
    """What is read for a trial.

    Attributes
    ----------
    layout : cells and windows on the scan
    canvas : with grafts; blended ones where they are not kept, unless the network draws there on the scan's pixels
    kept : (k, 1, c, c), which pixels of the grafts leave as they are
    parts : of the mask, where the network draws on pixels of its own: what it is given, and its joints (k, 1, c, c)
    """

    layout: Layout
    canvas: Canvas
    kept: Mask
    parts: list[tuple[NetworkCanvas, Mask]]


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
        trials = [self._trial(place, layout) for place, layout in group]
        drawn = self._on_network(trials) if self.joining.grid else self._on_scan(trials)
        for (place, layout), trial, pixels in zip(group, trials, drawn, strict=True):
            canvas = trial.canvas
            filled = np.where(trial.kept, canvas.pixels, pixels)
            yield _in_view(place, layout, np.where(canvas.numbers == OWN, filled, filled.dtype.type(0)))

    @property
    def joining(self) -> Joining:
        """Who draws what is not copied."""
        return self.grafting.joining if self.grafting else Joining()

    def _on_scan(self, trials: list[_Trial]) -> list[NDArray[np.generic]]:
        """Return what is drawn on the pixels of the scan, (k, C, c, c) for each trial."""
        if self.joining.joint == "blend":
            return [trial.canvas.pixels for trial in trials]
        image = np.concatenate([to_model(trial.canvas.pixels, self.value_range) for trial in trials])
        known = np.concatenate([(trial.canvas.numbers == 0) | trial.kept for trial in trials])
        filled = self._filled(image, known, [trial.layout for trial in trials])
        ends = np.cumsum([len(trial.layout.cells) for trial in trials])[:-1]
        dtype = np.dtype(self.image.dtype)
        return [from_model(values, self.value_range, dtype) for values in np.split(filled, ends)]

    def _on_network(self, trials: list[_Trial]) -> list[NDArray[np.generic]]:
        """Return what is drawn on the network's pixels and laid back on the scan's, (k, C, c, c) for each trial."""
        grid = self.joining.grid
        canvases = [canvas for trial in trials for canvas, _ in trial.parts]
        pixels = [trial.canvas.pixels for trial in trials]
        if grid is None or not canvases:
            return pixels
        image = np.concatenate([canvas.image for canvas in canvases])
        known = np.concatenate([canvas.known for canvas in canvases])
        filled = self._filled(image, known, [canvas.layout for canvas in canvases])
        drawn = iter(np.split(filled, np.cumsum([len(canvas.known) for canvas in canvases])[:-1]))
        for number, trial in enumerate(trials):
            for canvas, joint in trial.parts:
                read = laid_back(canvas, next(drawn), grid, self.value_range)
                corners, cell_px = trial.layout.corners_px, self.lattice.cell_px
                change = read_cells(read, self.image.shape, corners, cell_px)
                pixels[number] = np.where(joint, changed(pixels[number], change), pixels[number])
        return pixels

    def _filled(self, image: NDArray[np.float32], known: Mask, layouts: list[Layout]) -> NDArray[np.float32]:
        """Return canvases with their unknown pixels drawn."""
        filled = fill(image, known, Layout.joined(layouts), self.denoise_windows, self.sampler, self.seed, self.device)
        if not np.isfinite(filled).all():
            raise InputError("what the sampler drew is not finite; is the model a trained one?")
        return filled

    def _trial(self, place: Placement, layout: Layout) -> _Trial:
        """Return what is read for a trial, with its grafts."""

        def numbers(box: Box) -> NDArray[np.uint8]:
            found = self.artefacts.read(box).astype(np.uint8) * DAMAGED
            own = place.view.intersect(box)
            if not own.is_empty:
                found[own.relative_to(box).slices][place.mask[own.relative_to(place.view).slices]] = OWN
            return found

        canvas = read_canvas(self.image.read, numbers, self.image.shape, layout)
        kept, parts = np.zeros(canvas.numbers.shape, dtype=bool), list[tuple[NetworkCanvas, Mask]]()
        for grafted in self._grafted(place):
            corners, cell_px = layout.corners_px, self.lattice.cell_px
            here = (canvas.numbers == OWN) & (grafted.cells(grafted.number[None], corners, cell_px) > 0)
            copied = np.where(here, grafted.cells(grafted.pixels, corners, cell_px), canvas.pixels)
            if self.joining != Joining():
                own = (canvas.numbers == OWN) & (grafted.cells(grafted.hole[None], corners, cell_px) > 0)
                copied = np.where(own & ~here, grafted.cells(grafted.blended, corners, cell_px), copied)
                if self.grafting and self.joining.grid:
                    tissue = without_trial(self.grafting.tissue, place)
                    parts.append((network_canvas(tissue, grafted, self.joining.grid), own & ~here))
                else:
                    here = own
            canvas, kept = canvas._replace(pixels=copied), kept | here
        return _Trial(layout, canvas, kept, parts)

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
            done = graft_region(tissue, box, hole, self.grafting.settings, self.seed, 0, self.joining.grid)
            if done is not None:
                yield done
            elif self.joining != Joining():  # what stands there is the truth, which must not pass for a fill
                raise InputError(
                    f"a trial at {place.view}: the model cannot draw it, since it was trained on other scans, and there"
                    " is no intact tissue to copy; choose a model for such scans, or raise graft.search_um"
                )


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
