"""What a run was started with, kept for its jobs.

A job on a node reads the Snakefile anew, hours after its run was started. Configuration and sheet may have been edited
meanwhile, for the next run; the jobs of this one go on with what it was started with, by which Snakemake will judge
them. Code cannot be kept apart, so jobs refuse other code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from cytomend.errors import InputError
from cytomend.fingerprint import fingerprint
from cytomend.settings import Record
from cytomend.storage.publish import write_whole

VARIABLE = "CYTOMEND_RUN"
"""The environment of jobs names the folder of their run by it."""

RUNS = Path(".snakemake") / "cytomend-runs"
KEPT_SECONDS = 180 * 24 * 3600.0


def freeze(config: Record, stages: Iterable[str]) -> None:
    """Keep a checked configuration, its sheet and the code of the stages for the jobs that this process starts."""
    sheet = Path(config["sections"]).read_bytes()
    code = {stage: fingerprint(stage) for stage in stages}
    record = json.dumps({"config": config, "code": code}, sort_keys=True, indent=1).encode()
    folder = RUNS / hashlib.blake2b(record + sheet, digest_size=16).hexdigest()
    write_whole(folder / "sections.tsv", lambda path: path.write_bytes(sheet))
    write_whole(folder / "run.json", lambda path: path.write_bytes(record))
    os.utime(folder)
    for old in RUNS.iterdir():
        if old.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    os.environ[VARIABLE] = os.path.abspath(folder)  # noqa: PTH100 - as the nodes see it, links and all


def thawed() -> Record | None:
    """Return the configuration that the run of this job was started with, or None if it does not say.

    Raises
    ------
    InputError
        If what was kept is gone, or the code is other now.
    """
    if VARIABLE not in os.environ:
        return None
    folder = Path(os.environ[VARIABLE])
    try:
        record = json.loads((folder / "run.json").read_bytes())
        config: Record = {**record["config"], "sections": str(folder / "sections.tsv")}
        code = record["code"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: expected what this run was started with ({error}); end it and start it again"
        ) from error
    if other := [stage for stage, known in code.items() if fingerprint(stage) != known]:
        raise InputError(
            f"the code of {', '.join(other)} was changed since this run was started; end it and start it again"
        )
    return config
