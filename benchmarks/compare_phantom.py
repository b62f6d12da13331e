"""Compare phantoms with a real tile of cell-body-stained cortex: by eye, by histogram, by spectrum, by cells.

    python benchmarks/compare_phantom.py REAL_TIFF OUT.png [--seeds 8] [--area phantom-c]

Writes a picture (real crops beside phantom crops at the same contrast, histograms, radial spectra) and prints a table:
the real tile, the median over the phantoms, their ratio, and the phantoms' range. Cells are found the same way in all
of them, by Otsu's threshold and a watershed, which is crude and, being the same, comparable.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tifffile
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, distance_transform_edt, gaussian_filter
from scipy.ndimage import mean as mean_by_label
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops_table
from skimage.segmentation import watershed

from cytomend.phantom import AREAS, render_tissue

Grey = NDArray[np.uint8]
Curve = NDArray[np.float64]

SPECTRUM_PX = 200
SMALLEST_CELL_PX = 20
FREQUENCIES = (0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.35, 0.5)


def radial_spectrum(image: Grey) -> tuple[Curve, Curve]:
    """Return frequencies in cycles per pixel and mean power, averaged over half-overlapping Hann windows."""
    n = SPECTRUM_PX
    window = np.hanning(n)[:, None] * np.hanning(n)
    corners = (
        (y, x) for y in range(0, image.shape[0] - n + 1, n // 2) for x in range(0, image.shape[1] - n + 1, n // 2)
    )
    patches = (image[y : y + n, x : x + n].astype(float) for y, x in corners)
    power = np.mean([np.abs(np.fft.fft2((p - p.mean()) * window)) ** 2 for p in patches], axis=0) / (window**2).sum()
    radius = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n))
    rings = np.rint(radius * n).astype(int)
    return np.arange(n // 2 + 1) / n, mean_by_label(power, rings, np.arange(n // 2 + 1))


def find_cells(image: Grey) -> dict[str, Curve]:
    """Return area (px), eccentricity, mean grey value and nearest-neighbour distance (px) of the dark bodies."""
    smooth = gaussian_filter(image.astype(float), 1.0)
    dark = binary_opening(smooth < threshold_otsu(smooth))
    depth = gaussian_filter(distance_transform_edt(dark), 1.0)
    peaks = peak_local_max(depth, min_distance=4, labels=label(dark), exclude_border=False)
    seeds = np.zeros(image.shape, int)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    properties = ("area", "centroid", "mean_intensity", "eccentricity")
    table = regionprops_table(watershed(-depth, seeds, mask=dark), image, properties=properties)
    large = table["area"] >= SMALLEST_CELL_PX
    places = np.column_stack([table["centroid-0"], table["centroid-1"]])[large]
    cells = {name: table[name][large] for name in ("area", "mean_intensity", "eccentricity")}
    return cells | {"neighbour": cKDTree(places).query(places, k=2)[0][:, 1], "dark": np.array([dark.mean()])}


def measure(image: Grey) -> dict[str, float]:
    """Return the statistics of one picture by name."""
    frequency, power = radial_spectrum(image)
    cells = find_cells(image)
    row = {f"grey, {p} %": float(np.percentile(image, p)) for p in (1, 5, 10, 25, 50, 75, 90, 99)}
    row |= {"grey, mean": float(image.mean()), "grey, std": float(image.std())}
    row |= {"dark share": float(cells["dark"][0]), "cells per Mpx": len(cells["area"]) / image.size * 1e6}
    row |= {f"cell area, {p} % (px)": float(np.percentile(cells["area"], p)) for p in (25, 50, 75, 95)}
    row |= {f"neighbour, {p} % (px)": float(np.percentile(cells["neighbour"], p)) for p in (5, 50, 95)}
    row |= {"cell grey, median": float(np.median(cells["mean_intensity"]))}
    row |= {"eccentricity, median": float(np.median(cells["eccentricity"]))}
    return row | {f"power at {f:g}/px": float(np.interp(f, frequency, power)) for f in FREQUENCIES}


def print_table(real: dict[str, float], phantoms: list[dict[str, float]]) -> None:
    """Print real, median phantom, ratio and range."""
    print(f"{'statistic':24s} {'real':>11s} {'phantom':>11s} {'ratio':>7s}   {'range of phantoms':>22s}")
    for name, value in real.items():
        values = [row[name] for row in phantoms]
        middle = float(np.median(values))
        print(f"{name:24s} {value:11.4g} {middle:11.4g} {middle / value:7.2f}   {min(values):11.4g}{max(values):11.4g}")


def draw(real: Grey, phantoms: list[Grey], out: Path) -> None:
    """Draw crops at two scales, histograms and spectra."""
    figure = Figure(figsize=(18, 12), layout="constrained")
    axes = figure.subplots(2, 3)
    for row, side in ((0, 500), (1, 180)):
        for column, (name, image) in enumerate((("real", real), ("phantom", phantoms[0]))):
            y, x = ((length - side) // 2 for length in image.shape)
            axes[row, column].imshow(image[y : y + side, x : x + side], cmap="gray", vmin=0, vmax=255)
            axes[row, column].set(title=f"{name}, {side} px", xticks=[], yticks=[])
    for image, colour, width in (*((p, "tab:orange", 0.7) for p in phantoms), (real, "black", 2.0)):
        counts = np.bincount(image.ravel(), minlength=256) / image.size
        axes[0, 2].plot(gaussian_filter(counts, 1.0), color=colour, linewidth=width)
        axes[1, 2].loglog(*(curve[1:] for curve in radial_spectrum(image)), color=colour, linewidth=width)
    axes[0, 2].set(title="grey values: real black, phantoms orange", xlabel="grey value", ylabel="share of pixels")
    axes[1, 2].set(title="radial power spectrum", xlabel="cycles per pixel", ylabel="power")
    figure.savefig(out, dpi=80)


def main() -> None:
    """Read the real tile, render phantoms of its size, compare."""
    parser = argparse.ArgumentParser(description="Compare phantoms with a real tile.")
    parser.add_argument("real", type=Path, help="grey TIFF of about 1 µm per pixel")
    parser.add_argument("out", type=Path, help="picture to write")
    parser.add_argument("--seeds", type=int, default=8, help="number of phantoms")
    parser.add_argument("--area", choices=sorted(AREAS), help="cytoarchitectonic area; by default the seeds choose")
    args = parser.parse_args()
    real: Grey = tifffile.imread(args.real)
    phantoms = [render_tissue((real.shape[0], real.shape[1]), seed, area=args.area).image for seed in range(args.seeds)]
    print_table(measure(real), [measure(image) for image in phantoms])
    draw(real, phantoms, args.out)


if __name__ == "__main__":
    main()
