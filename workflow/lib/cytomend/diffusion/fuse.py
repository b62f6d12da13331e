"""One denoiser for a canvas out of many windows, fused inside every step.

The windows' predictions of the clean image are averaged by weight before the sampler takes its step, and the step's
noise is drawn once for the canvas. So neighbouring windows agree at every step and no seam forms (after
MultiDiffusion, arXiv 2302.08113).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

from cytomend.diffusion.precondition import Denoise

WindowDenoise = Callable[[Tensor, Tensor], Tensor]
"""Windows (n, C, W, W) and their times (n, 1, W, W) -> expected clean windows (n, C, W, W), for any n."""


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


class OneByOne:
    """Denoises windows on the CPU, each in its own network call on one thread, several threads at a time.

    Kernels are chosen by the shape of the whole problem: the same window gives other last bits in another batch or on
    another number of threads. One window a call makes the result independent of both, and on few cores costs no
    speed.
    """

    def __init__(self, denoise: Denoise, threads: int) -> None:
        self.denoise = denoise
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean windows, in order."""
        return torch.cat(list(self.pool.map(self._denoise_one, torch.split(x, 1), torch.split(time, 1))))

    @torch.inference_mode()
    def _denoise_one(self, x: Tensor, time: Tensor) -> Tensor:
        return self.denoise(x.contiguous(memory_format=torch.channels_last), time)


class FixedBatches:
    """Denoises windows on an accelerator in batches of one fixed shape, the last one padded."""

    def __init__(self, denoise: Denoise, batch: int) -> None:
        self.denoise = denoise
        self.batch = batch

    @torch.inference_mode()
    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean windows, in order."""
        missing = -len(x) % self.batch
        x, time = (functional.pad(t, (0, 0, 0, 0, 0, 0, 0, missing)) for t in (x, time))
        done = [
            self.denoise(part.contiguous(memory_format=torch.channels_last), its_time)
            for part, its_time in zip(torch.split(x, self.batch), torch.split(time, self.batch), strict=True)
        ]
        return torch.cat(done)[: len(x) - missing]


def window_denoiser(denoise: Denoise, device: torch.device, *, batch: int, threads: int) -> WindowDenoise:
    """Return the way of calling the network that suits the device."""
    return OneByOne(denoise, threads) if device.type == "cpu" else FixedBatches(denoise, batch)
