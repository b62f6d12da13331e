"""How the network is asked for many windows: in calls of one shape, so that no answer depends on other windows.

Kernels are chosen by the shape of the whole problem: the same window gives other last bits in another batch or on
another number of threads. So every call holds the same number of windows, the last one padded, and on a CPU runs on
one thread, several calls at a time. Within a call windows do not touch each other, whatever their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

from cytomend.diffusion.compiled import Compiled
from cytomend.diffusion.inference import Precision, inference_copy
from cytomend.diffusion.precondition import Denoise, Denoiser

WindowDenoise = Callable[[Tensor, Tensor], Tensor]
"""Windows (n, C, W, W) and their times (n, 1, W, W) -> expected clean windows (n, C, W, W), for any n."""

CPU_BATCH = 4
CPU_CALL_PX = 2 * 128**2


def cpu_batch(window_px: int) -> int:
    """Return the windows in a network call on a CPU: results depend on it in their last bits, so it is no setting.

    More make small windows faster and padding dearer; from 128 px on a window fills the vector units alone.
    """
    return max(1, min(CPU_BATCH, CPU_CALL_PX // window_px**2))


class FixedBatches:
    """Denoises windows in calls of one shape, the last one padded.

    Parameters
    ----------
    denoise : asked for one batch at a time
    batch : window side -> windows in a call
    threads : how many calls run at a time, each on one thread; 0 for one after the other on all threads
    """

    def __init__(self, denoise: Denoise, batch: Callable[[int], int], threads: int = 0) -> None:
        self.denoise = denoise
        self.batch = batch
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) if threads else None

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean windows, in order."""
        batch = self.batch(x.shape[-1])
        missing = -len(x) % batch
        x, time = (functional.pad(t, (0, 0, 0, 0, 0, 0, 0, missing)) for t in (x, time))
        parts = torch.split(x, batch), torch.split(time, batch)
        done: Iterable[Tensor] = (self.pool.map if self.pool else map)(self._denoise_batch, *parts)
        return torch.cat(list(done))[: len(x) - missing]

    @torch.inference_mode()
    def _denoise_batch(self, x: Tensor, time: Tensor) -> Tensor:
        return self.denoise(x.contiguous(memory_format=torch.channels_last), time)


def window_denoiser(
    denoiser: Denoiser, device: torch.device, *, batch: int, threads: int, precision: Precision = "float32"
) -> WindowDenoise:
    """Return the way of calling the network that suits the device.

    Parameters
    ----------
    denoiser : left as it is; an inference copy is made of it
    device : where windows and times will be
    batch : windows in a call on an accelerator; a CPU has a number of its own
    threads : of a CPU, a call each
    precision : of the arithmetic within the network; values, schedule and fusion stay float32
    """
    copy = inference_copy(denoiser, device, precision)
    if device.type == "cpu":
        return FixedBatches(copy, cpu_batch, threads)
    return FixedBatches(Compiled(copy) if device.type == "cuda" else copy, lambda _: batch)
