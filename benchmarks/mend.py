"""How fast regions are mended, and where the time goes: ``python benchmarks/mend.py [--size H W] [--model NAME]``.

Makes a phantom section with many regions, plans it and mends it by the stage's own code: first region by region, then
in groups that share the network's calls, by turns, and prints the fastest of each. Absolute times depend on the
machine; the last row is the ratio of the two.

| column | what |
|---|---|
| ``mpx/s`` | megapixels mended per second, loading and storing included |
| ``cpu_s/mpx`` | processor seconds of all threads per megapixel, which other work on the machine disturbs less |
| ``calls/mpx`` | thousands of windows asked per megapixel mended (windows x steps): the work there is |
| ``filled`` | share of places in the network's calls that held a window |
| ``outside`` | share of the wall time in which the network was not being asked |
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cytomend.diffusion.inference import Precision
from cytomend.diffusion.record import load_settings
from cytomend.diffusion.windows import FixedBatches, WindowDenoise, window_denoiser
from cytomend.places import model_file
from cytomend.regions.plan import Plan
from cytomend.settings import checked
from cytomend.stages import mend_shard as stage
from cytomend.stages.mend_shard import Machine, MendSettings
from cytomend.stages.phantom import make_phantom
from cytomend.stages.plan_section import PlanSettings, plan_section


@dataclass
class Clock:
    """Counts what the network was asked, and for how long."""

    seconds: float = 0.0
    windows: int = 0
    places: int = 0
    network: list[WindowDenoise] = field(default_factory=list)

    def watch(self, *args: Any, **how: Any) -> WindowDenoise:  # noqa: ANN401 - as `window_denoiser`
        """Make the way of calling the network, watched. Loading and compiling it is not counted."""
        ask = self.network[0] if self.network else window_denoiser(*args, **how)
        self.network = [ask]

        def timed(x: Tensor, noise_time: Tensor) -> Tensor:
            since = time.perf_counter()
            answer = ask(x, noise_time)
            if x.is_cuda:
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - since
            self.windows += len(x)
            batch = ask.batch(x.shape[-1]) if isinstance(ask, FixedBatches) else 1
            self.places += -(-len(x) // batch) * batch
            return answer

        return timed


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Let the stage ask the network through the clock."""
    with mock.patch.object(stage, "window_denoiser", clock.watch):
        yield


def measure(mend: Callable[[], object], clock: Clock, megapixels: float) -> dict[str, float]:
    """Mend once and return the columns."""
    with watched(clock):
        since, worked = time.perf_counter(), time.process_time()
        mend()
        wall, worked = time.perf_counter() - since, time.process_time() - worked
    return {
        "mpx/s": megapixels / wall,
        "cpu_s/mpx": worked / megapixels,
        "calls/mpx": clock.windows / 1000 / megapixels,
        "filled": clock.windows / clock.places,
        "outside": 1 - clock.seconds / wall,
    }


def discs(size: list[int], count: int, share: float, seed: int) -> NDArray[np.uint8]:
    """Return a mask of discs, 255 inside, of different sizes, one in each of the squares of a grid drawn by lot."""
    chance, side = np.random.default_rng(seed), int((size[0] * size[1] / count) ** 0.5)
    corners = [(y, x) for y in range(0, size[0] - side + 1, side) for x in range(0, size[1] - side + 1, side)]
    radii = chance.uniform(0.5, 1.5, len(corners))
    radii *= (share * size[0] * size[1] / (np.pi * (radii**2).sum())) ** 0.5
    mask = np.zeros(size, dtype=np.uint8)
    ys, xs = np.ogrid[: size[0], : size[1]]
    for (y, x), radius in zip(corners, radii, strict=True):
        cy, cx = (at + chance.uniform(radius, max(side - radius, radius)) for at in (y, x))
        mask[(ys - cy) ** 2 + (xs - cx) ** 2 <= radius**2] = 255
    return mask


def main(
    size: list[int],
    regions: int,
    damage: float,
    seed: int,
    model: str,
    steps: int,
    samples: int,
    machine: Machine,
    precision: Precision,
    repeats: int,
) -> None:
    """Print the table."""
    checkpoint = model_file(model)
    record = load_settings(checkpoint)
    usual = checked({}, "config", "defaults")["mend"]
    settings = MendSettings(
        usual["sampler"], steps, usual["jump"], usual["resample"], seed, float(usual["eta"]), precision=precision
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = make_phantom(size, seed, folder, pixel_size_um=record.pixel_size_um)
        stride = record.window_px * 3 // 4
        planned = PlanSettings(
            "phantom", record.pixel_size_um, "", None, 3, [], 1, stride, record.window_px, 1, samples
        )
        Image.fromarray(discs(size, regions, damage, seed)).save(folder / "discs.png")
        plan_section(scan, folder / "discs.png", planned, folder / "plan")
        plan = Plan.read(folder / "plan")
        megapixels = plan.facts.masked_px / 1e6
        print(
            f"# {size[0]} x {size[1]} px, {len(plan.regions)} regions, {len(plan.windows)} windows of"
            f" {record.window_px} px, {megapixels:.3f} megapixels to mend, {samples} samples, {settings.sampler},"
            f" {steps} steps, {model}, {machine.device}, {precision}"
        )

        def run(name: str, machine: Machine) -> dict[str, float]:
            out = folder / f"{name}.zarr"
            return measure(
                lambda: stage.mend_shard(scan, folder / "plan", 0, checkpoint, settings, machine, out),
                clock,
                megapixels,
            )

        network: list[WindowDenoise] = []
        rows: dict[str, dict[str, float]] = {}
        ways = {"region by region": 1, "groups": machine.group_px}
        for turn, (name, group_px) in product(range(repeats + 1), ways.items()):
            clock = Clock(network=network)
            row = run(f"{name} {turn}", replace(machine, group_px=group_px))
            network = clock.network
            if turn:  # the first warms up
                rows[name] = max(rows.get(name, row), row, key=lambda found: found["mpx/s"])
        rows["ratio"] = {column: rows["groups"][column] / value for column, value in rows["region by region"].items()}
    print("\t".join(["mended", *rows["groups"]]))
    for name, row in rows.items():
        print("\t".join([name, *(f"{value:.3g}" for value in row.values())]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), default=[600, 600], help="of the phantom, in px"
    )
    parser.add_argument("--regions", type=int, default=36, help="about how many")
    parser.add_argument("--damage", type=float, default=0.04, help="share of the section that is mended")
    parser.add_argument("--seed", type=int, default=0, help="of the phantom and the noise")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2, help="of both ways, by turns")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-windows", type=int, default=32)
    parser.add_argument("--precision", choices=get_args(Precision), default="bfloat16")
    args = parser.parse_args()
    main(
        args.size,
        args.regions,
        args.damage,
        args.seed,
        args.model,
        args.steps,
        args.samples,
        Machine.of(args.device, args.threads, args.batch_windows),
        args.precision,
        args.repeats,
    )
