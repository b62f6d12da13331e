"""Can a reader find the fill? Fields of a scan, some with a mended hole and some untouched, in an order nobody knows.

    python benchmarks/blind.py SCAN --pixel-size-um 1 --holes-um 130 300 --fields 8 --out DIR
    python benchmarks/blind.py --score ANSWERS.tsv --out DIR

The first command writes ``DIR/fields/*.png`` at full size, without marks, and ``DIR/key.tsv``. Show a reader the
pictures alone. Half of them are mended: one hole each, of one of the widths, somewhere in the field. Fields are turned
and mirrored by chance, so that two that show the same place are not easily laid on each other.

The reader fills in a table with the columns ``field``, ``mended`` (yes or no), ``x`` and ``y`` (pixels of the picture,
where the fill is thought to be). The second command prints, by width, how many mended fields were called mended, how
often the place was right, and how many untouched fields were called mended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from skimage import io
from skimage.measure import approximate_polygon, find_contours

Mask = NDArray[np.bool_]

UNTOUCHED = 0
"""Width in the key of a field without a hole."""
ROUGHNESS = 0.25
"""By how much the radius of a hole varies."""


def hole(shape: tuple[int, int], centre: tuple[float, float], width_px: float, rng: np.random.Generator) -> Mask:
    """Return a blob of about this width, (h, w)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = np.arctan2(y - centre[0], x - centre[1])
    waves = sum(
        np.sin(k * angle + phase) / k for k, phase in zip((2, 3, 5, 8), rng.uniform(0, 2 * np.pi, 4), strict=True)
    )
    radius = width_px / 2 * (1 + ROUGHNESS * waves)
    return np.asarray(np.hypot(y - centre[0], x - centre[1]) < radius)


def outline(mask: Mask) -> dict[str, Any]:
    """Return the hole as GeoJSON."""
    contour = approximate_polygon(find_contours(np.pad(mask, 1).astype(float), 0.5)[0] - 1, 0.7)
    ring = [[float(x) + 0.5, float(y) + 0.5] for y, x in contour]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    return {"type": "FeatureCollection", "features": [feature]}


def mended(scan: Path, mask: Mask, pixel_size_um: float, options: list[str], work: Path) -> NDArray[Any]:
    """Return the mended scan, shaped as `skimage.io` reads it."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "hole.geojson").write_text(json.dumps(outline(mask)), encoding="utf-8")
    out = work / "mended.ome.zarr"
    words = ["mend", str(scan), "--mask", str(work / "hole.geojson"), "--pixel-size-um", str(pixel_size_um)]
    subprocess.run(
        [sys.executable, "-m", "cytomend", *words, *options, "--overwrite", "--out", str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    pixels = np.asarray(zarr.open_array(str(out / "0"), mode="r")[:])
    return pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, -1)


def fields(args: argparse.Namespace) -> None:
    """Write the pictures and the key."""
    rng = np.random.default_rng(args.seed)
    scan = io.imread(args.scan)
    shape = scan.shape[:2]
    widths = [width for width in args.holes_um for _ in range(args.fields // 2)]
    cases = [*widths, *[UNTOUCHED] * len(widths)]
    (args.out / "fields").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, case in enumerate(rng.permutation(len(cases)), 1):
        width_px = cases[case] / args.pixel_size_um
        side = [min(round(args.field_um / args.pixel_size_um), n) for n in shape]
        y0, x0 = (int(rng.integers(0, n - s + 1)) for n, s in zip(shape, side, strict=True))
        reach = [min(0.7 * width_px, s / 2 - 1) for s in side]
        centre = tuple(o + rng.uniform(r, s - r) for o, s, r in zip((y0, x0), side, reach, strict=True))
        whole, place = scan, np.zeros(shape, dtype=bool)
        if width_px:
            place = hole(shape, centre, width_px, rng)
            whole = mended(args.scan, place, args.pixel_size_um, args.mend, args.out / "work" / f"{number:02d}")
        here = np.s_[y0 : y0 + side[0], x0 : x0 + side[1]]
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        picture, mask = (np.rot90(part[here], turns) for part in (whole, place))
        if mirrored:
            picture, mask = picture[:, ::-1], mask[:, ::-1]
        io.imsave(args.out / "fields" / f"{number:02d}.png", np.ascontiguousarray(picture), check_contrast=False)
        y, x = np.nonzero(mask)
        middle = (float(x.mean()), float(y.mean())) if len(x) else (np.nan, np.nan)
        rows.append((number, cases[case], *middle, int(mask.sum()), y0, x0, turns, mirrored))
        io.imsave(args.out / "work" / f"{number:02d}-mask.png", np.uint8(255) * mask, check_contrast=False) if len(
            x
        ) else None
    columns = ["field", "hole_um", "x", "y", "hole_px", "y0", "x0", "turns", "mirrored"]
    pd.DataFrame(rows, columns=columns).to_csv(args.out / "key.tsv", sep="\t", index=False)


def score(key: pd.DataFrame, answers: pd.DataFrame, pixel_size_um: float) -> str:
    """Return the table of what was found, by width of the hole."""
    joined = key.merge(answers, on="field", suffixes=("", "_said"), validate="one_to_one")
    said = joined["mended"].astype(str).str.strip().str.lower().isin(["yes", "true", "1"])
    apart_um = np.hypot(joined["x"] - joined["x_said"], joined["y"] - joined["y_said"]) * pixel_size_um
    lines = ["| hole, µm | fields | called mended | place right |", "|---|---|---|---|"]
    for width, part in joined.groupby("hole_um"):
        own = said[part.index]
        right = int((own & (apart_um[part.index] <= max(width, 1) * 0.6)).sum())
        lines.append(
            f"| {'untouched' if width == UNTOUCHED else width} | {len(part)} | {int(own.sum())} |"
            f" {'–' if width == UNTOUCHED else right} |"
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    """Write fields, or score answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?")
    parser.add_argument("--pixel-size-um", type=float, default=1.0)
    parser.add_argument("--holes-um", type=int, nargs="+", default=[130, 300])
    parser.add_argument("--fields", type=int, default=8, help="of each width: half of them mended, half untouched")
    parser.add_argument("--field-um", type=float, default=600.0, help="side of a picture")
    parser.add_argument("--mend", nargs="*", default=[], help="options of cytomend mend, such as fill=draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score", type=Path, help="answers of a reader")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(words)
    args.mend = [word for option in args.mend for word in (f"--{option.partition('=')[0]}", option.partition("=")[2])]
    if args.score:
        answers = pd.read_csv(args.score, sep="\t")
        print(score(pd.read_csv(args.out / "key.tsv", sep="\t"), answers, args.pixel_size_um))
    else:
        fields(args)


if __name__ == "__main__":
    main()
