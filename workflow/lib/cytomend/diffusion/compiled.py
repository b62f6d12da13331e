"""Kernels made for one shape of call: compiled, and on CUDA recorded once and replayed without a launch from Python."""

from __future__ import annotations

import logging
import time as clock
from collections.abc import Callable

import torch
from torch import Tensor

from cytomend.diffusion.precondition import Denoise

log = logging.getLogger(__name__)

CPU_OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {"freezing": True}
CUDA_OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {"max_autotune": True, "triton.cudagraphs": False}


class Compiled:
    """Denoises with what is fastest for the shape at hand, prepared at its first call.

    What cannot be prepared is done without, with a line in the log.
    """

    def __init__(self, plain: Denoise) -> None:
        self.plain = plain
        self.prepared: dict[torch.Size, Denoise] = {}

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean windows."""
        if x.shape not in self.prepared:
            self.prepared[x.shape] = prepare(self.plain, x, time)
        return self.prepared[x.shape](x, time)


def prepare(plain: Denoise, x: Tensor, time: Tensor) -> Denoise:
    """Return the denoiser compiled and, on CUDA, recorded, as far as that works here."""
    fast, since = plain, clock.monotonic()
    for quicken in (compile_for_shape, Recorded) if x.is_cuda else (compile_for_shape,):
        try:
            fast = quicken(fast, x, time)
        except Exception as error:  # compilers fail in many ways, and the plain call is always there
            log.warning("%s failed, going on without: %s", quicken.__name__, str(error).strip().split("\n")[0])
    log.info("prepared for calls of %s in %.0f s", tuple(x.shape), clock.monotonic() - since)
    return fast


def compile_for_shape(denoise: Denoise, x: Tensor, time: Tensor) -> Denoise:
    """Return the compiled denoiser after a first call."""
    options = CUDA_OPTIONS if x.is_cuda else CPU_OPTIONS
    compiled: Denoise = torch.compile(denoise, dynamic=False, fullgraph=True, options=options)
    compiled(x, time)
    return compiled


class Recorded:
    """The kernels of one call as a CUDA graph, with an input and an output of its own."""

    def __init__(self, denoise: Denoise, x: Tensor, time: Tensor) -> None:
        self.x, self.time = x.clone(), time.clone()
        with torch.cuda.device(x.device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):  # lets libraries choose kernels and take workspaces before the recording
                    denoise(self.x, self.time)
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.out = denoise(self.x, self.time)

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean windows."""
        self.x.copy_(x)
        self.time.copy_(time)
        self.graph.replay()
        return self.out.clone()
