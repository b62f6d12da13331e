"""Grey values at the edge of the model: the scanner's dtype outside, [-1, 1] inside. Converted nowhere else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ValueRange = tuple[float, float]
"""The scanner's values that mean -1 and 1."""


def to_model(pixels: NDArray[np.generic], value_range: ValueRange) -> NDArray[np.float32]:
    """Map the scanner's values to [-1, 1]; values beyond the range are cut off."""
    low, high = value_range
    scaled: NDArray[np.float32] = (pixels.astype(np.float32) - low) * (2 / (high - low)) - 1
    return np.clip(scaled, -1, 1)


def from_model(
    values: NDArray[np.float32], value_range: ValueRange, dtype: np.dtype[np.generic]
) -> NDArray[np.generic]:
    """Map [-1, 1] to the scanner's values, rounded to the nearest."""
    low, high = value_range
    pixels = np.rint((np.clip(values, -1, 1).astype(np.float64) + 1) * ((high - low) / 2) + low)
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    return np.clip(pixels, limits.min, limits.max).astype(dtype)
