"""Is a fill a copy? The intact tissue of the section that each window of a fill looks most like.

    python benchmarks/copies.py --evaluation results/evaluation --out results/copies
    python benchmarks/copies.py --trials TRIALS.zarr SCAN [--trials ...] --out results/copies
    python benchmarks/copies.py --pictures ORIGINAL FILLED MASK [--pictures ...] --out results/copies

It takes what ``benchmarks/realism.py`` takes. Windows lie wholly in the mask. Each is searched for in the intact tissue
around, in all eight poses, by the correlation of its grey values (`cytomend.evaluation.copying`). The same is done for
the windows of the original under the same mask: real tissue, which is no copy, is the yardstick.

Printed, and written as ``copies.tsv`` (a row a filler) and ``windows.tsv`` (a row a window):

| column | what |
|---|---|
| correlation, q50, q95, most | with the most similar window of intact tissue: 1 is a copy |
| copies | share of windows whose correlation is at least 0.95 |
| distance_um | median distance of the copies from their source, in µm |
| turned | share of the copies that are turned or mirrored |
| uses, most_uses | how often a pixel of their sources is used, on average and at most |
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from realism import check_alike, intact_trials, simple_fills, stores_of
from tqdm import tqdm

from cytomend.errors import InputError
from cytomend.evaluation.copying import COPY, Source, Tissue, source_use
from cytomend.evaluation.placement import SIZES, SMALL
from cytomend.evaluation.window_pairs import REAL, covered_corners
from cytomend.geometry import Box
from cytomend.report.evaluation_text import markdown
from cytomend.storage.images import open_image, open_labels

Grey = NDArray[np.float32]


class Area(NamedTuple):
    """A part of a section: tissue (Y, X), what is filled in it (Y, X), the fills (Y, X) by name, and its corner."""

    section: int
    corner: tuple[int, int]
    original: Grey
    mask: NDArray[np.bool_]
    fills: Mapping[str, Grey]


def grey(pixels: NDArray[np.generic]) -> Grey:
    """Return the mean of the channels of (C, Y, X)."""
    return pixels.astype(np.float32).mean(0)


def of_store(section: int, store: Path, scan: Path, size: str, reach_px: int, fillers: Sequence[str]) -> Iterator[Area]:
    """Yield each intact trial of a store with the tissue around it."""
    with open_image(scan) as image:
        for place, drawn in intact_trials(store, size):
            around = place.view.grow(reach_px).clip(image.shape)
            at, original = place.view.relative_to(around).slices, grey(image.read(around))
            mask = np.zeros(original.shape, bool)
            mask[at] = place.mask
            shown = {**drawn, **simple_fills(image.read(place.view), place.mask, fillers)}
            fills = {name: original.copy() for name in shown}
            for name, pixels in shown.items():
                fills[name][at] = np.where(place.mask, grey(pixels), original[at])
            yield Area(section, (around.y0, around.x0), original, mask, fills)


def of_pictures(section: int, paths: Sequence[Path], fillers: Sequence[str]) -> Iterator[Area]:
    """Yield a whole picture."""
    first, second, third = paths
    with open_image(first) as image, open_image(second) as filled, open_labels(third) as labels:
        check_alike(image, filled, labels.shape)
        whole = Box(0, 0, *image.shape)
        original, fill, mask = image.read(whole), filled.read(whole), labels.read(whole)[0] > 0
    fills = {"fill": fill, **simple_fills(original, mask, fillers)}
    yield Area(section, (0, 0), grey(original), mask, {name: grey(pixels) for name, pixels in fills.items()})


def areas(args: argparse.Namespace) -> Iterator[Area]:
    """Yield the parts of all sections."""
    stores, reach_px = stores_of(args), round(args.reach_um / args.pixel_size_um)
    for section, (store, scan) in enumerate(stores):
        yield from of_store(section, store, scan, args.size, reach_px, args.fillers)
    for section, paths in enumerate(args.pictures, len(stores)):
        yield from of_pictures(section, list(map(Path, paths)), args.fillers)


def search(area: Area, side_px: int, pixel_size_um: float) -> Iterator[dict[str, Any]]:
    """Yield a row for each window of the fills and of the original."""
    tissue = Tissue(area.original, side_px, area.mask)
    for y, x in covered_corners(area.mask, side_px, 1.0):
        at = (slice(y, y + side_px), slice(x, x + side_px))
        for filler, picture in {REAL: area.original, **area.fills}.items():
            source = tissue.nearest(picture[at])
            yield {
                "section": area.section,
                "filler": filler,
                "y_px": area.corner[0] + y,
                "x_px": area.corner[1] + x,
                "correlation": source.correlation,
                "source_y_px": area.corner[0] + source.y,
                "source_x_px": area.corner[1] + source.x,
                "pose": source.pose,
                "distance_um": float(np.hypot(source.y - y, source.x - x)) * pixel_size_um,
            }


def tabulate(windows: pd.DataFrame, side_px: int) -> pd.DataFrame:
    """Return a row for each filler."""
    rows = []
    for filler, part in windows.groupby("filler", sort=False):
        copies = part[part["correlation"] >= COPY]
        used = [source_use(sources_of(own), side_px) for _, own in copies.groupby("section")]
        different = sum(use.different_px for use in used)
        rows.append(
            {
                "filler": filler,
                "windows": len(part),
                "q50": part["correlation"].quantile(0.5),
                "q95": part["correlation"].quantile(0.95),
                "most": part["correlation"].max(),
                "copies": len(copies) / len(part),
                "distance_um": copies["distance_um"].median(),
                "turned": (copies["pose"] > 0).mean(),
                "uses": sum(use.used_px for use in used) / different if different else np.nan,
                "most_uses": max((use.most for use in used), default=0),
            }
        )
    return pd.DataFrame(rows)


def sources_of(windows: pd.DataFrame) -> list[Source]:
    """Return the sources of windows."""
    columns = ["correlation", "source_y_px", "source_x_px", "pose"]
    return [Source(float(c), int(y), int(x), int(p)) for c, y, x, p in windows[columns].to_numpy().tolist()]


def report(table: pd.DataFrame) -> str:
    """Return the table as text."""
    header = ["filler", "windows", "correlation: median", "95 %", "most", "copies, %", "their distance, µm"]
    header += ["turned, %", "uses of a source", "most uses"]

    def said(value: float, digits: int) -> str:
        return f"{value:.{digits}f}" if np.isfinite(value) else "–"

    rows = [
        [
            str(row["filler"]),
            str(row["windows"]),
            *(said(row[name], 2) for name in ("q50", "q95", "most")),
            said(100 * row["copies"], 1),
            said(row["distance_um"], 0),
            said(100 * row["turned"], 0),
            said(row["uses"], 2),
            str(row["most_uses"]),
        ]
        for _, row in table.iterrows()
    ]
    return markdown(header, rows)


def main() -> None:
    """Search and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", type=Path, nargs="+", default=[], help="folders of benchmarks/evaluation.py")
    parser.add_argument("--trials", nargs=2, action="append", default=[], metavar=("STORE", "SCAN"))
    parser.add_argument("--pictures", nargs=3, action="append", default=[], metavar=("ORIGINAL", "FILLED", "MASK"))
    parser.add_argument("--size", choices=SIZES, default=SMALL, help="patches of the trials that are looked at")
    parser.add_argument("--pixel-size-um", type=float, default=1.0, help="of all sections")
    parser.add_argument("--window-um", type=float, default=32.0, help="side of a window")
    parser.add_argument("--reach-um", type=float, default=1500.0, help="how far around a trial is searched")
    parser.add_argument("--fillers", nargs="*", default=[], help="simple fillers to search for beside")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    side_px = round(args.window_um / args.pixel_size_um)
    try:
        found = tqdm(areas(args), desc="areas", unit="area", disable=None)
        windows = pd.DataFrame([row for area in found for row in search(area, side_px, args.pixel_size_um)])
        if windows.empty:
            raise InputError(f"no window of {args.window_um:g} µm lies wholly in a mask; give a smaller --window-um")
    except InputError as error:
        sys.exit(f"{error}")
    table = tabulate(windows, side_px)
    args.out.mkdir(parents=True, exist_ok=True)
    windows.to_csv(args.out / "windows.tsv", sep="\t", index=False, float_format="%.4f")
    table.to_csv(args.out / "copies.tsv", sep="\t", index=False, float_format="%.4f")
    print(report(table))


if __name__ == "__main__":
    main()
