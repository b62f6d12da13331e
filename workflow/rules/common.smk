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
from cytomend.evaluation.parts import identities
from cytomend.fingerprint import fingerprint
from cytomend.settings import checked, one_line
from cytomend.sheet import read_sheet
from cytomend.storage.identity import cached_identity
from cytomend.training_file import check_apart, read_training_file

IDENTITIES = Path(".snakemake") / "cytomend-identities.json"

try:
    CONFIG = checked(dict(config), "config", "configuration")
    SECTIONS = read_sheet(Path(CONFIG["sections"]), CONFIG)
    CONTENT = {
        path: cached_identity(path, IDENTITIES)
        for section in SECTIONS.values()
        for path in (section.image, section.annotation, section.truth, section.cells)
        if path
    }
    SAMPLER_PARTS = identities(CONFIG["evaluate"], ["samplers"])
    EVALUATION_PARTS = identities(
        CONFIG["evaluate"], ["segmenters", "classifier", "fillers"]
    )
    CHECKPOINTS = {
        section.model: checkpoint_hash(section.model) for section in SECTIONS.values()
    }
    # Read only when it is asked for, so that mending does not depend on what was trained on.
    TRAINING = read_training_file(Path(CONFIG["train"])) if "train" in CONFIG else None
    if TRAINING:
        TRAINING_CONTENT = {
            path: cached_identity(path, IDENTITIES) for path in TRAINING.all_files()
        }
        check_apart(TRAINING, TRAINING_CONTENT.__getitem__)
except InputError as error:
    raise WorkflowError(str(error))

EVALUATED = [name for name, section in SECTIONS.items() if section.trials["trials"]]
TRAINING_NAME = TRAINING.path.stem if TRAINING else ""
TRAINING_SECTIONS = TRAINING.sections if TRAINING else {}


def one_of(names):
    """The pattern of a wildcard that takes these names and, if there are none, nothing."""
    return "|".join(map(re.escape, filter(None, names))) or "(?!)"


wildcard_constraints:
    section=one_of(SECTIONS),
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


def trial_settings(wildcards):
    """Which trials this section is evaluated by, as one string."""
    return one_line(SECTIONS[wildcards.section].trials)


def evaluate_settings(wildcards):
    """What looks at them, as one string."""
    return one_line(SECTIONS[wildcards.section].evaluate)


def known(wildcards):
    """The files that tell what was there before the damage, by the option that takes them; of phantoms."""
    section = SECTIONS[wildcards.section]
    return {
        option: path
        for option, path in (("--truth", section.truth), ("--cells", section.cells))
        if path
    }


def known_files(wildcards):
    """Those files; their content is a param."""
    return [ancient(str(path)) for path in known(wildcards).values()]


def known_options(wildcards):
    """How the command is told of them."""
    return [f"{option}={path}" for option, path in known(wildcards).items()]


def known_content(wildcards):
    """Content hashes of them."""
    return [CONTENT[path] for path in known(wildcards).values()]


def evaluation(wildcards):
    """The manifest of a section's evaluation, if it has trials."""
    if not SECTIONS[wildcards.section].trials["trials"]:
        return []
    return [f"results/{wildcards.section}/evaluation.manifest.json"]


def evaluation_option(wildcards):
    """How the report is told of it."""
    if not SECTIONS[wildcards.section].trials["trials"]:
        return []
    return [f"--evaluation=results/{wildcards.section}/evaluation"]


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


def trials_key(wildcards):
    """All that reaches the mended trials of a section."""
    return one_line(
        {
            "plan": plan_key(wildcards),
            "checkpoint": checkpoint(wildcards),
            "mend": mend_settings(wildcards),
            "settings": trial_settings(wildcards),
            "parts": SAMPLER_PARTS,
            "code": fingerprint("cytomend.stages.mend_trials"),
        }
    )


def evaluate_key(wildcards):
    """All that reaches the evaluation of a section."""
    return one_line(
        {
            "trials": trials_key(wildcards),
            "known": known_content(wildcards),
            "settings": evaluate_settings(wildcards),
            "parts": EVALUATION_PARTS,
            "code": fingerprint("cytomend.stages.evaluate_section"),
        }
    )


def training_image(wildcards):
    """The scan of a section to gather patches from; its content is a param."""
    return ancient(str(TRAINING_SECTIONS[wildcards.section].image))


def training_annotation(wildcards):
    """Its artefact mask; its content is a param too."""
    return ancient(str(TRAINING_SECTIONS[wildcards.section].annotation))


def training_image_content(wildcards):
    """Content hash of the scan."""
    return TRAINING_CONTENT[TRAINING_SECTIONS[wildcards.section].image]


def training_annotation_content(wildcards):
    """Content hash of the artefact mask."""
    return TRAINING_CONTENT[TRAINING_SECTIONS[wildcards.section].annotation]


def gather_settings(wildcards):
    """Which patches are gathered from this section, as one string."""
    return one_line(TRAINING_SECTIONS[wildcards.section].gather)


def patch_manifests(wildcards):
    """The manifests of the patch stores of all sections that the training file's sheets name."""
    return [
        f"results/training/{wildcards.model}/patches/{section}.manifest.json"
        for section in TRAINING_SECTIONS
    ]


def training_file(wildcards):
    """The training file; its settings are a param, so that a comment in it redoes nothing."""
    return ancient(str(TRAINING.path))


def training_files(wildcards):
    """The scans, masks and checkpoint that the training file names itself; their contents are a param."""
    return [ancient(str(path)) for path in TRAINING.files()]


def training_key(wildcards):
    """All that reaches a model besides the code, by content; thousands of sections make it long, so it is hashed."""
    return TRAINING.key(TRAINING_CONTENT, fingerprint("cytomend.stages.gather_patches"))


def trained_model(wildcards):
    """The model of the training file."""
    if TRAINING is None:
        raise WorkflowError(
            "train: no training file is named; give one, as in: snakemake train --config train=config/train/base.yaml"
        )
    return f"results/training/{TRAINING_NAME}/model.safetensors"
