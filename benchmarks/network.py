"""Speed of the network: ``python benchmarks/network.py [--model tiny] [--windows 64 128 256 512] [--device cpu]``.

Prints, for each window side and each optimisation in turn, windows/s, their ratio to eager float32, the floating-point
operations of a window (2 for a multiplication with its addition), those done a second, and their share of the rate of
large matrix products of the same type, measured in the same run on all threads. *Eager float32* is the plain network,
one window a call, on all threads; `in batches` is the same with the production batch. Rounds are interleaved and the
fastest of each counts, since other work only ever slows one down. `production` is what mending runs. On a CPU the
second ratio is of processor time instead of time on the clock: other work on a shared machine hardly reaches it.
"""

import argparse
import copy
import logging
import time as clock
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.compiled import Recorded, compile_for_shape
from cytomend.diffusion.inference import inference_copy
from cytomend.diffusion.precondition import Denoise, Denoiser
from cytomend.diffusion.windows import FixedBatches, WindowDenoise, cpu_batch, window_denoiser
from cytomend.places import model_file

BFLOAT16 = " bfloat16"
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}


class Cast(nn.Module):
    """The plain network, all of it at another precision."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = copy.deepcopy(network).to(dtype), dtype

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return F."""
        v: Tensor = self.network(x.to(self.dtype), time.to(self.dtype))
        return v.float()


class OneAtATime:
    """The plain way: one window a call, in the memory format it came in."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise

    @torch.inference_mode()
    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean windows."""
        return torch.cat([self.denoise(*pair) for pair in zip(x.split(1), time.split(1), strict=True)])


class Prepared:
    """Prepares a call at its first shape and lets errors through."""

    def __init__(self, denoise: Denoise, *steps: Callable[[Denoise, Tensor, Tensor], Denoise]) -> None:
        self.denoise, self.steps = denoise, list(steps)

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the expected clean windows."""
        while self.steps:
            self.denoise = self.steps.pop(0)(self.denoise, x, time)
        return self.denoise(x, time)


def ways(plain: Denoiser, device: torch.device, batch: int, *, compiles: bool) -> dict[str, WindowDenoise]:
    """Return each way of asking the network, by name; a name that ends in bfloat16 is one."""
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    low = Denoiser(Cast(last.network, torch.bfloat16), plain.times).to(device)
    fused = {name: inference_copy(plain, device, name) for name in ("float32", "bfloat16")}

    def fixed(denoise: Denoise, threads: int = threads) -> FixedBatches:
        return FixedBatches(denoise, lambda _: batch, threads)

    found: dict[str, WindowDenoise] = {
        "eager float32": OneAtATime(plain),
        "channels_last float32": FixedBatches(last, lambda _: 1),
        "in batches float32": fixed(last, 0),
    }
    if threads:
        found["batch a thread float32"] = fixed(last)
    found |= {
        "fused float32": fixed(fused["float32"]),
        "plain bfloat16": fixed(low),
        "fused bfloat16": fixed(fused["bfloat16"]),
    }
    if compiles:
        found["compiled bfloat16"] = fixed(Prepared(fused["bfloat16"], compile_for_shape))
    if device.type == "cuda":
        found["recorded bfloat16"] = fixed(Prepared(fused["bfloat16"], Recorded))
        found["compiled, recorded bfloat16"] = fixed(Prepared(fused["bfloat16"], compile_for_shape, Recorded))
    found["production bfloat16"] = window_denoiser(plain, device, batch=batch, threads=threads, precision="bfloat16")
    return found


def matrix_product(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], Tensor], float]:
    """Return a large matrix product and its GFLOP."""
    side = MATRIX_SIDE[device.type]
    matrix = torch.randn(side, side, device=device).to(dtype)
    return (lambda: matrix @ matrix), 2 * side**3 / 1e9


class Seconds(NamedTuple):
    """What a call took: on the clock, and of processor time, all threads together."""

    clock: float
    processor: float


def fastest(calls: dict[str, Callable[[], Tensor]], device: torch.device, seconds: float) -> dict[str, Seconds]:
    """Return the time of the fastest of interleaved calls, at least one of each after the first."""
    best = dict.fromkeys(calls, Seconds(float("inf"), float("inf")))
    for call in calls.values():
        call()
    until, rounds = clock.monotonic() + seconds, 0
    while not rounds or clock.monotonic() < until:
        rounds += 1
        for name, call in calls.items():
            since = Seconds(clock.perf_counter(), clock.process_time())
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took = clock.perf_counter() - since.clock, clock.process_time() - since.processor
            best[name] = Seconds(*map(min, best[name], took))
    return best


def main(model: str, sides: list[int], device: torch.device, batch: int, seconds: float, *, compiles: bool) -> None:
    """Print the table."""
    plain, _ = load_model(model_file(model), device)
    plain = plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    print(f"# torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    print(
        "\t".join(
            [
                "window_px",
                "way",
                "windows/s",
                "x eager",
                "x eager, processor",
                "GFLOP",
                "GFLOP/s",
                "matrix GFLOP/s",
                "share",
            ]
        )
    )
    for side in sides:
        calls_hold = cpu_batch(side) if device.type == "cpu" else batch
        count = max(16 * 64**2 // side**2, 2 * calls_hold, 2)
        chance = torch.Generator().manual_seed(0)
        x = torch.randn(count, 1, side, side, generator=chance).expand(-1, plain.network.settings.channels, -1, -1)
        time = torch.full((count, 1, side, side), plain.times // 2)
        time[..., : side // 3] = 0
        x, time = x.contiguous().to(device), time.to(device)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            plain(x[:1], time[:1])
        gflop = counter.get_total_flops() / 1e9
        asked = ways(plain, device, calls_hold, compiles=compiles)
        calls: dict[str, Callable[[], Tensor]] = {name: partial(ask, x, time) for name, ask in asked.items()}
        products = {str(t): matrix_product(t, device) for t in (torch.float32, torch.bfloat16)}
        took = fastest(calls | {name: product for name, (product, _) in products.items()}, device, seconds)
        for name in calls:
            kind = str(torch.bfloat16 if name.endswith(BFLOAT16) else torch.float32)
            rate, matrix = count * gflop / took[name].clock, products[kind][1] / took[kind].clock
            ratios = (before / now for before, now in zip(took["eager float32"], took[name], strict=True))
            row = [str(side), name, f"{count / took[name].clock:.4g}", *(f"{ratio:.2f}" for ratio in ratios)]
            print("\t".join([*row, f"{gflop:.4g}", f"{rate:.4g}", f"{matrix:.4g}", f"{rate / matrix:.2f}"]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 128, 256, 512], help="window sides in px")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32, help="windows in a call on an accelerator")
    parser.add_argument("--seconds", type=float, default=20, help="of measuring for each window side, at least")
    parser.add_argument("--compile", action="store_true", help="also on a CPU, where it takes a minute a shape")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    here = torch.device(args.device)
    main(args.model, args.windows, here, args.batch, args.seconds, compiles=args.compile or here.type == "cuda")
