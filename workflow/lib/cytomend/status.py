"""Where each section stands, told from what lies in the folders of a run: a few small files of each section.

What is there counts as made from the sheet and the configuration as they are; whether they have changed since is for
``snakemake --dry-run`` to say. Only a plan that was made anew is seen here too: what was mended by another counts no
more.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cytomend.costs import Hours, gpus_told, hours_of, shard_benchmark, trials_benchmark

MOST_BYTES = 1 << 20
"""A manifest is smaller."""

TAIL_BYTES = 16384
"""The end of a log that is searched for an error."""

READERS = 4
"""Sections that are looked at together: a network's file system answers late, but several at a time."""

DIARY = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (DEBUG|INFO|WARNING) ")
OWN = re.compile(r"cytomend(?: ([\w-]+)(, worker \d+)?)?: (.+)")
TRACEBACK = "Traceback (most recent call last):"
FOREIGN = re.compile(
    r"error|killed|cancelled|fault|aborted|not found|no such|denied|cannot|out of memory|failed", re.IGNORECASE
)
"""Words of a shell, of Slurm, or of a library that died."""

ELSEWHERE = "its reason stands above"
"""What a job says when one of its workers has given the reason."""

WAITING = ("to plan", "planned")
UNDER_WAY = ("mending", "mended", "blended", "evaluated")
DONE = "done"
WRONG = "proved wrong"
"""Whole, but its verdict says that something in it is wrong."""
FAILED = "failed"


class Places(NamedTuple):
    """Folders of a run."""

    results: Path
    logs: Path
    benchmarks: Path


@dataclass(frozen=True, slots=True)
class SectionStatus:
    """Where a section stands; ``regions`` is None before there is a plan, ``failed_at`` empty without an error."""

    section: str
    stage: str
    failed_at: str
    regions_done: int
    regions: int | None
    hours: Hours
    error: str = ""
    log: str = ""

    @property
    def state(self) -> str:
        """Stage reached, in words."""
        return f"{FAILED} at {self.failed_at}" if self.failed_at else self.stage

    @property
    def kind(self) -> str:
        """Stage reached, in words that many sections share."""
        return FAILED if self.failed_at else self.stage


class _Manifest(NamedTuple):
    """The record of a manifest, and when it was written in ns."""

    record: dict[str, Any]
    written_ns: int


def gather(
    rows: Mapping[str, Mapping[str, Any]], trials: int, places: Places, names: Iterable[str]
) -> list[SectionStatus]:
    """Return where sections stand, in the order of their names.

    Parameters
    ----------
    rows : the sheet, by section; of each row ``shards`` and, if it has one, ``trials``
    trials : of a section whose row says nothing of them
    places : where the run keeps what it makes
    names : sections to look at
    """

    def look(name: str) -> SectionStatus:
        row = rows[name]
        return section_status(name, row["shards"], bool(row.get("trials", trials)), places)

    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(look, names))


def section_status(name: str, shards: int, evaluated: bool, places: Places) -> SectionStatus:
    """Return where a section stands.

    Parameters
    ----------
    name, shards : the section, and its jobs of mending
    evaluated : whether it is to have an evaluation
    places : where the run keeps what it makes
    """
    folder = f"{places.results}/{name}"
    plan, corrected = _read(f"{folder}/plan.manifest.json"), _read(f"{folder}/corrected.manifest.json")
    if plan and corrected and corrected.record.get("plan") not in {None, plan.record.get("sha256")}:
        corrected = None  # that of an earlier plan
    mended = [_current(folder, shard, plan) for shard in range(shards)]
    trials = _read(f"{folder}/trials.manifest.json") if evaluated else None
    evaluation = _read(f"{folder}/evaluation.manifest.json") if evaluated else None
    waiting = {shard: _waiting(folder, shard) for shard in range(shards) if mended[shard] is None}
    # A shard that was set aside when its pyramid was whole is not wanted again; one that is mended anew has begun.
    is_mended = all(mended) or (
        corrected is not None
        and all(
            begun is None and not _exists(f"{folder}/mended/{shard}.manifest.json") for shard, begun in waiting.items()
        )
    )
    is_planned = plan is not None or (is_mended and not _exists(f"{folder}/.plan.work"))
    blended = is_planned and is_mended and corrected is not None
    compared = not evaluated or evaluation is not None
    shown = _exists(f"{folder}/report/index.html") and _exists(f"{folder}/report/metrics.json")
    begun = any(mended) or any(count is not None for count in waiting.values())
    stage = _reached(is_planned, begun, is_mended, blended, evaluated and compared, blended and compared and shown)
    wrong = _wrong(f"{folder}/verdict.json") if stage == DONE else ""

    wanted: dict[str, tuple[bool, list[_Manifest | None]]] = {
        "screen_section": (plan is None and not _exists(f"{folder}/screen/proposals.geojson"), []),
        "plan_section": (plan is None, []),
        "blend_section": (is_mended and corrected is None, [plan, *mended]),
        "mend_trials": (plan is not None and trials is None and not compared, [plan]),
        "evaluate_section": (trials is not None and not compared, [plan, trials]),
        "verify_section": (blended and not _exists(f"{folder}/verdict.json"), [corrected]),
        "report_section": (blended and compared and not shown, [corrected, evaluation]),
    }
    jobs = [(rule, name, needs) for rule, (is_wanted, needs) in wanted.items() if is_wanted]
    if plan:
        jobs += [("mend_shard", f"{name}.{shard}", [plan]) for shard in waiting]
    failed_at, error, log = _newest_error(
        (rule, places.logs / rule / f"{job}.log", max((need.written_ns for need in needs if need), default=0))
        for rule, job, needs in jobs
    )
    hours = sum(
        (
            hours_of(shard_benchmark(places.benchmarks, name, shard), gpus_told(done.record))
            for shard, done in enumerate(mended)
            if done
        ),
        hours_of(trials_benchmark(places.benchmarks, name), gpus_told(trials.record)) if trials else Hours(),
    )
    regions = _regions(plan)
    done = sum(_regions(shard) or 0 for shard in mended) + sum(count or 0 for count in waiting.values())
    if blended and not all(mended):
        done = regions or 0
    stage = WRONG if wrong else stage
    return SectionStatus(name, stage, failed_at, done, regions, hours, error or wrong, str(log) if log else "")


def _reached(planned: bool, begun: bool, mended: bool, blended: bool, evaluated: bool, done: bool) -> str:
    """Return the last stage that is whole, in words."""
    if not planned:
        return "to plan"
    if not mended:
        return "mending" if begun else "planned"
    if not blended:
        return "mended"
    return DONE if done else "evaluated" if evaluated else "blended"


def _wrong(verdict: str) -> str:
    """Return the first thing that a verdict says is wrong, or nothing."""
    try:
        said = json.loads(Path(verdict).read_bytes())
        return "" if said["holds"] else str([*said["wrong"], "something is wrong"][0])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _read(manifest: str) -> _Manifest | None:
    """Return the record of a manifest, or None if it is missing or damaged."""
    try:
        file = os.open(manifest, os.O_RDONLY)  # half the time of a file object, tens of thousands of times
        try:
            record = json.loads(os.read(file, MOST_BYTES))
            return _Manifest(record, os.fstat(file).st_mtime_ns) if isinstance(record, dict) else None
        finally:
            os.close(file)
    except (OSError, ValueError):
        return None


def _exists(place: str) -> bool:
    try:
        os.stat(place)  # noqa: PTH116 - a Path costs more than the look
    except OSError:
        return False
    return True


def _current(folder: str, shard: int, plan: _Manifest | None) -> _Manifest | None:
    """Return the manifest of a shard, or None if it is missing or the shard was mended by an earlier plan."""
    found = _read(f"{folder}/mended/{shard}.manifest.json")
    if found and plan and found.written_ns < plan.written_ns:
        # Times alone say nothing of a copied folder; the store names its plan.
        store = _read(f"{folder}/mended/{shard}.zarr/zarr.json")
        mended_by = store.record.get("attributes", {}).get("plan") if store else None
        if mended_by and mended_by != plan.record.get("sha256"):
            return None
    return found


def _waiting(folder: str, shard: int) -> int | None:
    """Return how many regions of an unfinished shard are done, or None if nobody has begun with it."""
    try:
        with os.scandir(f"{folder}/mended/.{shard}.zarr.work/regions") as found:
            # A region that is just being written has a name that begins with a dot.
            return sum(entry.name.endswith(".npz") and not entry.name.startswith(".") for entry in found)
    except OSError:
        return None


def _regions(manifest: _Manifest | None) -> int | None:
    """Return how many regions a manifest tells of."""
    regions = manifest.record.get("regions") if manifest else None
    return regions if isinstance(regions, int) else None


def _newest_error(logs: Iterable[tuple[str, Path, int]]) -> tuple[str, str, Path | None]:
    """Return rule, sentence and log of the last error of logs that are younger than what their jobs read.

    Parameters
    ----------
    logs : of each its rule, its place, and when what the job reads was written, in ns
    """
    found: list[tuple[int, str, str, Path]] = []
    for rule, place, needs_ns in logs:
        try:
            written_ns = place.stat().st_mtime_ns
            if written_ns >= needs_ns and (error := last_error(_tail(place))):
                found.append((written_ns, rule, error, place))
        except OSError:
            continue
    if not found:
        return "", "", None
    _, rule, error, place = max(found)
    return rule, error, place


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
        return file.read().decode("utf-8", errors="replace")


def last_error(log: str) -> str:
    r"""Return the sentence by which a job ended, or nothing if it did not end by an error.

    >>> last_error("2026-01-02 03:04:05,678 INFO cytomend: begun\ncytomend plan-section: a.tif: is cut off\n")
    'a.tif: is cut off'
    >>> last_error("2026-01-02 03:04:05,678 INFO cytomend: begun\n")
    ''
    """
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    own = [(line, match) for line in lines if (match := OWN.fullmatch(line))]
    if own and ELSEWHERE in own[-1][0] and len(own) > 1:
        own.pop()
    if own:
        return str(own[-1][1][3])
    if TRACEBACK in lines:
        begun = len(lines) - 1 - lines[::-1].index(TRACEBACK)
        said = [line for line in lines[begun + 1 :] if not line.startswith(" ") and not DIARY.match(line)]
        if said:
            return said[0] + (f" ({'; '.join(said[1:3])})" if said[1:] else "")
    last = lines[-1] if lines else ""
    is_error = not DIARY.match(last) and not last.startswith(" ") and "Warning" not in last and FOREIGN.search(last)
    return last if is_error else ""


def brain_error(places: Places) -> str:
    """Return why the page of all sections could not be written, or nothing if it was or has not been tried."""
    if (places.results / "brain/report/index.html").is_file():
        return ""
    try:
        return last_error(_tail(places.logs / "summarise_brain.log"))
    except OSError:
        return ""


def is_locked(folder: Path = Path()) -> bool:
    """Whether a Snakemake run holds this working directory, or did when it was killed."""
    try:
        return any(True for _ in os.scandir(folder / ".snakemake/locks"))
    except OSError:
        return False


def by_need(sections: Iterable[SectionStatus]) -> Iterator[SectionStatus]:
    """Yield sections in the order in which a person wants to see them: failed or wrong, under way, waiting, done."""
    order = {FAILED: 0, WRONG: 0, **dict.fromkeys(UNDER_WAY, 1), **dict.fromkeys(WAITING, 2), DONE: 3}
    yield from sorted(sections, key=lambda section: order[section.kind])
