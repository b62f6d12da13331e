"""How far the samples of a region differ, pixel by pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Spread:
    """Gathers samples one by one and gives their standard deviation.

    Grey values are whole numbers, so that the sums are exact: neither their order nor how many are added at a time
    reaches the result, and the memory is that of two samples however many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: NDArray[np.int64] = np.zeros((), dtype=np.int64)
        self.squares: NDArray[np.int64] = np.zeros((), dtype=np.int64)

    def add(self, sample: NDArray[np.generic]) -> None:
        """Add a sample, (k, C, c, c) of the scanner's dtype."""
        values = sample.astype(np.int64)
        self.count += 1
        self.total = self.total + values
        self.squares = self.squares + values**2

    def deviation(self, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Return the standard deviation, rounded, (k, c, c).

        The divisor is one less than the number of samples; over channels it is the root of the mean square.
        """
        n = self.count
        variance: NDArray[np.float64] = (n * self.squares - self.total**2) / (n * (n - 1))
        deviation: NDArray[np.generic] = np.rint(np.sqrt(variance.mean(axis=1))).astype(dtype)
        return deviation
