"""About thirty numbers that describe a window of tissue, for the linear judge of `cytomend.evaluation.realism`.

Each is what a careful reader of a picture would name: how dark, how grainy, how sharp, how many bodies and of which
size. All lengths are in µm, so that sections of different pixel sizes can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.errors import InputError
from cytomend.evaluation.statistics import BANDS

Float = NDArray[np.float64]
Windows = NDArray[np.float32]
"""(n, C, S, S), scaled so that the section's windows have the mean 0 and the standard deviation 1."""

DARK = -1.0
"""Scaled grey value below which a smoothed pixel belongs to a dark body."""
BODY_SMOOTH_UM = 1.0
SPECK_UM2 = 20.0
"""Dark bodies up to this area are specks: neither a neuron nor a glial cell is so small."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LAGS_UM = (4.0, 10.0)
BLOCK_UM = 8.0
LEAST_UM = 24.0
LEAST = 1e-6


def describe(windows: Windows, pixel_size_um: float) -> tuple[list[str], Float]:
    """Return the names of the features and their values (n, features).

    Parameters
    ----------
    windows : (n, C, S, S), scaled; of colour windows the mean of the channels is described, and the hue
    pixel_size_um : side of a pixel in µm

    Raises
    ------
    InputError
        If the windows are smaller than `LEAST_UM`: they hold no cell with its surroundings.
    """
    if windows.shape[-1] * pixel_size_um < LEAST_UM:
        raise InputError(
            f"expected windows of at least {LEAST_UM:g} µm, found {windows.shape[-1]} px of {pixel_size_um:g} µm; give"
            " larger windows"
        )
    grey = windows.astype(np.float64).mean(1)
    found: dict[str, Float] = {}
    for part in (
        _greys(grey),
        _spectrum(grey, pixel_size_um),
        _gradients(grey, pixel_size_um),
        _bodies(grey, pixel_size_um),
        _structure(grey, pixel_size_um),
        _hue(windows),
    ):
        found |= dict(part)
    return list(found), np.stack(list(found.values()), axis=1)


def _greys(grey: Float) -> Iterator[tuple[str, Float]]:
    flat = grey.reshape(len(grey), -1)
    mean, std = flat.mean(1), flat.std(1)
    unit = (flat - mean[:, None]) / np.maximum(std, LEAST)[:, None]
    yield "grey mean", mean
    yield "grey std", np.log(std + LEAST)
    yield "skewness", (unit**3).mean(1)
    yield "kurtosis", (unit**4).mean(1)
    for level, values in zip(QUANTILES, np.quantile(flat, QUANTILES, axis=1), strict=True):
        yield f"grey q{100 * level:g}", values


def _spectrum(grey: Float, pixel_size_um: float) -> Iterator[tuple[str, Float]]:
    side = grey.shape[-1]
    taper = np.hanning(side + 2)[1:-1]
    centred = (grey - grey.mean((1, 2), keepdims=True)) * taper[:, None] * taper
    power = np.abs(np.fft.fft2(centred)) ** 2 / side**2
    frequency = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(side, pixel_size_um)], indexing="ij"))
    for band, (low, high) in {**BANDS, "beyond": (BANDS["grain"][1], np.inf)}.items():
        ring = (frequency >= low) & (frequency < high)
        if ring.any():
            yield f"power, {band}", np.log(power[:, ring].mean(1) + LEAST)
    spectrum = np.fft.ifft2(np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))) ** 2).real
    for lag_um in LAGS_UM:
        lag = max(round(lag_um / pixel_size_um), 1)
        both = (spectrum[:, lag, 0] + spectrum[:, 0, lag]) / 2
        yield f"correlation at {lag_um:g} µm", both / np.maximum(spectrum[:, 0, 0], LEAST)


def _gradients(grey: Float, pixel_size_um: float) -> Iterator[tuple[str, Float]]:
    sigma = (0, 1 / pixel_size_um, 1 / pixel_size_um)
    smooth = ndimage.gaussian_filter(grey, sigma)
    steep = np.hypot(*np.gradient(smooth, axis=(1, 2)))
    rms = np.sqrt((steep**2).mean((1, 2)))
    yield "gradient", np.log(rms + LEAST)
    yield "sharpest gradient", np.quantile(steep, 0.99, axis=(1, 2)) / np.maximum(rms, LEAST)
    curved = ndimage.gaussian_laplace(grey, sigma)
    yield "curvature", np.log(curved.std((1, 2)) + LEAST)
    fine = grey - smooth
    yield "grain", np.log(fine.std((1, 2)) + LEAST)
    on_dark = np.where(smooth < DARK, fine, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        counted = np.isfinite(on_dark).sum((1, 2))
        dark_grain = np.sqrt(np.nansum(on_dark**2, axis=(1, 2)) / np.maximum(counted, 1))
    yield "grain of bodies", np.where(counted > 0, dark_grain, fine.std((1, 2)))


def _bodies(grey: Float, pixel_size_um: float) -> Iterator[tuple[str, Float]]:
    sigma = BODY_SMOOTH_UM / pixel_size_um
    dark = ndimage.gaussian_filter(grey, (0, sigma, sigma)) < DARK
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True  # pixels of one window, never of two
    labels, count = ndimage.label(dark, touching)
    index = np.arange(1, count + 1)
    area_um2 = ndimage.sum_labels(dark, labels, index) * pixel_size_um**2
    window = ndimage.maximum(np.arange(len(grey))[:, None, None] * np.ones_like(labels), labels, index).astype(np.int64)
    body = area_um2 > SPECK_UM2
    bodies, specks = (np.bincount(window[which], minlength=len(grey)).astype(float) for which in (body, ~body))
    total = np.bincount(window[body], area_um2[body], len(grey))
    largest = np.zeros(len(grey))
    np.maximum.at(largest, window, area_um2)
    yield "dark share", dark.mean((1, 2))
    yield "dark bodies", np.sqrt(bodies)
    yield "specks", np.sqrt(specks)
    yield "body area", np.sqrt(total / np.maximum(bodies, 1))
    yield "largest body", np.sqrt(largest)
    yield "darkest", grey.min((1, 2))


def _structure(grey: Float, pixel_size_um: float) -> Iterator[tuple[str, Float]]:
    sigma = (0, 1.5 / pixel_size_um, 1.5 / pixel_size_um)
    down, right = np.gradient(ndimage.gaussian_filter(grey, sigma), axis=(1, 2))
    tensor = np.stack([down**2 - right**2, 2 * down * right, down**2 + right**2])
    local = ndimage.gaussian_filter(tensor, (0, 0, 6 / pixel_size_um, 6 / pixel_size_um))
    yield "local coherence", np.hypot(local[0], local[1]).sum((1, 2)) / np.maximum(local[2].sum((1, 2)), LEAST)
    whole = tensor.sum((2, 3))
    yield "direction strength", np.hypot(whole[0], whole[1]) / np.maximum(whole[2], LEAST)
    block = max(round(BLOCK_UM / pixel_size_um), 2)
    count = grey.shape[-1] // block
    blocks = grey[:, : count * block, : count * block].reshape(len(grey), count, block, count, block)
    contrast = blocks.std((2, 4))
    yield "unevenness", contrast.std((1, 2)) / np.maximum(contrast.mean((1, 2)), LEAST)
    yield "emptiest block", np.log(contrast.min((1, 2)) + LEAST)


def _hue(windows: Windows) -> Iterator[tuple[str, Float]]:
    if windows.shape[1] == 3:
        red, green, blue = (windows[:, i].astype(np.float64) for i in range(3))
        for name, part in (("red - green", red - green), ("blue - green", blue - green)):
            yield f"{name}, mean", part.mean((1, 2))
            yield f"{name}, std", part.std((1, 2))
