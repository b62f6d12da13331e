"""One denoiser for a canvas out of many windows, fused inside every step.

The windows' predictions of the clean image are averaged by weight before the sampler takes its step, and the step's
noise is drawn once for the canvas. So neighbouring windows agree at every step and no seam forms (after
MultiDiffusion, arXiv 2302.08113).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cytomend.diffusion.windows import WindowDenoise


class FusedDenoiser:
    """Denoises a canvas stored as cells, ``(k, C, c, c)``, by windows.

    Parameters
    ----------
    denoise_windows : denoises any number of windows
    members : (n, s * s) int64, the cells of each window, row by row
    sources : (k, 4) int64, where each cell occurs among the members; n * s * s where it does not
    weights : (W, W), the share of a window's prediction at each of its pixels
    """

    def __init__(self, denoise_windows: WindowDenoise, members: Tensor, sources: Tensor, weights: Tensor) -> None:
        self.denoise_windows = denoise_windows
        self.members = members
        self.sources = sources
        self.weights = weights
        self.side = round(members.shape[1] ** 0.5)
        self.shares = self._sum_over_windows(weights.expand(len(members), 1, *weights.shape))

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean canvas; see `Denoise`."""
        predicted = self.denoise_windows(self._windows(x), self._windows(time))
        return self._sum_over_windows(predicted * self.weights) / self.shares

    def _windows(self, canvas: Tensor) -> Tensor:
        """(k, C, c, c) -> (n, C, W, W)."""
        n, (channels, c) = len(self.members), canvas.shape[1:3]
        cells = canvas[self.members].view(n, self.side, self.side, channels, c, c)
        return cells.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, self.side * c, self.side * c)

    def _sum_over_windows(self, windows: Tensor) -> Tensor:
        """(n, C, W, W) -> (k, C, c, c), always adding in the same order, so that the last bit is reproducible."""
        c = windows.shape[-1] // self.side
        parts = windows.unfold(2, c, c).unfold(3, c, c).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (n * s * s, C, c, c)
        parts = torch.cat([parts, torch.zeros_like(parts[:1])])
        total = parts[self.sources[:, 0]]
        for occurrence in range(1, self.sources.shape[1]):
            total += parts[self.sources[:, occurrence]]
        return total
