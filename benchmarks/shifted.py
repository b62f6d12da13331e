"""Whether windows without overlap, on a tiling that moves at every network call, draw as well as overlapping ones.

    python benchmarks/shifted.py --phantoms 8

The hole of ``benchmarks/grafts.py`` is filled in each phantom, once with grafts (`timemap` in 25 steps draws the
joints) and once drawn as a whole (50 steps). Windows are asked in three ways: *fused*, as cytomend does it; *shifted*;
and shifted with fused windows in the last steps. All start from the same noise and the same grafts. The table has what
was found in the fill over what had been in the hole, in percent, and in brackets the difference from fused windows. The
standard errors come from leaving one phantom out at a time.

| column | what |
|---|---|
| asked | windows that the network is asked for, a mean over the holes |
| density, area | cells in the hole by `classical`, and their mean area |
| outline | mean step between neighbouring pixels across the outline of the hole |
| borders | the same across the borders of cells, where all borders of shifted windows lie, over other drawn pixels |
| grain | mean absolute Laplacian of the drawn pixels |
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from grafts import FIRST_SEED, SIDE_PX, VALUE_RANGE, Grey, InMemory, Mask, count, hole
from numpy.typing import NDArray
from torch import Tensor

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.fuse import FusedDenoiser
from cytomend.diffusion.noise import PlaceNoise
from cytomend.diffusion.samplers import SAMPLERS, Sampler
from cytomend.diffusion.schedule import cosine_alpha_bar
from cytomend.diffusion.windows import WindowDenoise, window_denoiser
from cytomend.geometry import Box
from cytomend.grafts.region import Tissue, graft_region
from cytomend.grafts.settings import GraftSettings
from cytomend.phantom import render_tissue
from cytomend.places import model_file
from cytomend.regions.lattice import Int, Lattice, Layout
from cytomend.segmentation.segmenters import Segmenter, open_segmenter
from cytomend.values import from_model, to_model

OTHER_PHANTOMS = 500
"""Added to the seeds of ``benchmarks/grafts.py``."""
STEPS = {"graft": 25, "draw": 50}


def within_reach(cells: Int, side: int) -> Int:
    """Return all cells that a window of ``side`` x ``side`` cells can see with one of these, sorted, (k, 2)."""
    near = np.arange(1 - side, side)
    steps = np.stack(np.meshgrid(near, near, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.unique((cells[:, None] + steps).reshape(-1, 2), axis=0)


def rows_of(cells: Int, canvas: Int) -> Int:
    """Return where each of these cells, (..., 2), stands on a canvas of sorted cells, (k, 2)."""
    place = {cell: row for row, cell in enumerate(map(tuple, canvas.tolist()))}
    found = [place[tuple(cell)] for cell in cells.reshape(-1, 2).tolist()]
    return np.array(found, dtype=np.int64).reshape(cells.shape[:-1])


def tiling(cells: Int, side: int, shift: tuple[int, int]) -> Int:
    """Return the windows over these cells that do not overlap, as their cells row by row, (n, side * side, 2)."""
    first = np.unique((cells - shift) // side, axis=0) * side + shift
    parts = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(first[:, None] + parts)


class ShiftedDenoiser:
    """Denoises a canvas by windows that do not overlap, then, in the last calls, by fused ones.

    The shift depends on the seed and the number of the call, and is counted from the section's origin.

    Parameters
    ----------
    denoise_windows : denoises any number of windows
    lattice : of the fused windows; shifts are multiples of its cells
    drawn : (n, 2) int64, the cells that hold unknown pixels
    seed : of the shifts
    shifted_calls : how many calls are made with shifted windows; the others follow
    """

    def __init__(
        self, denoise_windows: WindowDenoise, lattice: Lattice, drawn: Int, seed: int, shifted_calls: int
    ) -> None:
        self.denoise_windows, self.drawn, self.seed, self.shifted_calls = denoise_windows, drawn, seed, shifted_calls
        self.side = lattice.cells_per_side
        self.cells = within_reach(drawn, self.side)
        layout = Layout.of(lattice, lattice.windows_over(drawn))
        self.fused_rows = torch.from_numpy(rows_of(layout.cells, self.cells))
        tables = (torch.from_numpy(table) for table in (layout.members, layout.sources, lattice.weights()))
        self.fused = FusedDenoiser(denoise_windows, *tables)
        self.calls = self.windows = 0

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean canvas, (k, C, c, c); cells that no window sees stay as they are."""
        self.calls += 1
        clean = x.clone()
        if self.calls > self.shifted_calls:
            self.windows += len(self.fused.members)
            clean[self.fused_rows] = self.fused(x[self.fused_rows], time[self.fused_rows])
            return clean
        members = torch.from_numpy(rows_of(tiling(self.drawn, self.side, self.shift(self.calls)), self.cells))
        self.windows += len(members)
        clean[members.flatten()] = self._cells(
            self.denoise_windows(self._windows(x, members), self._windows(time, members))
        )
        return clean

    def shift(self, call: int) -> tuple[int, int]:
        """Return the shift of a call, in cells."""
        y, x = np.random.default_rng([self.seed, call]).integers(0, self.side, 2)
        return int(y), int(x)

    def _windows(self, canvas: Tensor, members: Tensor) -> Tensor:
        n, s, (channels, c) = len(members), self.side, canvas.shape[1:3]
        return (
            canvas[members].view(n, s, s, channels, c, c).permute(0, 3, 1, 4, 2, 5).reshape(n, channels, s * c, s * c)
        )

    def _cells(self, windows: Tensor) -> Tensor:
        c = windows.shape[-1] // self.side
        return windows.unfold(2, c, c).unfold(3, c, c).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


class Hole(NamedTuple):
    """A phantom with something to draw: ``known`` (H, W), the pixels that the network is given."""

    pixels: Grey
    known: Mask


def holes(phantom: Grey) -> dict[str, Hole]:
    """Return the hole with grafts, of which the joints are to be drawn, and the empty hole."""
    own = hole()
    rows, columns = (np.flatnonzero(own.any(axis=axis)) for axis in (1, 0))
    box = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)

    def damaged(box: Box) -> Mask:
        return np.asarray(own[box.slices])

    tissue = Tissue(InMemory(phantom).read, damaged, damaged, (SIDE_PX, SIDE_PX), 1.0, VALUE_RANGE)
    done = graft_region(tissue, box, own[box.slices], GraftSettings(), 0, 0)
    assert done is not None
    copied, known = phantom.copy(), ~own
    copied[done.box.slices] = np.where(done.kept, done.pixels[0], copied[done.box.slices])
    known[done.box.slices] |= done.kept
    return {"graft": Hole(copied, known), "draw": Hole(phantom, ~own)}


def fill_hole(
    given: Hole, ask: WindowDenoise, lattice: Lattice, sampler: Sampler, seed: int, shifted_calls: int
) -> tuple[Grey, int]:
    """Return the filled phantom, and how many windows were asked."""
    cell = lattice.cell_px
    drawn = np.unique(np.argwhere(~given.known) // cell, axis=0)
    denoise = ShiftedDenoiser(ask, lattice, drawn, seed, shifted_calls)
    boxes = [Box(y, x, y + cell, x + cell).slices for y, x in (denoise.cells * cell).tolist()]
    known = torch.from_numpy(np.stack([given.known[None, *box] for box in boxes]))
    image = torch.from_numpy(np.stack([to_model(given.pixels[None, *box], VALUE_RANGE) for box in boxes]))
    noise = PlaceNoise(seed, torch.from_numpy(denoise.cells * cell), cell, 1)
    with torch.inference_mode():
        *_, state = sampler.run(denoise, torch.where(known, image, 0), known, cosine_alpha_bar(), noise)
    filled = given.pixels.copy()
    for box, values in zip(boxes, state.numpy(), strict=True):
        filled[box] = from_model(values, VALUE_RANGE, filled.dtype)[0]
    return np.where(given.known, given.pixels, filled), denoise.windows


def looks(pixels: Grey, mask: Mask, drawn: Mask, cell_px: int, segmenter: Segmenter) -> dict[str, float]:
    """Return sums and numbers of what the table is made of, so that phantoms pool by adding up."""
    cells = count(segmenter.find(pixels.copy(), pixel_size_um=1.0, value_range=VALUE_RANGE), mask)
    grey = pixels.astype(float)
    sums = dict.fromkeys([f"{name}_{part}" for name in ("outline", "borders", "beside") for part in ("sum", "n")], 0.0)
    for axis in (0, 1):
        step = np.abs(np.diff(grey, axis=axis))
        one, other = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        border = np.arange(1, grey.shape[axis]) % cell_px == 0
        border = border[:, None] if axis == 0 else border[None]
        both = drawn[one] & drawn[other]
        places = {"outline": mask[one] != mask[other], "borders": both & border, "beside": both & ~border}
        for name, place in places.items():
            sums[f"{name}_sum"] += step[place].sum()
            sums[f"{name}_n"] += place.sum()
    curved = np.abs(4 * grey - sum(np.roll(grey, by, axis) for by in (-1, 1) for axis in (0, 1)))
    return {
        "cells": cells[0],
        "area_sum": cells[1],
        **sums,
        "grain_sum": curved[drawn].sum(),
        "grain_n": float(drawn.sum()),
    }


def measure(
    phantom: int, ask: WindowDenoise, lattice: Lattice, segmenter: Segmenter, last: int
) -> Iterator[dict[str, Any]]:
    """Yield a row a filling and way of asking."""
    pixels = render_tissue((SIDE_PX, SIDE_PX), FIRST_SEED + OTHER_PHANTOMS + phantom).image
    for filling, given in holes(pixels).items():
        sampler = replace(SAMPLERS["timemap"], steps=STEPS[filling])
        truth = looks(pixels, hole(), ~given.known, lattice.cell_px, segmenter)
        ways = {"fused": 0, "shifted": sampler.calls, f"shifted, {last} fused": sampler.calls - last}
        for name, shifted_calls in ways.items():
            filled, windows = fill_hole(given, ask, lattice, sampler, phantom, shifted_calls)
            found = looks(filled, hole(), ~given.known, lattice.cell_px, segmenter)
            before = {f"true_{key}": value for key, value in truth.items()}
            row = {"filling": filling, "windows": name, "phantom": phantom, "asked": windows}
            yield {**row, **found, **before}


MEASURES = ("density, %", "area, %", "outline, %", "borders, %", "grain, %")


def errors(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return `MEASURES` of the pooled rows."""
    s = rows.drop(columns=["filling", "windows"]).sum()

    def mean(name: str, over: str = "") -> float:
        return float(s[f"{over}{name}_sum"] / s[f"{over}{name}_n"])

    ratios = [
        s["cells"] / s["true_cells"],
        (s["area_sum"] / s["cells"]) / (s["true_area_sum"] / s["true_cells"]),
        mean("outline") / mean("outline", "true_"),
        (mean("borders") / mean("beside")) / (mean("borders", "true_") / mean("beside", "true_")),
        mean("grain") / mean("grain", "true_"),
    ]
    return 100 * (np.array(ratios) - 1)


def report(rows: pd.DataFrame) -> str:
    """Return the table."""
    header = ["filling", "windows", "asked", *MEASURES]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    phantoms = rows["phantom"].unique()
    for filling, part in rows.groupby("filling", sort=False):
        fused = part[part["windows"] == "fused"]
        for way, own in part.groupby("windows", sort=False):

            def but(table: pd.DataFrame) -> NDArray[np.float64]:
                return np.stack([errors(table[table["phantom"] != p]) for p in phantoms])

            whole, rest = errors(own), but(own)
            ahead, ahead_rest = whole - errors(fused), rest - but(fused)
            spread = [v.std(axis=0) * np.sqrt(len(phantoms) - 1) for v in (rest, ahead_rest)]
            cells = [f"{v:+.1f} ± {e:.1f}" for v, e in zip(whole, spread[0], strict=True)]
            if way != "fused":
                shown = zip(cells, ahead, spread[1], strict=True)
                cells = [f"{cell} ({v:+.1f} ± {e:.1f})" for cell, v, e in shown]
            lines.append(f"| {filling} | {way} | {own['asked'].mean():.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Fill the phantoms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=8, help="at least 2")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--last", type=int, default=5, help="steps with fused windows at the end of the third way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="table of all rows (TSV)")
    args = parser.parse_args()
    if args.phantoms < 2:
        sys.exit(f"--phantoms is {args.phantoms}, expected at least 2: errors come from leaving one out")
    device = torch.device("cpu")
    denoiser, record = load_model(model_file(args.model), device)
    ask = window_denoiser(denoiser, device, batch=4, threads=args.threads, precision="float32")
    lattice = Lattice(record.window_px, record.window_px * 3 // 4)
    segmenter = open_segmenter("classical")
    rows = pd.DataFrame()
    for phantom in range(args.phantoms):
        rows = pd.concat([rows, pd.DataFrame(measure(phantom, ask, lattice, segmenter, args.last))])
        if args.out:  # what is there if the rest is interrupted
            rows.to_csv(args.out, sep="\t", index=False)
    print(report(rows))


if __name__ == "__main__":
    main()
