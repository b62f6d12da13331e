"""Reads configuration and sheet, and says what each job depends on.

Needs: config (checked against workflow/schemas/config.schema.yaml), the sheet of sections it names, the checkpoints the rows name.
Makes: SECTIONS, and the functions that rules ask for a section's files, settings and fingerprints. Mistakes are named here, before any job.
"""

import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

LIBRARY = str(Path(workflow.basedir) / "workflow" / "lib")
sys.path.insert(0, LIBRARY)
shell.prefix(f"set -euo pipefail; export PYTHONPATH={shlex.quote(LIBRARY)}; ")

from cytomend.diffusion.record import checkpoint_hash
from cytomend.errors import InputError
from cytomend.fingerprint import fingerprint
from cytomend.settings import checked, one_line
from cytomend.sheet import read_sheet
from cytomend.storage.identity import cached_identity

IDENTITIES = Path(".snakemake") / "cytomend-identities.json"

try:
    CONFIG = checked(dict(config), "config", "configuration")
    SECTIONS = read_sheet(Path(CONFIG["sections"]), CONFIG)
    CONTENT = {
        path: cached_identity(path, IDENTITIES)
        for section in SECTIONS.values()
        for path in (section.image, section.annotation)
    }
    CHECKPOINTS = {
        section.model: checkpoint_hash(section.model) for section in SECTIONS.values()
    }
except InputError as error:
    raise WorkflowError(str(error))


wildcard_constraints:
    section="|".join(map(re.escape, SECTIONS)),
    shard=r"\d+",


def image(wildcards):
    """The scan; its content is a param, so that touching it redoes nothing."""
    return ancient(str(SECTIONS[wildcards.section].image))


def annotation(wildcards):
    """The artefact mask; its content is a param too."""
    return ancient(str(SECTIONS[wildcards.section].annotation))


def model(wildcards):
    """The checkpoint, named from here so that a moved checkout redoes nothing; its hash is a param."""
    return ancient(os.path.relpath(SECTIONS[wildcards.section].model))


def image_content(wildcards):
    """Content hash of the scan."""
    return CONTENT[SECTIONS[wildcards.section].image]


def annotation_content(wildcards):
    """Content hash of the annotation."""
    return CONTENT[SECTIONS[wildcards.section].annotation]


def checkpoint(wildcards):
    """SHA-256 of the checkpoint."""
    return CHECKPOINTS[SECTIONS[wildcards.section].model]


def plan_settings(wildcards):
    """What the plan of this section depends on besides its files, as one string."""
    return one_line(SECTIONS[wildcards.section].plan)


def mend_settings(wildcards):
    """How this section is mended, as one string."""
    return one_line(SECTIONS[wildcards.section].mend)


def shard_manifests(wildcards):
    """The manifests of all shards of a section."""
    return [
        f"results/{wildcards.section}/mended/{shard}.manifest.json"
        for shard in range(SECTIONS[wildcards.section].shards)
    ]


def shard_stores(wildcards):
    """The stores of all shards of a section."""
    return [
        f"results/{wildcards.section}/mended/{shard}.zarr"
        for shard in range(SECTIONS[wildcards.section].shards)
    ]


def templates(*names):
    """Content hash of page templates, which are no Python and no data."""
    return [
        cached_identity(
            Path(workflow.basedir) / "workflow" / "report" / name, IDENTITIES
        )
        for name in names
    ]


def plan_key(wildcards):
    """All that reaches a plan. Later rules hold it too: when an earlier job failed, its lost outputs alone would not
    tell Snakemake that the results behind them are out of date."""
    return one_line(
        {
            "image": image_content(wildcards),
            "annotation": annotation_content(wildcards),
            "settings": plan_settings(wildcards),
            "code": fingerprint("cytomend.stages.plan_section"),
        }
    )


def mend_key(wildcards):
    """All that reaches the mended pixels of a section."""
    return one_line(
        {
            "plan": plan_key(wildcards),
            "checkpoint": checkpoint(wildcards),
            "settings": mend_settings(wildcards),
            "code": fingerprint("cytomend.stages.mend_shard"),
        }
    )


def blend_key(wildcards):
    """All that reaches the corrected pyramid of a section."""
    return one_line(
        {
            "mend": mend_key(wildcards),
            "settings": CONFIG["pyramid"],
            "code": fingerprint("cytomend.stages.blend_section"),
        }
    )
