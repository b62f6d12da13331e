"""How well segmenters find cells: on held-out phantoms and labelled images, under shifts of the picture, and how fast.

    python benchmarks/segmenter.py [--segmenter cpn --segmenter classical] [--pieces 24]

prints Markdown tables; ``docs/segmentation.md`` holds them. A found and a true cell match if their intersection over
union exceeds a threshold, each cell at most once, as many as can be. Tables give the F1 of all cells together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.phantom import render_tissue
from cytomend.segmentation.pictures import Floats, Labelled, Phantoms, Picture, Pictures, gamma
from cytomend.segmentation.polygons import Polygons, match, polygons
from cytomend.segmentation.segmenters import Segmenter, open_segmenter
from cytomend.segmentation.table import table_contours

SEED = 850_000
LABELLED = Path("../shared/data/tissue-nuclei-dsb2018")
IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)
SIZES_UM2 = (0, 40, 80, 160, 320, np.inf)
TIMED_PX, TIMED = 176, 40

Shift = Callable[[Floats, np.random.Generator], Floats]
SHIFTS: dict[str, Shift] = {
    "none": lambda v, _: v,
    "blur, 0.7 px": lambda v, _: ndimage.gaussian_filter(v, 0.7),
    "blur, 1.2 px": lambda v, _: ndimage.gaussian_filter(v, 1.2),
    "contrast x 0.6": lambda v, _: (v - 0.4) * 0.6 + 0.4,
    "contrast x 1.2": lambda v, _: np.clip((v - 0.4) * 1.2 + 0.4, -1, 1),
    "brightness - 0.15": lambda v, _: np.clip(v - 0.15, -1, 1),
    "gamma 0.7": lambda v, _: gamma(v, 0.7),
    "gamma 1.5": lambda v, _: gamma(v, 1.5),
    "noise, sd 0.1 of [-1, 1]": lambda v, rng: np.clip(v + rng.normal(0, 0.1, v.shape), -1, 1),
}


class Found(NamedTuple):
    """What was found in one picture, and what is there; areas in px²."""

    found: Polygons
    true: Polygons


def looked_at(segmenter: Segmenter, picture: Picture, shift: Shift, seed: int) -> Found:
    """Segment a picture under a shift."""
    values = np.asarray(shift(picture.values, np.random.default_rng(seed)), np.float32)
    cells = segmenter.find(values, pixel_size_um=1.0, value_range=(-1.0, 1.0))
    return Found(polygons(table_contours(cells)), polygons(picture.contours))


def all_found(segmenter: Segmenter, pictures: Pictures, count: int, shift: Shift = SHIFTS["none"]) -> list[Found]:
    """Segment the first pictures of a set."""
    return [looked_at(segmenter, pictures[i], shift, i) for i in range(count)]


def f1(results: Sequence[Found], iou: float) -> float:
    """F1 of all cells of all pictures together."""
    matches = [match(result.found, result.true, iou) for result in results]
    right, total = sum(len(m.found) for m in matches), sum(m.found_count + m.true_count for m in matches)
    return 2 * right / max(total, 1)


def f1_by_size(results: Sequence[Found]) -> list[tuple[float, int]]:
    """F1 and number of true cells of each size; a false cell counts for its own size."""
    right, there, false = (np.zeros(len(SIZES_UM2) - 1) for _ in range(3))
    for result in results:
        matched = match(result.found, result.true, 0.5)
        size = [np.digitize(shapely.area(cells), SIZES_UM2) - 1 for cells in result]
        np.add.at(there, size[1], 1)
        np.add.at(right, size[1][matched.true], 1)
        np.add.at(false, np.delete(size[0], matched.found), 1)
    score = 2 * right / np.maximum(right + false + there, 1)
    return [(float(s), int(n)) for s, n in zip(score, there, strict=True)]


def bias(results: Sequence[Found]) -> NDArray[np.float64]:
    """Relative errors in % of density and of median area, of each picture: (pictures, 2)."""
    rows = [
        (len(r.found) / len(r.true) - 1, np.median(shapely.area(r.found)) / np.median(shapely.area(r.true)) - 1)
        for r in results
        if len(r.true) and len(r.found)
    ]
    return 100 * np.array(rows)


def milliseconds(segmenter: Segmenter) -> float:
    """Median processor time a picture, on one core."""
    torch.set_num_threads(1)
    images = [render_tissue((TIMED_PX, TIMED_PX), SEED + 500 + i).image for i in range(4)]
    taken = []
    for i in range(TIMED + 4):
        begun = time.process_time()
        segmenter.find(images[i % 4], pixel_size_um=1.0, value_range=(0.0, 255.0))
        taken.append(time.process_time() - begun)
    return 1000 * float(np.median(taken[4:]))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; floats with three digits."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row) + " |" for row in lines
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--segmenter", action="append", help="name; may be repeated (default: cpn, classical)")
    parser.add_argument("--pieces", type=int, default=24, help="phantoms of 256 px")
    args = parser.parse_args()
    segmenters = {name: open_segmenter(name) for name in args.segmenter or ["cpn", "classical"]}
    phantoms = Phantoms(args.pieces, 256, SEED)
    sets: dict[str, Pictures] = {f"phantoms ({args.pieces})": phantoms}
    if (LABELLED / "index.csv").exists():
        labelled = Labelled(LABELLED, 12.0, held_out=True)
        sets[f"labelled images ({len(labelled)})"] = labelled
    found = {
        (name, what): all_found(s, pictures, len(pictures))
        for name, s in segmenters.items()
        for what, pictures in sets.items()
    }
    print("\nF1 on held-out pictures\n")
    rows = [[name, what, *(f1(found[name, what], iou) for iou in IOUS)] for name, what in found]
    print(table(["segmenter", "pictures", *(f"IoU > {iou}" for iou in IOUS)], rows))
    on_phantoms = {name: found[name, next(iter(sets))] for name in segmenters}
    print("\nF1 at IoU > 0.5 by the area of the cell, phantoms\n")
    counts = [n for _, n in f1_by_size(next(iter(on_phantoms.values())))]
    heads = [f"{a}-{b} µm² ({n})" for a, b, n in zip(SIZES_UM2, SIZES_UM2[1:], counts, strict=False)]
    print(table(["segmenter", *heads], [[name, *(s for s, _ in f1_by_size(r))] for name, r in on_phantoms.items()]))
    print("\nF1 at IoU > 0.5 under shifts, phantoms\n")
    few = min(args.pieces, 12)
    rows = [
        [label, *(f1(all_found(s, phantoms, few, shift), 0.5) for s in segmenters.values())]
        for label, shift in SHIFTS.items()
    ]
    print(table([f"shift ({few} phantoms)", *segmenters], rows))
    print("\nErrors of a phantom's statistics in %, mean ± standard deviation over phantoms; processor time\n")
    rows = []
    for name, results in on_phantoms.items():
        errors = bias(results)
        said = [f"{m:+.1f} ± {s:.1f}" for m, s in zip(errors.mean(0), errors.std(0), strict=True)]
        rows.append([name, *said, f"{milliseconds(segmenters[name]):.0f}"])
    print(table(["segmenter", "density", "median area", f"ms a picture of {TIMED_PX} px"], rows))


if __name__ == "__main__":
    main()
