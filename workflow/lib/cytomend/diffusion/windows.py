"""How the network is asked for many windows: in calls of one shape, so that no answer depends on other windows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

from cytomend.diffusion.precondition import Denoise

WindowDenoise = Callable[[Tensor, Tensor], Tensor]
"""Windows (n, C, W, W) and their times (n, 1, W, W) -> expected clean windows (n, C, W, W), for any n."""


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
