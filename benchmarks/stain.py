"""Cells of RGB sections: are they found whatever the hue of their stain, and is a counterstain left alone.

    python benchmarks/stain.py [--segmenter cpn] [--pieces 24]

prints Markdown tables; ``docs/colour.md`` holds them. The same phantoms, whose cells are known, are drawn in grey and
in several stains, and shown to a segmenter as luminance and as the stain's density. For a counterstain, light passes a
second phantom of other cells in eosin: what is found on its cells alone is wrong. Directions are measured in each piece
of 256 px by itself, which is less tissue than any section has.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from segmenter import SEED, Found, f1, table

from cytomend.phantom import Tissue, render_tissue
from cytomend.segmentation.polygons import match, polygons
from cytomend.segmentation.segmenters import Segmenter, open_segmenter
from cytomend.segmentation.stain import section_stain
from cytomend.segmentation.table import table_contours
from cytomend.stains import LUMINANCE, MEASURED, stain_vector
from cytomend.storage.small import SmallImage

SIDE_PX, OTHERS = 256, 5_000
VALUES = (0.0, 255.0)
STAINS = ("nissl-blue", "cresyl-violet", "haematoxylin", "eosin")
GREY = "grey scan"
IOU = 0.5

Pixels = NDArray[np.uint8]


def look(segmenter: Segmenter, pixels: Pixels, tissue: Tissue, how: str) -> Found:
    """Segment (H, W) or (3, H, W) pixels, shown as this stain."""
    image = SmallImage(Path("phantom"), pixels.reshape(-1, SIDE_PX, SIDE_PX), 1.0)
    shown = section_stain(image, None, VALUES, how).grey(image._pixels)
    cells = segmenter.find(shown, pixel_size_um=1.0, value_range=VALUES)
    return Found(polygons(table_contours(cells)), polygons(tissue.contours_px()))


def behind(front: Pixels, back: Pixels) -> Pixels:
    """Return two sections (3, H, W) on one slide: light passes both."""
    clear = np.percentile(back, 99, axis=(1, 2))[:, None, None]
    return np.rint(front * np.minimum(back / clear, 1)).astype(np.uint8)


def on_others(found: list[Found], others: list[Tissue]) -> float:
    """Share of the counterstained cells that were taken for cells, without those that lie on a true one."""
    wrong = total = 0
    for result, other in zip(found, others, strict=True):
        theirs = polygons(other.contours_px())
        false = np.delete(result.found, match(result.found, result.true, IOU).found)
        wrong, total = wrong + len(match(false, theirs, IOU).found), total + len(theirs)
    return wrong / total


def row(name: str, found: list[Found], grey: list[Found], *more: Any) -> list[Any]:  # noqa: ANN401
    """F1 at two overlaps, and cells found in % of those in grey."""
    counts = sum(len(result.found) for result in found), sum(len(result.found) for result in grey)
    return [name, f1(found, IOU), f1(found, 0.7), f"{100 * counts[0] / counts[1]:.1f}", *more]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--segmenter", default="cpn", help="name (default: cpn)")
    parser.add_argument("--pieces", type=int, default=24, help="phantoms of 256 px")
    args = parser.parse_args()
    segmenter, size, seeds = open_segmenter(args.segmenter), (SIDE_PX, SIDE_PX), range(SEED, SEED + args.pieces)
    plain = [render_tissue(size, seed) for seed in seeds]
    drawn = {name: [render_tissue(size, seed, stain=name) for seed in seeds] for name in STAINS}
    others = [render_tissue(size, seed + OTHERS, stain="eosin") for seed in seeds]
    grey = [look(segmenter, tissue.image, tissue, MEASURED) for tissue in plain]
    head = ["stain, seen as", "F1 at IoU > 0.5", "F1 at IoU > 0.7", "cells found, % of those in grey"]

    print(f"\nOne stain, {args.pieces} phantoms, cells by {args.segmenter}\n")
    rows = [row(GREY, grey, grey)]
    for name, tissues in drawn.items():
        for how in (LUMINANCE, MEASURED):
            rows.append(row(f"{name}, {how}", [look(segmenter, t.image, t, how) for t in tissues], grey))
    print(table(head, rows))

    print("\nThe same behind a second phantom in eosin\n")
    rows = []
    for name in STAINS[:-1]:
        slides = [behind(t.image, other.image) for t, other in zip(drawn[name], others, strict=True)]
        for how in (LUMINANCE, name, MEASURED, f"{name}/eosin"):
            found = [look(segmenter, pixels, t, how) for pixels, t in zip(slides, drawn[name], strict=True)]
            rows.append(row(f"{name}, {how}", found, grey, f"{100 * on_others(found, others):.1f}"))
    print(table([*head, "counterstained cells taken for cells, %"], rows))

    print("\nDirections measured, degrees from those drawn (median, largest of all pieces)\n")
    print(
        table(["stain", "median", "largest", "pieces held for two stains"], [direction_row(*d) for d in drawn.items()])
    )


def direction_row(name: str, tissues: list[Tissue]) -> list[Any]:
    """How far measured directions lie from the named one; each phantom's own dye differs by some 4 degrees from it."""
    measured = [
        section_stain(SmallImage(Path("phantom"), t.image, 1.0), None, VALUES, MEASURED).vectors for t in tissues
    ]
    apart = [np.degrees(np.arccos(np.clip(float(np.dot(v[0], stain_vector(name))), -1, 1))) for v in measured]
    return [name, f"{np.median(apart):.1f}", f"{max(apart):.1f}", sum(len(v) > 1 for v in measured)]


if __name__ == "__main__":
    main()
