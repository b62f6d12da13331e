"""What Slurm says of a run's jobs: how many run and wait, and which wait for what will never come."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ANSWER_SECONDS = 5.0

ADVICE = (
    (
        r"PartitionTimeLimit|.*MaxWall.*|.*TimeLimit.*",
        "ask for less time (`runtime` in the profile's `set-resources`; more `shards` make shorter jobs), or choose a"
        " partition that allows more",
    ),
    (
        r"BadConstraints|ReqNodeNotAvail.*|Nodes_required_for_job.*|NodeDown.*|PartitionNodeLimit",
        "no node that is up has so much memory, so many processors or GPUs, or such a constraint; compare `scontrol"
        " show job` with `sinfo`, and ask for less or for another partition in the profile",
    ),
    (r"PartitionDown|PartitionInactive", "the partition is closed; choose another in the profile, or ask the site"),
    (
        r"InvalidAccount|AccountNotAllowed|InvalidQOS|QOSNotAllowed|QOSUsageThreshold",
        "set `slurm_account` (or the QOS) in the profile to one that you may use there; `sacctmgr show assoc` lists"
        " them",
    ),
    (
        r"(QOS|Assoc|Account).*(PerJob|MinGRES|MinCpuNotSatisfied|MinCPU|MinMem).*|AssocMax\w*PerJob.*",
        "the job asks for more, or less, than your account allows one job; change `mem_mb`, `threads` or `gpu` in the"
        " profile, or use another QOS",
    ),
    (r"JobHeld.*|job_requeued_in_held_state|launch_failed_requeued_held", "it is held: `scontrol release` lets it go"),
    (r"DependencyNeverSatisfied", "what it depends on has failed; `scancel` it"),
)
"""Reasons that no waiting resolves, and what does."""


class Stuck(NamedTuple):
    """Jobs that will never start: one of them by name, how many, why, and what to do."""

    job: str
    jobs: int
    reason: str
    advice: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A run's jobs in Slurm; ``silent`` says why nothing is known of them."""

    running: int = 0
    pending: int = 0
    stuck: list[Stuck] = field(default_factory=list)
    silent: str = ""


def ask_slurm(folder: Path) -> Queue | None:
    """Return what Slurm says of this user's jobs that work in a folder, or None on a machine without Slurm."""
    if shutil.which("squeue") is None:
        return None
    asked = ["squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i|%T|%r|%Z|%k"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Queue(silent=f"squeue did not answer within {ANSWER_SECONDS:.0f} s")
    except (OSError, UnicodeDecodeError) as error:
        return Queue(silent=f"squeue cannot be asked ({error})")
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"it ended with status {answer.returncode}"]
        return Queue(silent=f"squeue cannot be asked ({lines[-1]})")
    return read_queue(answer.stdout, folder)


def read_queue(table: str, folder: Path) -> Queue:
    """Return what a table of ``job|state|reason|folder|comment`` says of the jobs that work in a folder."""
    here, states = folder.resolve(), Counter[str]()
    stuck: dict[tuple[str, str], list[str]] = {}
    for line in table.splitlines():
        job, state, reason, place, comment = [*line.split("|", 4), "", "", "", ""][:5]
        if not place or Path(place).resolve() != here:
            continue
        states[state] += 1
        if state == "PENDING" and (advice := advice_on(reason)):
            stuck.setdefault((reason, advice), []).append(f"{job_named(comment)} (job {job})")
    found = [Stuck(jobs[0], len(jobs), reason, advice) for (reason, advice), jobs in stuck.items()]
    return Queue(states["RUNNING"] + states["COMPLETING"], states["PENDING"], found)


def advice_on(reason: str) -> str:
    """Return what to do about a reason that no waiting resolves, or nothing if it may resolve by itself."""
    plain = reason.strip().replace(" ", "_")
    return next((advice for pattern, advice in ADVICE if re.fullmatch(pattern, plain)), "")


def job_named(comment: str) -> str:
    """Return the rule and the wildcards that Snakemake left in a job's comment.

    >>> job_named("rule_mend_shard_wildcards_B07_0"), job_named("(null)")
    ('mend_shard B07_0', 'a job')
    """
    rule, _, wildcards = comment.removeprefix("rule_").partition("_wildcards_")
    return f"{rule} {wildcards}".strip() if comment.startswith("rule_") else "a job"
