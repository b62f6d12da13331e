"""How regions are mended together: one canvas for all of them, cut apart again when it is drawn.

Where grafts are asked for, they are laid into a region when its canvas is read (`cytomend.grafts.region`). To the
network their kept pixels are known ones, so that it draws the joints alone. Where its pixels are not those of the scan
it draws on a canvas of its own (`cytomend.grafts.network_canvas`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytomend.diffusion.fill import fill
from cytomend.diffusion.samplers import Sampler
from cytomend.diffusion.windows import WindowDenoise
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.grafts.join import Joining
from cytomend.grafts.network_canvas import NetworkCanvas, changed, laid_back, network_canvas
from cytomend.grafts.quilt import GRAFT_COLUMNS
from cytomend.grafts.region import Grafted, Tissue, graft_region
from cytomend.grafts.settings import GraftSettings
from cytomend.regions.canvas import read_canvas, read_cells
from cytomend.regions.groups import Turn
from cytomend.regions.lattice import Layout
from cytomend.regions.plan import Plan
from cytomend.regions.spread import Spread
from cytomend.storage.images import SectionImage
from cytomend.storage.publish import write_whole
from cytomend.values import ValueRange, from_model, to_model

log = logging.getLogger(__name__)

MOST_SAMPLES = 64
"""Samples of a drawing, at most; see ``mend.samples`` of ``workflow/schemas/config.schema.yaml``."""

NAMED = 12
"""Regions that a line of the log names."""


class Canvas(NamedTuple):
    """What is read for a turn.

    Attributes
    ----------
    layout : cells and windows
    numbers : (k, 1, c, c) region numbers, 0 where a pixel is intact
    pixels : (k, C, c, c) in the scanner's dtype, with the turn's grafts
    graft : (k, 1, c, c), which of the region's grafts a kept pixel came from; 0 elsewhere
    grafts : (n, 7) in the columns of `GRAFT_COLUMNS`
    network : what the network is given, if its pixels are not those of the scan
    """

    layout: Layout
    numbers: NDArray[np.uint32]
    pixels: NDArray[np.generic]
    graft: NDArray[np.uint32]
    grafts: NDArray[np.float64]
    network: NetworkCanvas | None = None

    @property
    def known(self) -> NDArray[np.bool_]:
        """(k, 1, c, c), which pixels are intact or copied."""
        return np.asarray((self.numbers == 0) | (self.graft > 0))

    def given(self, value_range: ValueRange) -> Given:
        """Return what the network is given."""
        if self.network is not None:
            return Given(self.network.layout, self.network.image, self.network.known)
        return Given(self.layout, to_model(self.pixels, value_range), self.known)


class Given(NamedTuple):
    """What the network is given for a turn: cells and windows, (k, C, c, c) in [-1, 1], (k, 1, c, c)."""

    layout: Layout
    image: NDArray[np.float32]
    known: NDArray[np.bool_]


class Group(NamedTuple):
    """Turns that are mended together, on one canvas: that of the first turn, then that of the second, and so on.

    ``canvases`` are of each turn, and ``cells`` says how many cells the network is given for it. ``joined``, ``image``
    (K, C, c, c) in [-1, 1], ``known`` (K, 1, c, c) and ``samples`` (K,) are of all of them.
    """

    turns: list[Turn]
    canvases: list[Canvas]
    cells: list[int]
    joined: Layout
    image: NDArray[np.float32]
    known: NDArray[np.bool_]
    samples: NDArray[np.int64]


class GroupMender:
    """Reads, mends and keeps groups; each of the three may be at another group, in a thread of its own.

    Parameters
    ----------
    image, plan : the section
    model : for the sentence that blames it
    denoise_windows, sampler, seed, device : how to draw
    grafts : how to graft; None to draw all
    joining : who draws what is not copied
    done : folder of finished regions
    """

    def __init__(
        self,
        image: SectionImage,
        plan: Plan,
        model: Path,
        denoise_windows: WindowDenoise,
        sampler: Sampler,
        seed: int,
        device: torch.device,
        grafts: GraftSettings | None,
        joining: Joining,
        done: Path,
    ) -> None:
        self.image, self.plan, self.model, self.done = image, plan, model, done
        self.grafts = None if grafts is None else joining.settings(grafts)
        self.joining = joining
        self.denoise_windows, self.sampler, self.seed, self.device = denoise_windows, sampler, seed, device
        self.places: dict[Any, NDArray[np.int64]] = {
            number: plan.windows.loc[rows, ["row", "column"]].to_numpy()
            for number, rows in plan.windows.groupby("region").groups.items()
        }
        corners = plan.regions[["y0_px", "x0_px", "y1_px", "x1_px"]].to_numpy().tolist()
        self.boxes = {int(region): Box(*corner) for region, corner in zip(plan.regions["region"], corners, strict=True)}
        self.draws: dict[int, int] = dict(
            zip(plan.regions["region"].tolist(), plan.regions["draw"].tolist(), strict=True)
        )
        self.unfinished: dict[int, tuple[dict[str, NDArray[Any]], Spread]] = {}
        """Of regions with samples to come: what is kept of the first, and how far those so far differ."""

    def read(self, group: list[Turn]) -> Group:
        """Read the canvas of a group, and lay grafts into it; without grafts a region's samples share theirs."""
        with self._blaming(group):
            canvases: dict[Turn, Canvas] = {}
            for turn in group:
                first = turn._replace(sample=0)
                plain = canvases.get(first) if self.grafts is None else None
                canvases[turn] = plain or self._canvas(turn)
            mine = [canvases[turn] for turn in group]
            given = [canvas.given(self.plan.facts.value_range) for canvas in mine]
            cells = [len(part.known) for part in given]
            return Group(
                group,
                mine,
                cells,
                Layout.joined([part.layout for part in given]),
                np.concatenate([part.image for part in given]),
                np.concatenate([part.known for part in given]),
                np.repeat([self._sample(turn) for turn in group], cells),
            )

    def _sample(self, turn: Turn) -> int:
        """Return the sample of the noise: a region that is drawn again takes those that none has taken before."""
        return turn.sample + MOST_SAMPLES * self.draws[turn.region]

    def _canvas(self, turn: Turn) -> Canvas:
        facts = self.plan.facts
        layout = Layout.of(facts.lattice, self.places[turn.region])
        pixels, numbers = read_canvas(self.image.read, self._labels, facts.shape, layout)
        graft, grafts = np.zeros(numbers.shape, np.uint32), np.zeros((0, len(GRAFT_COLUMNS)))
        grafted, network = self._grafted(turn) if self.grafts else None, None
        if grafted is None and self.joining != Joining():
            raise InputError(
                f"region {turn.region}: the model cannot draw it, since it was trained on other scans, and there is no"
                " intact tissue to copy; choose a model for such scans, or raise graft.search_um"
            )
        if grafted is not None:
            own = numbers == turn.region
            corners, cell_px = layout.corners_px, facts.lattice.cell_px
            graft = np.where(own, grafted.cells(grafted.number[None], corners, cell_px), graft)
            pixels = np.where(own, grafted.cells(grafted.blended, corners, cell_px), pixels)
            pixels = np.where(graft > 0, grafted.cells(grafted.pixels, corners, cell_px), pixels)
            grafts = np.array(grafted.grafts, dtype=np.float64)
            if self.joining.grid is not None:
                network = network_canvas(Tissue.of(self.image, self.plan), grafted, self.joining.grid)
        return Canvas(layout, numbers, pixels, graft, grafts, network)

    def _labels(self, box: Box) -> NDArray[np.uint32]:
        return np.asarray(self.plan.labels[box.slices])

    def _grafted(self, turn: Turn) -> Grafted | None:
        """Lay grafts into a region; None where it is to be drawn."""
        assert self.grafts is not None
        facts, since = self.plan.facts, time.monotonic()
        box = self.boxes[turn.region]
        hole = self._labels(box) == turn.region
        tissue, sample = Tissue.of(self.image, self.plan), self._sample(turn)
        done = graft_region(tissue, box, hole, self.grafts, self.seed, sample, self.joining.grid)
        if done is not None:
            log.info(
                "section %s, region %d: %d grafts in %.1f s, %.0f %% of it is drawn",
                facts.section,
                turn.region,
                len(done.grafts),
                time.monotonic() - since,
                100 * (1 - done.kept.sum() / hole.sum()),
            )
        return done

    def mend(self, group: Group) -> tuple[Group, NDArray[np.float32]]:
        """Draw the unknown pixels of a group."""
        since = time.monotonic()
        # What is last in the log of a job that is killed.
        log.info("section %s, %s: begun", self.plan.facts.section, _named(group.turns))
        with self._blaming(group.turns):
            mended = group.image if self.joining.joint == "blend" else self._drawn(group)
        log.info(
            "section %s, %s: %d windows in %.1f s",
            self.plan.facts.section,
            _named(group.turns),
            sum(turn.windows for turn in group.turns),
            time.monotonic() - since,
        )
        return group, mended

    def _drawn(self, group: Group) -> NDArray[np.float32]:
        return fill(
            group.image,
            group.known,
            group.joined,
            self.denoise_windows,
            self.sampler,
            self.seed,
            self.device,
            group.samples,
        )

    def keep(self, mended: tuple[Group, NDArray[np.float32]]) -> None:
        """Keep the regions whose last sample is there, each whole or not at all."""
        group, values = mended
        ends = np.cumsum(group.cells)
        for turn, canvas, drawn in zip(group.turns, group.canvases, np.split(values, ends[:-1]), strict=True):
            with self._blaming([turn]):
                self._keep_sample(turn, canvas, drawn)

    def _keep_sample(self, turn: Turn, canvas: Canvas, drawn: NDArray[np.float32]) -> None:
        facts = self.plan.facts
        if not np.isfinite(drawn).all():
            raise InputError(f"{self.model}: region {turn.region}: the network's answer is not finite; train it again")
        own = (canvas.numbers == turn.region).any(axis=(1, 2, 3))
        # A copied pixel leaves as it came, also beyond the range of values that the network knows.
        copied = (canvas.graft[own] > 0) | (self.joining.joint == "blend")
        pixels = np.where(copied, canvas.pixels[own], self._on_scan(canvas, own, drawn))
        kept, spread = self.unfinished.setdefault(turn.region, ({}, Spread()))
        if not kept:
            kept.update(
                pixels=pixels,
                corners=canvas.layout.corners_px[own],
                graft=canvas.graft[own][:, 0],
                grafts=canvas.grafts,
            )
        spread.add(pixels)
        if spread.count < facts.samples:
            return
        del self.unfinished[turn.region]
        arrays = dict(kept)
        if facts.samples > 1:
            arrays["uncertainty"] = spread.deviation(pixels.dtype)
        write_whole(self.done / f"{turn.region}.npz", lambda path: np.savez(path, allow_pickle=False, **arrays))

    def _on_scan(self, canvas: Canvas, own: NDArray[np.bool_], drawn: NDArray[np.float32]) -> NDArray[np.generic]:
        """Return what was drawn in the own cells of a canvas, (k, C, c, c), on the pixels of the scan."""
        facts, grid = self.plan.facts, self.joining.grid
        if canvas.network is None or grid is None:
            return from_model(drawn[own], facts.value_range, np.dtype(facts.dtype))
        change = laid_back(canvas.network, drawn, grid, facts.value_range)
        corners = canvas.layout.corners_px[own]
        return changed(canvas.pixels[own], read_cells(change, facts.shape, corners, facts.lattice.cell_px))

    @contextmanager
    def _blaming(self, group: list[Turn]) -> Iterator[None]:
        """Name the regions at the end of the log if anything goes wrong with them."""
        try:
            yield
        except Exception as error:
            error.add_note(f"section {self.plan.facts.section}, {_named(group)}")
            raise


def _named(group: list[Turn]) -> str:
    """Return the regions of a group in words."""
    regions = list(dict.fromkeys(turn.region for turn in group))
    few = ", ".join(map(str, regions[:NAMED])) + (f" and {len(regions) - NAMED} more" if len(regions) > NAMED else "")
    return f"region{'s' if len(regions) > 1 else ''} {few}"
