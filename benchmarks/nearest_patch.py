"""Does the model copy what it was trained on? Its patches beside the nearest patches of the training tissue.

    python benchmarks/nearest_patch.py TILE --box 0 0 700 1000 --held-out 700 0 1000 1000 --out DIR [--model tiny]

Every query is looked for at all places and in all eight poses of the training tissue, by the correlation of grey values
(each patch centred and scaled by itself, so that a copy in another stain counts as well): 1 is a copy. Four kinds of
query are compared at two sizes, a whole window and its middle half, in which a copied cell would show:

| query | what |
|---|---|
| drawn | patches that the model draws from nothing |
| filled | middles of held-out windows, filled by `timemap` |
| held out | real tissue that was not trained on: what unseen tissue looks like, the yardstick |
| training | the training tissue itself at its other places, without its own surroundings |

Prints quantiles of the correlation with the nearest training patch, and writes them (``nearest.tsv``) with a picture
(``nearest.png``) of the drawn and filled patches that are nearest to the training tissue, each beside what was found. A
model that copies draws patches whose correlation lies above that of held-out tissue.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from study_samplers import Filler
from tqdm import tqdm

from cytomend.diffusion.samplers import SAMPLERS
from cytomend.errors import InputError
from cytomend.evaluation.copying import Correlator, unposed
from cytomend.evaluation.trials import spread_boxes
from cytomend.geometry import Box
from cytomend.places import model_file
from cytomend.storage.images import open_image

Float = NDArray[np.float32]

QUANTILES = (0.05, 0.5, 0.95, 1.0)
SHOWN = 6
MIDDLE = 0.25


@dataclass(frozen=True, slots=True)
class Match:
    """The nearest patch: how far it correlates, and its pixels in the query's pose."""

    correlation: float
    patch: Float


def nearest(tissue: Correlator, query: Float, own: tuple[int, int] | None = None) -> Match:
    """Return the best match of a square; ``own`` is its corner if it was cut there: what meets it is left out."""
    barred = np.zeros(tissue.deviation.shape, dtype=bool)
    if own is not None:
        around = Box(*own, *own).grow(tissue.side - 1)
        barred[max(around.y0, 0) : around.y1 + 1, max(around.x0, 0) : around.x1 + 1] = True
    source = tissue.nearest(query, barred)
    found = tissue.image[source.y : source.y + tissue.side, source.x : source.x + tissue.side]
    return Match(source.correlation, unposed(found, source.pose))


def read_box(path: Path, box: list[int] | None) -> Float:
    """Return the grey values of a part of a scan."""
    with open_image(path) as image:
        if image.channels != 1:
            raise InputError(f"{path}: expected a grey scan, found {image.channels} channels")
        pixels = image.read(Box(*box).clip(image.shape) if box else Box(0, 0, *image.shape))[0]
        if pixels.dtype != np.uint8:
            raise InputError(f"{path}: expected 8 bits, found {pixels.dtype}")
        return np.asarray(pixels, dtype=np.float32)


def cut(image: Float, side_px: int, count: int, seed: int) -> tuple[Float, list[tuple[int, int]]]:
    """Return squares (n, side, side) and their corners, side by side while they fit."""
    boxes = list(islice(spread_boxes(np.ones(image.shape, dtype=bool), side_px, seed), count))
    return np.stack([image[box.slices] for box in boxes]), [(box.y0, box.x0) for box in boxes]


def middle(squares: Float, side_px: int) -> Float:
    """Return the middle of squares."""
    start = (squares.shape[-1] - side_px) // 2
    return squares[..., start : start + side_px, start : start + side_px]


def queries(args: argparse.Namespace, training: Float, held_out: Float, side_px: int) -> dict[str, Float]:
    """Return the queries by kind, (n, side, side) each; the corners of the training ones are those of `cut`."""
    filler, sampler = Filler(model_file(args.model), args), SAMPLERS["timemap"]
    real, _ = cut(held_out, side_px, args.count, args.seed)
    rim = round(MIDDLE * side_px)
    everything, centre = np.ones(real.shape, dtype=bool), np.zeros(real.shape, dtype=bool)
    centre[:, rim:-rim, rim:-rim] = True
    pixels = real.astype(np.uint8)
    return {
        "drawn": filler(sampler, pixels, everything, 0).astype(np.float32),
        "filled": filler(sampler, pixels, centre, len(real)).astype(np.float32),
        "held out": real,
        "training": cut(training, side_px, args.count, args.seed)[0],
    }


def search(squares: dict[str, Float], training: Float, side_px: int, seed: int) -> dict[str, list[Match]]:
    """Return the nearest training patch of every query, by kind, for the middles of a side."""
    tissue = Correlator(training, side_px)
    whole_px = squares["training"].shape[-1]
    shift = (whole_px - side_px) // 2
    _, corners = cut(training, whole_px, len(squares["training"]), seed)
    own = [(y + shift, x + shift) for y, x in corners]
    found = {}
    for kind, images in squares.items():
        places = own if kind == "training" else [None] * len(images)
        pairs = zip(middle(images, side_px), places, strict=True)
        bar = tqdm(pairs, total=len(images), desc=f"{kind}, {side_px} px", disable=None)
        found[kind] = [nearest(tissue, query, place) for query, place in bar]
    return found


def tabulate(found: dict[int, dict[str, list[Match]]]) -> pd.DataFrame:
    """Return quantiles of the correlation by size and kind."""
    return pd.DataFrame(
        {
            "side_px": side,
            "query": kind,
            "patches": len(matches),
            **{f"q{100 * q:g}": float(np.quantile([m.correlation for m in matches], q)) for q in QUANTILES},
        }
        for side, by_kind in found.items()
        for kind, matches in by_kind.items()
    )


def draw(squares: dict[str, Float], found: dict[int, dict[str, list[Match]]], out: Path) -> None:
    """Draw the drawn, filled and held-out patches that are nearest to the training tissue beside their matches."""
    kinds = ("drawn", "filled", "held out")
    figure = Figure(figsize=(1.5 * 2 * len(kinds) * len(found), 1.62 * SHOWN + 0.4), layout="constrained")
    axes = figure.subplots(SHOWN, 2 * len(kinds) * len(found), squeeze=False)
    column = 0
    for side, by_kind in found.items():
        for kind in kinds:
            nearest = np.argsort([-match.correlation for match in by_kind[kind]])[:SHOWN]
            for axis_row, i in zip(axes, nearest, strict=False):
                match = by_kind[kind][i]
                pictures = (middle(squares[kind], side)[i], match.patch)
                titles = (f"{kind}, {side} px", f"nearest, {match.correlation:.2f}")
                for axis, picture, title in zip(axis_row[column : column + 2], pictures, titles, strict=True):
                    axis.imshow(picture, cmap="gray", vmin=0, vmax=230, interpolation="nearest")
                    axis.set_title(title, fontsize=8)
            column += 2
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    figure.savefig(out / "nearest.png", dpi=100)


def compare(args: argparse.Namespace) -> pd.DataFrame:
    """Draw, fill, search; write the table and the picture."""
    training, held_out = read_box(args.tile, args.box), read_box(args.held_out_scan or args.tile, args.held_out)
    window_px = Filler(model_file(args.model), args).lattice.window_px
    squares = queries(args, training, held_out, window_px)
    found = {side: search(squares, training, side, args.seed) for side in (window_px, window_px // 2)}
    table = tabulate(found)
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "nearest.tsv", sep="\t", index=False, float_format="%.4f")
    draw(squares, found, args.out)
    return table


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    box: dict[str, Any] = {"type": int, "nargs": 4, "metavar": ("Y0", "X0", "Y1", "X1")}
    parser.add_argument("tile", type=Path, help="grey scan that the model was trained on")
    parser.add_argument("--box", **box, help="the part of it that was trained on")
    parser.add_argument("--held-out", **box, required=True, help="tissue that was not")
    parser.add_argument("--held-out-scan", type=Path, help="another scan with that tissue")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=60, help="patches of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(windows=1, batch_windows=64, precision="float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        print(compare(args).to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    except InputError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
