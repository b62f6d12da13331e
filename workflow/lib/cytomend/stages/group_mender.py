"""How regions are mended together: one canvas for all of them, cut apart again when it is drawn."""

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
from cytomend.regions.canvas import read_canvas
from cytomend.regions.groups import Turn
from cytomend.regions.lattice import Layout
from cytomend.regions.plan import Plan
from cytomend.regions.spread import Spread
from cytomend.storage.images import SectionImage
from cytomend.storage.publish import write_whole
from cytomend.values import from_model, to_model

log = logging.getLogger(__name__)

MOST_SAMPLES = 64
"""Samples of a drawing, at most; see ``mend.samples`` of ``workflow/schemas/config.schema.yaml``."""

NAMED = 12
"""Regions that a line of the log names."""


class Group(NamedTuple):
    """Turns that are mended together, on one canvas: that of the first turn, then that of the second, and so on.

    ``layouts`` and ``numbers`` (k, 1, c, c) are of each turn; ``joined``, ``image`` (K, C, c, c) in [-1, 1], ``known``
    (K, 1, c, c) and ``samples`` (K,) are of all of them.
    """

    turns: list[Turn]
    layouts: list[Layout]
    numbers: list[NDArray[np.uint32]]
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
    denoise_windows, sampler, seed, device : how to mend
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
        done: Path,
    ) -> None:
        self.image, self.plan, self.model, self.done = image, plan, model, done
        self.denoise_windows, self.sampler, self.seed, self.device = denoise_windows, sampler, seed, device
        self.places: dict[Any, NDArray[np.int64]] = {
            number: plan.windows.loc[rows, ["row", "column"]].to_numpy()
            for number, rows in plan.windows.groupby("region").groups.items()
        }
        self.draws: dict[int, int] = dict(
            zip(plan.regions["region"].tolist(), plan.regions["draw"].tolist(), strict=True)
        )
        self.unfinished: dict[int, tuple[NDArray[np.generic], Spread]] = {}

    def read(self, group: list[Turn]) -> Group:
        """Read the canvas of a group; a region's samples share it."""
        with self._blaming(group):
            canvases = {turn.region: self._canvas(turn.region) for turn in group}
            layouts, numbers, images = zip(*(canvases[turn.region] for turn in group), strict=True)
            return Group(
                group,
                list(layouts),
                list(numbers),
                Layout.joined(layouts),
                np.concatenate(images),
                np.concatenate(numbers) == 0,
                np.repeat([self._sample(turn) for turn in group], [len(layout.cells) for layout in layouts]),
            )

    def _sample(self, turn: Turn) -> int:
        """Return the sample of the noise: a region that is drawn again takes those that none has taken before."""
        return turn.sample + MOST_SAMPLES * self.draws[turn.region]

    def _canvas(self, region: int) -> tuple[Layout, NDArray[np.uint32], NDArray[np.float32]]:
        facts, labels = self.plan.facts, self.plan.labels
        layout = Layout.of(facts.lattice, self.places[region])
        canvas = read_canvas(self.image.read, lambda box: np.asarray(labels[box.slices]), facts.shape, layout)
        return layout, canvas.numbers, to_model(canvas.pixels, facts.value_range)

    def mend(self, group: Group) -> tuple[Group, NDArray[np.float32]]:
        """Draw the unknown pixels of a group."""
        since = time.monotonic()
        # What is last in the log of a job that is killed.
        log.info("section %s, %s: begun", self.plan.facts.section, _named(group.turns))
        with self._blaming(group.turns):
            mended = fill(
                group.image,
                group.known,
                group.joined,
                self.denoise_windows,
                self.sampler,
                self.seed,
                self.device,
                group.samples,
            )
        log.info(
            "section %s, %s: %d windows in %.1f s",
            self.plan.facts.section,
            _named(group.turns),
            sum(turn.windows for turn in group.turns),
            time.monotonic() - since,
        )
        return group, mended

    def keep(self, mended: tuple[Group, NDArray[np.float32]]) -> None:
        """Keep the regions whose last sample is there, each whole or not at all."""
        group, values = mended
        ends = np.cumsum([len(layout.cells) for layout in group.layouts])
        for turn, layout, numbers, drawn in zip(
            group.turns, group.layouts, group.numbers, np.split(values, ends[:-1]), strict=True
        ):
            with self._blaming([turn]):
                self._keep_sample(turn, layout, numbers, drawn)

    def _keep_sample(self, turn: Turn, layout: Layout, numbers: NDArray[np.uint32], drawn: NDArray[np.float32]) -> None:
        facts = self.plan.facts
        if not np.isfinite(drawn).all():
            raise InputError(f"{self.model}: region {turn.region}: the network's answer is not finite; train it again")
        own = (numbers == turn.region).any(axis=(1, 2, 3))
        pixels = from_model(drawn[own], facts.value_range, np.dtype(facts.dtype))
        first, spread = self.unfinished.setdefault(turn.region, (pixels, Spread()))
        spread.add(pixels)
        if spread.count < facts.samples:
            return
        del self.unfinished[turn.region]
        arrays = {"pixels": first, "corners": layout.corners_px[own]}
        if facts.samples > 1:
            arrays["uncertainty"] = spread.deviation(first.dtype)
        write_whole(self.done / f"{turn.region}.npz", lambda path: np.savez(path, allow_pickle=False, **arrays))

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
