"""What mending took: hours of GPUs and processors, from the benchmarks of finished jobs.

A benchmark is the table that Snakemake writes when a job has succeeded; how many GPUs the job had stands in the
manifest of its result. Attempts that failed are in neither, and a job that went on where a killed one was counts from
there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of all GPUs of the jobs that had one, and processor hours of those that had none."""

    gpu: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Hours) -> Hours:
        return Hours(self.gpu + other.gpu, self.cpu + other.cpu)


def hours_of(benchmark: Path, gpus: int) -> Hours:
    """Return what a job took; nothing if its benchmark is missing or unfinished.

    Parameters
    ----------
    benchmark : Snakemake's table; the rows of a repeated job are added
    gpus : GPUs of the job; without any, its processor time counts, or its duration where that was not measured
    """
    try:
        head, *lines = [line.split("\t") for line in benchmark.read_text(encoding="utf-8").splitlines()] or [[]]
    except (OSError, ValueError):
        return Hours()
    rows = [dict(zip(head, line, strict=False)) for line in lines]
    elapsed = [_seconds(row.get("s")) or 0.0 for row in rows]
    if gpus:
        return Hours(gpu=sum(elapsed) * gpus / HOUR_S)
    busy = [_seconds(row.get("cpu_time")) for row in rows]
    return Hours(cpu=sum(wall if own is None else own for wall, own in zip(elapsed, busy, strict=True)) / HOUR_S)


def elapsed_s(benchmark: Path) -> float | None:
    """Return the seconds that a job took; None if its benchmark is missing or unfinished."""
    return hours_of(benchmark, 1).gpu * HOUR_S or None


def section_hours(section: str, shards: int, results: Path, benchmarks: Path) -> Hours:
    """Return what mending the regions and trials of a section took, as far as the jobs have finished.

    Parameters
    ----------
    section, shards : its name, and the shards of its plan
    results, benchmarks : folders of the run
    """
    jobs: Iterable[tuple[Path, Path]] = [
        *(
            (results / section / f"mended/{shard}.manifest.json", shard_benchmark(benchmarks, section, shard))
            for shard in range(shards)
        ),
        (results / section / "trials.manifest.json", trials_benchmark(benchmarks, section)),
    ]
    return sum((hours_of(table, gpus_in(manifest)) for manifest, table in jobs if manifest.is_file()), Hours())


def shard_benchmark(benchmarks: Path, section: str, shard: int) -> Path:
    """Return where Snakemake writes how long a shard took."""
    return benchmarks / "mend_shard" / f"{section}.{shard}.tsv"


def trials_benchmark(benchmarks: Path, section: str) -> Path:
    """Return where it writes how long the trials took."""
    return benchmarks / "mend_trials" / f"{section}.tsv"


def gpus_in(manifest: Path) -> int:
    """Return how many GPUs made a result; 0 if its manifest is damaged or does not say."""
    try:
        return gpus_told(json.loads(manifest.read_bytes()))
    except (OSError, ValueError):
        return 0


def gpus_told(record: Any) -> int:  # noqa: ANN401 - JSON holds anything
    """Return how many GPUs the record of a manifest names; 0 if it names none."""
    gpus = record.get("gpus", 0) if isinstance(record, dict) else 0
    return gpus if isinstance(gpus, int) and gpus > 0 else 0


def _seconds(cell: str | None) -> float | None:
    """Return a cell of a benchmark, or None if it is empty, ``NA``, ``-`` or cut off."""
    try:
        seconds = float(cell or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
