"""What a Slurm cluster says to a request before it is made: one that no node can ever satisfy would pend for ever."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

ABSENT = ("down", "drain", "fail", "maint", "reserved", "unknown", "not_responding", "power", "reboot")
"""States, or their beginnings, of nodes that take no job now and may do so later."""

NEVER = re.compile(
    "configuration is not available|partition|account|feature|gres|generic resource|specification|cannot be satisfied",
    re.IGNORECASE,
)
"""What Slurm says of a request that waiting does not help; an outage or a full queue passes."""

SECONDS = 20
"""A controller that does not answer within this is not asked again."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job asks of Slurm; ``where`` are the words of ``sbatch`` that choose partition, account and nodes."""

    rule: str
    where: tuple[str, ...]
    cpus: int
    mem_mb: int
    minutes: int

    @classmethod
    def of(cls, rule: str, threads: int, resources: Mapping[str, Any]) -> Self:
        """Return the request of a job with these resources, by the names that Snakemake's Slurm plugin takes."""
        words = {
            "--partition": resources.get("slurm_partition"),
            "--account": resources.get("slurm_account"),
            "--constraint": resources.get("constraint"),
            "--qos": resources.get("qos"),
            "--gres": resources.get("gres"),
            "--gpus": ":".join(str(resources[key]) for key in ("gpu_model", "gpu") if resources.get(key)),
        }
        return cls(
            rule,
            tuple(f"{word}={value}" for word, value in words.items() if value),
            int(resources.get("cpus_per_task") or threads),
            int(resources.get("mem_mb") or 0),
            int(resources.get("runtime") or 0),
        )

    @property
    def partition(self) -> str:
        """The partition, or nothing for the cluster's own choice."""
        return next((word.partition("=")[2] for word in self.where if word.startswith("--partition=")), "")

    @property
    def words(self) -> list[str]:
        """The request as ``sbatch`` takes it."""
        sizes = {"--cpus-per-task": self.cpus, "--mem": self.mem_mb, "--time": self.minutes}
        return [*self.where, *(f"{word}={size}" for word, size in sizes.items() if size)]


def largest(requests: Iterable[JobRequest]) -> list[JobRequest]:
    """Return one request for each rule and kind of node, as large as the largest of them in every respect."""
    found: dict[tuple[str, tuple[str, ...]], JobRequest] = {}
    for request in requests:
        known = found.setdefault((request.rule, request.where), request)
        found[request.rule, request.where] = replace(
            known,
            cpus=max(known.cpus, request.cpus),
            mem_mb=max(known.mem_mb, request.mem_mb),
            minutes=max(known.minutes, request.minutes),
        )
    return list(found.values())


class Refusal(NamedTuple):
    """Why a request cannot be satisfied; ``for_now`` if nodes of its partition are down and may be what it needs."""

    sentence: str
    for_now: bool


def refused(requests: Iterable[JobRequest]) -> list[Refusal]:
    """Return why requests cannot be satisfied by this cluster; nothing without Slurm."""
    if shutil.which("sbatch") is None:
        return []
    limits = _time_limits()
    refusals = []
    for request in requests:
        limit = limits.get(request.partition)
        if limit is not None and request.minutes > limit:
            said, for_now = f"the partition ends jobs after {limit} minutes; give it runtime: {limit}", False
        elif (answer := _run("sbatch", "--test-only", *request.words, "--wrap=true")) and answer.returncode:
            said = " ".join(answer.stderr.split()) or f"sbatch ended with status {answer.returncode}"
            for_now = not NEVER.search(said) or _has_absent_nodes(request.partition)
        else:
            continue
        refusals.append(Refusal(f"{request.rule} asks for {' '.join(request.words)}: {said}", for_now))
    return refusals


def _has_absent_nodes(partition: str) -> bool:
    """Whether nodes of a partition, or of all without one, are down, drained or reserved."""
    answer = _run("sinfo", "--noheader", "--format=%T", *([f"--partition={partition}"] if partition else []))
    states = answer.stdout.split() if answer else []
    return any(state.rstrip("*~#!%$@^-+").startswith(ABSENT) for state in states)


def _time_limits() -> dict[str, int]:
    """Return the longest run, in minutes, of each partition that has one; "" is the default partition."""
    answer = _run("sinfo", "--noheader", "--format=%P|%l")
    limits: dict[str, int] = {}
    for line in answer.stdout.splitlines() if answer else []:
        name, _, limit = line.strip().partition("|")
        if (minutes := _minutes(limit)) is not None:
            limits[name.rstrip("*")] = minutes
            if name.endswith("*"):
                limits[""] = minutes
    return limits


def _minutes(limit: str) -> int | None:
    """Return Slurm's ``days-hours:minutes:seconds`` in minutes, or None for no limit.

    >>> _minutes("1-02:30:00"), _minutes("45:00"), _minutes("infinite")
    (1590, 45, None)
    """
    days, _, clock = limit.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        hours, minutes = ([0, *parts] if len(parts) == 2 else parts)[:2]
        return (int(days or 0) * 24 + hours) * 60 + minutes
    except ValueError:
        return None


def _run(*words: str) -> subprocess.CompletedProcess[str] | None:
    """Return what a command of the cluster says, or None if it does not answer."""
    try:
        return subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
