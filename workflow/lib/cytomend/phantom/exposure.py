"""From optical density to pixels: the stain of a section, the texture of its ground, the light and the sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cytomend.stains import stain_vector

Floats = NDArray[np.float32]

STRAY_LIGHT = 3.5
CLEAR_GLASS = 1.28
"""How much brighter a colour scan shows its ground than the grey reference tile."""
COLOUR_NOISE = 0.3
"""Noise of a channel of a colour scan over that of the grey reference tile; the public field has less still."""


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


@dataclass(frozen=True)
class Dye:
    """How light falls in each channel: what clear glass shows, the absorption for a density of one, and the noise."""

    clear: tuple[float, ...]
    absorption: tuple[float, ...]
    noise: float = 1.0


def grey_dye(stain: Stain) -> Dye:
    """Return the dye of a grey scan."""
    return Dye((stain.ground,), (1.0,))


def draw_dye(name: str, stain: Stain, rng: np.random.Generator) -> Dye:
    """Draw the dye of an RGB scan around a stain's direction; the channel that it darkens most falls as grey does."""
    vector = stain_vector(name) * np.exp(rng.normal(0, 0.07, 3))
    clear = np.minimum(CLEAR_GLASS * stain.ground + rng.normal(0, 2.0, 3), 250)
    return Dye(tuple(map(float, clear)), tuple(map(float, vector / vector.max())), COLOUR_NOISE)


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


def expose(density: Floats, grainy: Floats, stain: Stain, dye: Dye, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn optical density (H, W) into pixels (C, H, W), with the tissue's texture and the sensor's noise."""
    shape = density.shape
    # Dust and stain grains are uneven: smooth clearings beside dusty places, more of them where the tissue is dense.
    dust = np.exp(coloured_noise(shape, (2.5, 8.0), (0.13, 0.17), rng)) * (0.75 + 0.5 * density.clip(0, 0.8))
    fine = coloured_noise(shape, (0.55, 1.4), (0.056 * stain.texture, 0.042), rng)
    broad = coloured_noise(shape, (6.0,), (0.018,), rng)
    grain = coloured_noise(shape, (0.7, 1.6), (0.3, 0.25), rng)
    dots = rng.random(shape, dtype=np.float32)
    speckle = (1 - dots / 0.08).clip(0) * (0.29 * stain.speckle)
    total = density + grainy * grain.clip(-0.8, 1.2) + broad + dust * (fine + speckle)
    channels = zip(dye.clear, dye.absorption, strict=True)
    return np.stack([_detect(clear * np.exp(-total * share), stain, dye.noise, rng) for clear, share in channels])


def _detect(light: Floats, stain: Stain, noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return what the sensor makes of the light, (H, W)."""
    light = gaussian_filter(light, stain.blur_px, mode="nearest", truncate=3)
    shot = rng.standard_normal(light.shape, dtype=np.float32)
    light += shot * noise * np.sqrt(stain.sensor_noise**2 + 0.16 * light.clip(0))
    # Even the darkest body lets some stray light through.
    plane: NDArray[np.uint8] = (light + STRAY_LIGHT).round().clip(0, 255).astype(np.uint8)
    return plane


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
