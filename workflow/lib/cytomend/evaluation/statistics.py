"""What is measured inside a mask, in a picture with cells.

Every statistic is a ratio of two sums, so that one trial and many pooled have the same formula: cells over area, summed
cell area over cells, squared grey deviations over pixels. A window holds half a dozen cells, so that its own density
says little; pooled over trials, ``sum / sum`` weighs every cell and every pixel alike, and no trial without cells has
to be left out. A bootstrap draws trials and adds up their sums.

Cells belong to the mask by their centre. Pixels of the patch's own rim are no outline of the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from cytomend.evaluation.arrangement import neighbour_sums

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

BANDS = {"cells": (0.02, 0.06), "bodies": (0.06, 0.14), "outlines": (0.14, 0.28), "grain": (0.28, 0.5)}
"""Bands of the spectrum in cycles per µm, by what makes them in cell-body stains at 1 µm a pixel."""

GREYS = 256
TAPER_UM = 6.0
NEAR_UM = 2.0
SIDE_UM = 4.0
CLOSE_UM, NEARBY_UM = 10.0, 25.0


class Ratio(NamedTuple):
    """A statistic: one sum over another, or the root of that."""

    top: str
    bottom: str
    unit: str
    root: bool = False


STATISTICS = {
    "cell density": Ratio("cells", "area_mm2", "1/mm²"),
    "cell area": Ratio("cell_area_um2", "cells", "µm²"),
    "neighbour distance": Ratio("neighbour_um", "neighbours", "µm"),
    "close pairs": Ratio("close_pairs", "close_pairs_expected", ""),
    "nearby pairs": Ratio("nearby_pairs", "nearby_pairs_expected", ""),
    "grey mean": Ratio("grey", "pixels", "grey"),
    "grey std": Ratio("grey_deviation", "pixels", "grey", root=True),
    "dark share": Ratio("dark", "pixels", ""),
    **{f"power, {band}": Ratio(f"power_{band}", "taper", "grey²") for band in BANDS},
    "border step": Ratio("border_step", "border_pairs", "grey"),
    "border gradient": Ratio("border_gradient", "border_pixels", "grey", root=True),
    "border contrast": Ratio("border_contrast", "border_places", "grey", root=True),
}
"""By name. ``close pairs``: neighbours within `CLOSE_UM`, over those of chance: bodies keep apart, points strewn at
random do not. ``nearby pairs``: the same within `NEARBY_UM`, for clumps. ``border step``: mean difference of
neighbouring pixels across the outline. ``border gradient``: root mean square gradient just inside it. ``border
contrast``: root mean square difference of the mean greys of its two sides."""

CELL_STATISTICS = ("cell density", "cell area", "neighbour distance")

SUMS = tuple(dict.fromkeys(name for ratio in STATISTICS.values() for name in (ratio.top, ratio.bottom)))


def measure(image: NDArray[np.generic], mask: Mask, cells: Float, *, pixel_size_um: float, dark: float) -> Float:
    """Return the sums of one picture, in the order of `SUMS`.

    Parameters
    ----------
    image : (Y, X) grey values
    mask : (Y, X), where to measure
    cells : (n, 3), y_um, x_um and area_um2 of all cells of the picture
    pixel_size_um : side of a pixel in µm
    dark : grey value below which a pixel counts as dark
    """
    grey = image.astype(np.float64)
    parts = (
        count_cells(cells, mask, pixel_size_um),
        count_pairs(cells, mask, pixel_size_um),
        sum_greys(grey, mask, dark),
        sum_power(grey, mask, pixel_size_um),
        sum_border(grey, mask, pixel_size_um),
    )
    found = {name: value for part in parts for name, value in part.items()}
    return np.array([found[name] for name in SUMS])


def ratios(sums: Float) -> Float:
    """Return the statistics of sums (..., len(SUMS)), in the order of `STATISTICS`; NaN where nothing was counted."""
    at = {name: i for i, name in enumerate(SUMS)}
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [
            np.sqrt(part) if ratio.root else part
            for ratio in STATISTICS.values()
            for part in (sums[..., at[ratio.top]] / sums[..., at[ratio.bottom]],)
        ]
    return np.where(np.isfinite(stacked := np.stack(values, axis=-1)), stacked, np.nan)


def count_cells(cells: Float, mask: Mask, pixel_size_um: float) -> dict[str, float]:
    """Count cells whose centre lies in the mask; their neighbours may lie outside it."""
    pixel = np.minimum((cells[:, :2] / pixel_size_um).astype(np.int64), np.array(mask.shape) - 1)
    inside = mask[pixel[:, 0], pixel[:, 1]]
    alone = len(cells) < 2
    far = np.zeros(0) if alone else cKDTree(cells[:, :2]).query(cells[inside, :2], k=2)[0][:, 1]
    return {
        "cells": float(inside.sum()),
        "area_mm2": float(mask.sum() * pixel_size_um**2 * 1e-6),
        "cell_area_um2": float(cells[inside, 2].sum()),
        "neighbour_um": float(far.sum()),
        "neighbours": float(len(far)),
    }


def count_pairs(cells: Float, mask: Mask, pixel_size_um: float) -> dict[str, float]:
    """Count the neighbours of the mask's cells, and those that chance would give them (see `arrangement`)."""
    pairs, expected = neighbour_sums(cells, mask, pixel_size_um, np.array([CLOSE_UM, NEARBY_UM]))
    return {
        "close_pairs": float(pairs[0]),
        "close_pairs_expected": float(expected[0]),
        "nearby_pairs": float(pairs[1]),
        "nearby_pairs_expected": float(expected[1]),
    }


def sum_greys(grey: Float, mask: Mask, dark: float) -> dict[str, float]:
    """Sum grey values, their squared deviations from the mask's own mean, and dark pixels."""
    inside = grey[mask]
    return {
        "pixels": float(len(inside)),
        "grey": float(inside.sum()),
        "grey_deviation": float(((inside - inside.mean()) ** 2).sum()) if len(inside) else 0.0,
        "dark": float((inside < dark).sum()),
    }


def sum_power(grey: Float, mask: Mask, pixel_size_um: float) -> dict[str, float]:
    """Return the mean spectral power in each band, times the taper's power, which is given too.

    The mask is faded in over `TAPER_UM`, since a hard outline would scatter the power of large structures over all
    frequencies. The quotient of white noise is its variance, in every band and mask.
    """
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] * pixel_size_um
    taper = np.sin(np.pi / 2 * np.clip(depth / TAPER_UM, 0, 1)) ** 2
    mean = (grey * taper).sum() / max(taper.sum(), 1e-9)
    power = np.abs(np.fft.fft2((grey - mean) * taper)) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, pixel_size_um) for n in grey.shape), indexing="ij"))
    found = {"taper": float((taper**2).sum())}
    for band, (low, high) in BANDS.items():
        ring = (frequency >= low) & (frequency < high)
        found[f"power_{band}"] = float(power[ring].mean()) if ring.any() else 0.0
    return found


def sum_border(grey: Float, mask: Mask, pixel_size_um: float) -> dict[str, float]:
    """Sum what changes at the outline: steps across it, gradients just inside it, contrast of its two sides."""
    near = ndimage.binary_erosion(mask, iterations=max(round(NEAR_UM / pixel_size_um), 1), border_value=1)
    ring, outline = mask & ~near, mask & ndimage.binary_dilation(~mask)
    down, right = np.diff(grey, axis=0), np.diff(grey, axis=1)
    steps = np.concatenate([np.abs(down[mask[1:] != mask[:-1]]), np.abs(right[mask[:, 1:] != mask[:, :-1]])])
    slope = np.zeros_like(grey)
    slope[:-1] += down**2
    slope[:, :-1] += right**2
    contrast = side_mean(grey, mask, pixel_size_um) - side_mean(grey, ~mask, pixel_size_um)
    return {
        "border_step": float(steps.sum()),
        "border_pairs": float(len(steps)),
        "border_gradient": float(slope[ring].sum()),
        "border_pixels": float(ring.sum()),
        "border_contrast": float((contrast[outline] ** 2).sum()),
        "border_places": float(outline.sum()),
    }


def side_mean(grey: Float, side: Mask, pixel_size_um: float) -> Float:
    """Return the mean grey of the nearby pixels of one side."""
    sigma_px = SIDE_UM / pixel_size_um
    share = ndimage.gaussian_filter(side.astype(np.float64), sigma_px)
    return np.asarray(ndimage.gaussian_filter(grey * side, sigma_px) / np.maximum(share, 1e-9))


def grey_histogram(image: NDArray[np.generic], mask: Mask, largest: int = GREYS - 1) -> Float:
    """Return how many of the mask's pixels have each grey value, in `GREYS` classes from 0 to ``largest``."""
    levels = image[mask].astype(np.int64) * GREYS // (largest + 1)
    return np.bincount(levels, minlength=GREYS).astype(np.float64)


def histogram_distance(a: Float, b: Float) -> Float:
    """Return the first Wasserstein distance of histograms (..., GREYS), in classes of grey.

    How far a grey value has to be moved on average to make one out of the other.
    """
    shares = (counts.cumsum(-1) / counts.sum(-1, keepdims=True) for counts in (a, b))
    return np.asarray(np.abs(next(shares) - next(shares)).sum(-1))


def bootstrap_counts(trials: int, *, times: int = 2000, seed: int = 0) -> Float:
    """Return how often each trial is drawn in each resample, (times, trials) (Efron 1979)."""
    return np.random.default_rng(seed).multinomial(trials, np.full(trials, 1 / trials), times).astype(np.float64)


def interval(draws: Float, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws, leaving out undefined ones."""
    if not np.isfinite(draws).any():
        return np.nan, np.nan
    low, high = np.nanquantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def paired_interval(
    a: Float, b: Float, centre: Callable[[Float], float] = np.mean, *, times: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the centre of the trials' differences a - b with its 95 % bootstrap interval; undefined ones are left out.

    Parameters
    ----------
    a, b : (n,), one value a trial, of the same trials
    centre : of differences (m,)
    """
    difference = (a - b)[np.isfinite(a - b)]
    if not len(difference):
        return np.nan, np.nan, np.nan
    drawn = np.random.default_rng(seed).integers(len(difference), size=(times, len(difference)))
    draws = np.array([centre(difference[row]) for row in drawn])
    return float(centre(difference)), *interval(draws)


def named(values: Float) -> Mapping[str, float]:
    """Return statistics by name."""
    return dict(zip(STATISTICS, values.tolist(), strict=True))
