"""What cutting and joining do to the cells of grafts: cells found in a fill over those of its sources.

    python benchmarks/grafts.py --phantoms 24 --fillers graft graft:block_um=96,step_um=64 graft:joint_um=0

A hole of 280 x 300 µm in each phantom is filled. The cells of the sources are those that a segmenter finds in the
undamaged phantom, where the kept block was copied from. So a difference comes from cuts and joints alone: halved
bodies, fragments, cells that the network adds. Beside it stands the difference to what had been in the hole, which
holds the chance of the place too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.samplers import SAMPLERS
from cytomend.diffusion.windows import window_denoiser
from cytomend.evaluation.mending import Grafting, TrialMender
from cytomend.evaluation.placement import INTACT, Placement
from cytomend.geometry import Box
from cytomend.grafts.joints import joints
from cytomend.grafts.region import Grafted, Tissue, graft_region
from cytomend.grafts.settings import GraftSettings, parse_grafts
from cytomend.phantom import render_tissue
from cytomend.places import model_file
from cytomend.regions.lattice import Lattice
from cytomend.segmentation.segmenters import Segmenter, open_segmenter

SIDE_PX, FIRST_SEED = 704, 9_210_000
VALUE_RANGE = (0.0, 255.0)

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class InMemory(NamedTuple):
    """A section in memory, as `TrialMender` reads one."""

    pixels: Grey

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.pixels.shape
        return height, width

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Of the pixels."""
        return self.pixels.dtype

    def read(self, box: Box) -> Grey:
        """Return (1, h, w)."""
        return self.pixels[None, *box.slices]


class Undamaged(NamedTuple):
    """No damage but the trial's own."""

    shape: tuple[int, int]

    def read(self, box: Box) -> Mask:
        """Return (h, w)."""
        return np.zeros(box.shape, dtype=bool)


def hole() -> Mask:
    """The hole of every phantom."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - SIDE_PX / 2
    return np.asarray((y / 140) ** 2 + (x / 150) ** 2 < 1)


def count(cells: pd.DataFrame, mask: Mask) -> NDArray[np.float64]:
    """Return the number of cells in a mask and their summed area."""
    places = cells[["y_um", "x_um", "area_um2"]].to_numpy()
    pixel = np.minimum(places[:, :2].astype(int), np.array(mask.shape) - 1)
    inside = mask[pixel[:, 0], pixel[:, 1]] if len(places) else np.zeros(0, bool)
    return np.array([inside.sum(), places[inside, 2].sum()])


def of_sources(cells: pd.DataFrame, done: Grafted) -> NDArray[np.float64]:
    """Return the number and the summed area of the cells that were copied."""
    found = np.zeros(2)
    for graft in done.grafts:
        own = np.zeros((SIDE_PX, SIDE_PX), bool)
        own[done.box.slices] = done.number == graft.number
        moved = cells.assign(
            y_um=cells["y_um"] - graft.source_y + graft.y, x_um=cells["x_um"] - graft.source_x + graft.x
        )
        near = moved["y_um"].between(graft.y, graft.y + graft.side_px, inclusive="left")
        near &= moved["x_um"].between(graft.x, graft.x + graft.side_px, inclusive="left")
        found += count(moved[near], own)
    return found


def fill_phantom(pixels: Grey, name: str, menders: dict[str, TrialMender]) -> tuple[Grey, Grafted, float, float]:
    """Return the filled phantom, its grafts, and the seconds of choosing and of all."""
    own, image = hole(), InMemory(pixels)
    shown = Undamaged(image.shape)
    box = Box(0, 0, SIDE_PX, SIDE_PX)
    place = Placement(0, INTACT, box, 0, own, box)
    mender = menders[name]
    tissue = Tissue(image.read, shown.read, shown.read, image.shape, 1.0, VALUE_RANGE)
    settings = parse_grafts(name, GraftSettings())
    damaged = Tissue(image.read, lambda b: own[b.slices], lambda b: own[b.slices], image.shape, 1.0, VALUE_RANGE)
    rows, columns = (np.flatnonzero(own.any(axis=axis)) for axis in (1, 0))
    inner = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    since = time.monotonic()
    done = graft_region(damaged, inner, own[inner.slices], replace(settings, joint_um=0.0), 0, 0)
    chosen = time.monotonic() - since
    assert done is not None
    drawn = TrialMender(
        image,  # type: ignore[arg-type]
        shown,
        mender.lattice,
        VALUE_RANGE,
        mender.denoise_windows,
        mender.sampler,
        0,
        mender.device,
        mender.group_windows,
        Grafting(settings, tissue),
    )([place])[0]
    return np.where(own, drawn[0], pixels), done, chosen, time.monotonic() - since - chosen


def measure(
    phantom: int, name: str, menders: dict[str, TrialMender], segmenters: dict[str, Segmenter]
) -> Iterator[dict[str, object]]:
    """Yield a row a segmenter."""
    pixels = render_tissue((SIDE_PX, SIDE_PX), FIRST_SEED + phantom).image
    filled, done, chosen, all_s = fill_phantom(pixels, name, menders)
    for label, segmenter in segmenters.items():
        before, after = (segmenter.find(p.copy(), pixel_size_um=1.0, value_range=VALUE_RANGE) for p in (pixels, filled))
        sums = {"truth": count(before, hole()), "sources": of_sources(before, done), "fill": count(after, hole())}
        yield {
            "filler": name,
            "segmenter": label,
            "phantom": phantom,
            "drawn": joints(done.number, done.hole, parse_grafts(name, GraftSettings()).joint_um).sum() / hole().sum(),
            "choose_s": chosen,
            "fill_s": all_s,
            **{f"{what}_{part}": values[i] for what, values in sums.items() for i, part in enumerate(("n", "area"))},
        }


def report(rows: pd.DataFrame) -> str:
    """Return the table: pooled over phantoms, with the standard error of the pooled ratio by leaving one out."""
    over = [f"{what} over {base}, %" for base in ("sources", "truth") for what in ("density", "area")]
    header = ["filler", "segmenter", "drawn, %", *over, "choosing, s", "choosing and joining, s"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]

    def pooled(part: pd.DataFrame, base: str) -> tuple[float, float]:
        s = part.sum(numeric_only=True)
        density = s["fill_n"] / s[f"{base}_n"] - 1
        return 100 * density, 100 * ((s["fill_area"] / s["fill_n"]) / (s[f"{base}_area"] / s[f"{base}_n"]) - 1)

    for key, part in rows.groupby(["filler", "segmenter"], sort=False):
        name, segmenter = (f"{k!s}" for k in key)
        cells = list[str]()
        for base in ("sources", "truth"):
            whole = pooled(part, base)
            left = np.array([pooled(part[part["phantom"] != p], base) for p in part["phantom"].unique()])
            errors = left.std(axis=0) * np.sqrt(max(len(left) - 1, 1))
            cells += [f"{v:+.1f} ± {e:.1f}" for v, e in zip(whole, errors, strict=True)]
        lines.append(
            f"| {name} | {segmenter} | {100 * part['drawn'].mean():.0f} | {' | '.join(cells)} |"
            f" {part['choose_s'].mean():.1f} | {part['fill_s'].mean():.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Fill the phantoms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=24)
    parser.add_argument("--fillers", nargs="+", default=["graft", "graft:block_um=96,step_um=64", "graft:joint_um=0"])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="table of all rows (TSV)")
    args = parser.parse_args()
    device = torch.device("cpu")
    denoiser, record = load_model(model_file(args.model), device)
    ask = window_denoiser(denoiser, device, batch=4, threads=args.threads, precision="float32")
    lattice = Lattice(record.window_px, record.window_px * 3 // 4)
    sampler = replace(SAMPLERS["timemap"], steps=args.steps)
    blank = InMemory(np.zeros((SIDE_PX, SIDE_PX), np.uint8))
    menders = {
        name: TrialMender(blank, Undamaged(blank.shape), lattice, VALUE_RANGE, ask, sampler, 0, device, 256)  # type: ignore[arg-type]
        for name in args.fillers
    }
    segmenters = {name: open_segmenter(name) for name in ("classical", "cpn")}
    rows = pd.DataFrame(
        row
        for phantom in range(args.phantoms)
        for name in args.fillers
        for row in measure(phantom, name, menders, segmenters)
    )
    if args.out:
        rows.to_csv(args.out, sep="\t", index=False)
    print(report(rows))


if __name__ == "__main__":
    main()
