"""From optical density to grey values: the stain of a section, the texture of its ground, the light and the sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float32]

STRAY_LIGHT = 3.5


@dataclass(frozen=True)
class Stain:
    """How the section was stained and scanned; every phantom draws its own."""

    ground: float
    strength: float
    haze: float
    texture: float
    speckle: float
    blur_px: float
    sensor_noise: float


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw a stain around that of the real reference tile."""
    return Stain(
        ground=float(rng.normal(190, 7)),
        strength=float(np.exp(rng.normal(0, 0.14))),
        haze=float(np.exp(rng.normal(0, 0.2))),
        texture=float(np.exp(rng.normal(0, 0.15))),
        speckle=float(np.exp(rng.normal(0, 0.15))),
        blur_px=float(rng.uniform(0.2, 0.42)),
        sensor_noise=float(rng.uniform(1.5, 3.0)),
    )


def expose(density: Floats, grainy: Floats, stain: Stain, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn optical density into grey values, with the tissue's texture and the sensor's noise."""
    shape = density.shape
    # Dust and stain grains are uneven: smooth clearings beside dusty places, more of them where the tissue is dense.
    dust = np.exp(coloured_noise(shape, (2.5, 8.0), (0.13, 0.17), rng)) * (0.75 + 0.5 * density.clip(0, 0.8))
    fine = coloured_noise(shape, (0.55, 1.4), (0.056 * stain.texture, 0.042), rng)
    broad = coloured_noise(shape, (6.0,), (0.018,), rng)
    grain = coloured_noise(shape, (0.7, 1.6), (0.3, 0.25), rng)
    dots = rng.random(shape, dtype=np.float32)
    speckle = (1 - dots / 0.08).clip(0) * (0.29 * stain.speckle)
    total = density + grainy * grain.clip(-0.8, 1.2) + broad + dust * (fine + speckle)
    light: Floats = gaussian_filter(stain.ground * np.exp(-total), stain.blur_px, mode="nearest", truncate=3)
    shot = rng.standard_normal(shape, dtype=np.float32)
    light += shot * np.sqrt(stain.sensor_noise**2 + 0.16 * light.clip(0))
    # Even the darkest body lets some stray light through.
    grey: NDArray[np.uint8] = (light + STRAY_LIGHT).round().clip(0, 255).astype(np.uint8)
    return grey


def coloured_noise(
    shape: tuple[int, int], sigmas_px: tuple[float, ...], amplitudes: tuple[float, ...], rng: np.random.Generator
) -> Floats:
    """Draw a Gaussian field whose spectrum is a sum of Gaussians, one for each correlation length.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels.
    sigmas_px : tuple of float
        Width of each component's smoothing kernel.
    amplitudes : tuple of float
        Standard deviation of each component.
    rng : numpy.random.Generator
        Source of randomness.
    """
    padded = tuple(scipy.fft.next_fast_len(n + 16, real=True) for n in shape)
    white = rng.standard_normal(padded, dtype=np.float32)
    fy = scipy.fft.fftfreq(padded[0]).astype(np.float32)[:, None]
    fx = scipy.fft.rfftfreq(padded[1]).astype(np.float32)[None, :]
    power = np.zeros((padded[0], padded[1] // 2 + 1), np.float32)
    for sigma, amplitude in zip(sigmas_px, amplitudes, strict=True):
        # exp(-(2 pi f sigma)^2) is the power of a Gaussian kernel; 4 pi sigma^2 makes its variance one.
        one_y = np.exp(-((2 * np.pi * sigma * fy) ** 2))
        one_x = np.exp(-((2 * np.pi * sigma * fx) ** 2))
        power += amplitude**2 * 4 * np.pi * sigma**2 * one_y * one_x
    spectrum = scipy.fft.rfft2(white) * np.sqrt(power)
    noise: Floats = scipy.fft.irfft2(spectrum, s=padded)[: shape[0], : shape[1]]
    return noise.astype(np.float32, copy=False)
