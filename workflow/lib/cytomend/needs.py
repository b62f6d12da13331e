"""What the jobs of a section ask of a machine, from what is known of the section: the size of its scan and its damage.

Reckoned when a job is about to start, from the header of the scan or from the manifest of its plan, so that nothing is
guessed; only the standard library, since this runs on a login node. Memory of all stages is bounded by the largest
region and a few chunks (law 4), time follows the pixels that are read and the windows that are mended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cytomend.storage.frames import file_of

if TYPE_CHECKING:
    from cytomend.regions.plan import Plan

MB = 1_000_000

SLOWEST_GPU_PX = 3_000_000
"""Window pixels that the slowest GPU in use draws in a second and a call, by assumption: what is faster is done sooner.
`benchmarks/mend.py` measures it."""

SLOWEST_STREAM_PX = 5_000_000
"""Pixels of a section that are read, and written to a pyramid, in a second on a slow network's file system."""

SLOWEST_READ_BYTES = 50 * MB
"""Bytes that such a file system reads in a second."""

SLOWEST_SCREEN_BYTES = 300_000
"""Bytes of a scan that are screened in a second for all classes; a core looks at twice as many pixels."""

STATES = 24
"""Float32 copies of a region's windows that are held at once while it is mended; 16 were measured on a CPU."""

TRIAL_SECONDS, TRIAL_MB = 10, 2
"""What looking at a trial takes, with two segmenters and a classifier, on a slow node; two cores took 2 s."""

PATCH_SECONDS, PATCH_MB = 600, 3500
"""The same of a large patch, a thread and mm². Memory is that of its biharmonic surface, which ends with the trial."""


REVIEW_SECONDS = 0.2
"""What checking the cells of a region takes for each of its windows, on a slow node; a core took a fifth of it."""


@dataclass(frozen=True, slots=True)
class Needs:
    """A section as far as a machine must know it; ``windows`` of all regions and samples, by shard.

    ``largest_windows`` is those of the largest region, ``window_px`` the side of a window, ``pixels`` those of the
    section, ``value_bytes`` the bytes of a pixel with all its channels.
    """

    pixels: int
    value_bytes: int
    window_px: int
    windows: tuple[int, ...]
    largest_windows: int

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Return the needs of a planned section."""
        facts, regions = plan.facts, plan.regions
        by_shard = regions.groupby("shard")["windows"].sum()
        return cls(
            pixels=facts.shape[0] * facts.shape[1],
            value_bytes=facts.channels * _bytes_of(facts.dtype),
            window_px=facts.window_px,
            windows=tuple(int(by_shard.get(shard, 0)) * facts.samples for shard in range(facts.shards)),
            largest_windows=int(regions["windows"].max()) if len(regions) else 0,
        )

    @classmethod
    def read(cls, plan_manifest: Path) -> Self | None:
        """Return what a plan's manifest says, or None if there is none yet."""
        try:
            record = json.loads(plan_manifest.read_bytes())["needs"]
            return cls(**{**record, "windows": tuple(record["windows"])})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks for: memory in MB, time in minutes."""

    mem_mb: int
    runtime: int

    def again(self, attempt: int) -> Request:
        """Return what the job asks for the second time, when the first was not enough."""
        return Request(self.mem_mb * attempt, self.runtime * attempt)


def plan_request(files: Iterable[Path]) -> Request:
    """Return what planning asks for: its files are read once through."""
    total = sum(file_bytes(path) for path in files)
    return Request(2000, 15 + total // SLOWEST_READ_BYTES // 60)


def screen_request(image: Path) -> Request:
    """Return what screening asks for: the scan is read twice; its pixels are not known yet, so its bytes decide."""
    return Request(2000, 60 + file_bytes(image) // SLOWEST_SCREEN_BYTES // 60)


def mend_request(needs: Needs | None, shard: int, calls: int) -> Request:
    """Return what mending a shard on one GPU asks for; ``calls`` of the network are made for each window."""
    if needs is None:
        return Request(4000, 30)
    windows = needs.windows[shard] if shard < len(needs.windows) else sum(needs.windows)
    region_bytes = STATES * 4 * needs.largest_windows * needs.window_px**2
    return Request(4000 + region_bytes // MB, 30 + _gpu_minutes(windows * calls * needs.window_px**2))


def trials_request(needs: Needs | None, settings: Mapping[str, Any], calls: int, pixel_size_um: float = 1.0) -> Request:
    """Return what mending a section's trials asks for: its sampler makes ``calls`` a window, others at most 2,560."""
    if needs is None:
        return Request(4000, 30)
    others, shared = len(settings["samplers"]), settings["sampler_trials"]
    # The windows over a large patch cover each pixel up to four times.
    large_px = 4 * round(settings["patch_um"] / pixel_size_um) ** 2 if settings["patch_trials"] else 0
    asked = _trials(settings) * calls + others * 2 * shared * 2560
    asked_large = settings["patch_trials"] * calls + others * min(shared, settings["patch_trials"]) * 2560
    pixels = needs.window_px**2 * settings["windows"] ** 2 * asked + large_px * asked_large
    return Request(4000 + STATES * 4 * large_px // MB, 30 + _gpu_minutes(pixels))


def evaluate_request(settings: Mapping[str, Any], pixel_size_um: float = 1.0, threads: int = 4) -> Request:
    """Return what looking at a section's trials asks for, so many at a time."""
    trials, large = _trials(settings), settings["patch_trials"]
    # As pixels, not as tissue: what is a mm² at 1 µm a pixel.
    megapixels = (settings["patch_um"] / pixel_size_um / 1000) ** 2
    held_mb = int(min(large, threads) * PATCH_MB * megapixels)
    seconds = trials * TRIAL_SECONDS + int(large * PATCH_SECONDS * megapixels) // threads
    return Request(3000 + trials * TRIAL_MB + large * TRIAL_MB + held_mb, 30 + seconds // 60)


def stream_request(needs: Needs | None) -> Request:
    """Return what a stage asks for that reads the section once through."""
    return Request(4000, 30 + (needs.pixels // SLOWEST_STREAM_PX // 60 if needs else 0))


def report_request(needs: Needs | None) -> Request:
    """Return what a section's page asks for: a stream, and looking at each region and the tissue around it."""
    windows = sum(needs.windows) if needs else 0
    return Request(4000, stream_request(needs).runtime + int(windows * REVIEW_SECONDS / 60))


def blend_request(needs: Needs | None, shard_px: int) -> Request:
    """Return what blending asks for: a stream that holds a few shards of the pyramid."""
    held = 12 * shard_px**2 * (needs.value_bytes if needs else 1)
    return Request(2000 + held // MB, stream_request(needs).runtime)


def calls_at_most(mend: Mapping[str, Any]) -> int:
    """Return a bound of the network's calls for a window, from settings as a section has them.

    >>> calls_at_most({"sampler": "timemap", "steps": 50, "resample": None})
    50
    """
    resample = 1 if mend["sampler"] == "timemap" else mend["resample"] or 10
    return int(mend["steps"] * resample)


def _trials(settings: Mapping[str, Any]) -> int:
    return int(settings["trials"] + settings["artefact_trials"])


def _gpu_minutes(pixels: int) -> int:
    return pixels // SLOWEST_GPU_PX // 60


def file_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it is missing."""
    path = file_of(path)
    if path.is_dir():
        return sum((Path(folder) / name).stat().st_size for folder, _, names in os.walk(path) for name in names)
    return path.stat().st_size if path.exists() else 0


def _bytes_of(dtype: str) -> int:
    return int("".join(filter(str.isdigit, dtype))) // 8
