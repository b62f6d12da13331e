"""Reads configuration and sheet, and says what each job depends on.

Needs: config (checked against workflow/schemas/config.schema.yaml), the sheet of sections it names, the checkpoints the rows name.
Makes: SECTIONS, and the functions that rules ask for a section's files, settings and fingerprints. Mistakes are named here, before any job.
"""

import gc
import inspect
import mimetypes
import os
import shlex
import sys
from itertools import takewhile
from pathlib import Path

from snakemake.exceptions import WorkflowError

# A graph of 40,000 jobs holds millions of objects and hardly any garbage: looking for it takes a quarter of the time.
gc.set_threshold(200_000, 20, 100)

LIBRARY = str(Path(workflow.basedir) / "workflow" / "lib")
sys.path.insert(0, LIBRARY)
shell.prefix(f"set -euo pipefail; export PYTHONPATH={shlex.quote(LIBRARY)}; ")

from cytomend.decisions import decisions_key
from cytomend.diffusion.record import checkpoint_hash
from cytomend.errors import InputError
from cytomend.evaluation.parts import identities
from cytomend.fingerprint import fingerprint
from cytomend.frozen import thawed
from cytomend.needs import (
    Needs,
    blend_request,
    calls_at_most,
    evaluate_request,
    mend_request,
    plan_request,
    report_request,
    screen_request,
    stream_request,
    trials_request,
)
from cytomend.settings import checked, key, one_line
from cytomend.sheet import read_sheet
from cytomend.storage.edition import editions, sources_in
from cytomend.storage.frames import file_of, mark_of
from cytomend.storage.identity import IDENTITIES, READ_HERE_BYTES, cached_identities
from cytomend.training_file import check_apart, read_training_file


def contents(paths):
    """Content hashes of files; of those that were read before, from the cache."""
    return cached_identities(paths, IDENTITIES, READ_HERE_BYTES)


def sections_of_this_job():
    """Where one job runs, the names of its sections, so that a node does not read a whole brain; None for all."""
    if workflow.is_main_process or "--target-jobs" not in sys.argv:
        return None
    # From the command line, since Snakemake tells its own settings only after the Snakefile is read.
    after = sys.argv[sys.argv.index("--target-jobs") + 1 :]
    jobs = takewhile(lambda word: not word.startswith("-"), after)
    named = [re.search(r"[:,]section=([^,]+)", job) for job in jobs]
    return {name[1] for name in named} if all(named) else None


try:
    # A job goes on with what its run was started with.
    CONFIG = None if workflow.is_main_process else thawed()
    CONFIG = CONFIG or checked(dict(config), "config", "configuration")
    SECTIONS = read_sheet(Path(CONFIG["sections"]), CONFIG, only=sections_of_this_job())
    PLANS = {name: Path(f"results/{name}/plan.manifest.json") for name in SECTIONS}
    PLANNED = {
        name: (section.planned_files, sources_in(PLANS[name]))
        for name, section in SECTIONS.items()
    }
    EDITIONS = editions(PLANNED, contents)
    KNOWN = [path for s in SECTIONS.values() for path in s.known_files.values()]
    CONTENT = contents(KNOWN)
    SAMPLER_PARTS = identities(CONFIG["evaluate"], ["samplers"])
    EVALUATION_PARTS = identities(
        CONFIG["evaluate"], ["segmenters", "classifier", "fillers"]
    )
    SHOWN_SEGMENTER = identities(
        {"segmenters": [CONFIG["report"]["segmenter"]]}, ["segmenters"], "report"
    )
    MODELS = {section.model for section in SECTIONS.values()}
    CHECKPOINTS = {model: checkpoint_hash(model) for model in MODELS}
    # Read only when it is asked for, so that mending does not depend on what was trained on.
    TRAINING = read_training_file(Path(CONFIG["train"])) if "train" in CONFIG else None
    if TRAINING:
        TRAINING_CONTENT = contents(TRAINING.all_files())
        check_apart(TRAINING, TRAINING_CONTENT.__getitem__)
except InputError as error:
    raise WorkflowError(str(error))

EVALUATED = [name for name, section in SECTIONS.items() if section.is_evaluated]
TRAINING_NAME = TRAINING.path.stem if TRAINING else ""
TRAINING_SECTIONS = TRAINING.sections if TRAINING else {}


# As far as a machine's own list lacks it, an archive would show pictures as text.
mimetypes.add_type("image/webp", ".webp")

# An archive (--report) holds all its pictures in one file, so that of a brain it shows the table and the evaluation only.
ARCHIVED_SECTIONS = 50


def archived(images):
    """Pictures of sections, marked for the archive of a run if it can hold them all."""
    if len(SECTIONS) > ARCHIVED_SECTIONS:
        return images
    return report(
        images,
        patterns=["{picture,overview}.webp"],
        caption="../report/overview.rst",
        category="Sections",
        labels={"section": "{section}", "shows": "the mended section"},
    )


def one_of(names):
    """The pattern of a wildcard that takes these names and, if there are none, nothing."""
    return "|".join(map(re.escape, filter(None, names))) or "(?!)"


wildcard_constraints:
    # A pattern, since the names of thousands of sections would be tried one by one for every file.
    section=r"(?!(?:brain|training)/)[A-Za-z0-9][A-Za-z0-9._-]*",
    shard=r"\d+",
    kind="ome|classic",


def image(wildcards):
    """The scan; its content is a param, so that touching it redoes nothing."""
    return ancient(str(file_of(SECTIONS[wildcards.section].image)))


def frame(wildcards):
    """The frame of the scan that is read, as it is written behind its name; of the usual one nothing."""
    return mark_of(SECTIONS[wildcards.section].image)


def annotations(wildcards):
    """The artefact masks, whose content is a param too; or what screening proposes in their place."""
    given = SECTIONS[wildcards.section].annotations
    if not given:
        return [f"results/{wildcards.section}/screen/proposals.geojson"]
    return [ancient(str(file_of(path))) for path in given]


def annotation_options(wildcards):
    """How planning is told of them, with the frames that their names ask for."""
    given = SECTIONS[wildcards.section].annotations or annotations(wildcards)
    return [f"--annotation={path}" for path in given]


def model(wildcards):
    """The checkpoint, named from here so that a moved checkout redoes nothing; its hash is a param."""
    return ancient(os.path.relpath(SECTIONS[wildcards.section].model))


def editions_of(wildcards):
    """Which states of scan and mask are planned, as one string."""
    return one_line(EDITIONS[wildcards.section])


def decisions_option(wildcards):
    """How a page is told of the decisions about it, if there are any: by their file, for which a command line is too short."""
    if not SECTIONS[wildcards.section].decisions:
        return []
    return [f"--decisions={CONFIG['decisions']}"]


def decided(wildcards):
    """What reviewers said of this section, remarks included, as one string."""
    return decisions_key(SECTIONS[wildcards.section].decisions)


def checkpoint(wildcards):
    """SHA-256 of the checkpoint."""
    return CHECKPOINTS[SECTIONS[wildcards.section].model]


def plan_settings(wildcards):
    """What the plan of this section depends on besides its files, as one string."""
    return one_line(SECTIONS[wildcards.section].plan)


def screen_settings(wildcards):
    """What is proposed for this section, as one string."""
    return one_line(SECTIONS[wildcards.section].screen)


def pixel_size(wildcards):
    """Side of a pixel in µm."""
    return SECTIONS[wildcards.section].plan["pixel_size_um"]


def mend_settings(wildcards):
    """How this section is mended, as one string."""
    return one_line(SECTIONS[wildcards.section].mend)


def trial_settings(wildcards):
    """Which trials this section is evaluated by, as one string."""
    return one_line(SECTIONS[wildcards.section].trials)


def evaluate_settings(wildcards):
    """What looks at them, as one string."""
    return one_line(SECTIONS[wildcards.section].evaluate)


def known_files(wildcards):
    """The files that tell what was there before the damage, of phantoms; their content is a param."""
    return [
        ancient(str(path)) for path in SECTIONS[wildcards.section].known_files.values()
    ]


def known_options(wildcards):
    """How the command is told of them."""
    return [
        f"--{role}={path}"
        for role, path in SECTIONS[wildcards.section].known_files.items()
    ]


def known_content(wildcards):
    """Content hashes of them."""
    return [CONTENT[path] for path in SECTIONS[wildcards.section].known_files.values()]


def exports():
    """What is asked for besides the OME-Zarr."""
    kind = CONFIG["export"]["tiff"]
    if kind == "none":
        return []
    return [
        f"results/{section}/export/corrected.{kind}.tif" for section in sorted(SECTIONS)
    ]


def evaluation(wildcards):
    """The manifest of a section's evaluation, if it has trials."""
    if not SECTIONS[wildcards.section].is_evaluated:
        return []
    return [f"results/{wildcards.section}/evaluation.manifest.json"]


def evaluation_option(wildcards):
    """How the report is told of it."""
    if not SECTIONS[wildcards.section].is_evaluated:
        return []
    return [
        f"--evaluation=results/{wildcards.section}/evaluation",
        f"--evaluated={evaluate_key(wildcards)}",
    ]


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
    paths = [Path(workflow.basedir) / "workflow" / "report" / name for name in names]
    found = contents(paths)
    return [found[path] for path in paths]


def screen_key(wildcards):
    """All that reaches the proposals for a section, whose content is not known before they are made."""
    return key(
        image=EDITIONS[wildcards.section]["image"],
        settings=screen_settings(wildcards),
        pixel_size_um=pixel_size(wildcards),
        code=fingerprint("cytomend.stages.screen_section"),
    )


def plan_key(wildcards):
    """All that reaches a plan. Later rules hold it too: when an earlier job failed, its lost outputs alone would not
    tell Snakemake that the results behind them are out of date."""
    screened = not SECTIONS[wildcards.section].annotations
    return key(
        editions=editions_of(wildcards),
        settings=plan_settings(wildcards),
        code=fingerprint("cytomend.stages.plan_section"),
        **({"proposals": screen_key(wildcards)} if screened else {}),
    )


def mend_key(wildcards):
    """All that reaches the mended pixels of a section."""
    return key(
        plan=plan_key(wildcards),
        weights=checkpoint(wildcards),
        settings=mend_settings(wildcards),
        batch_windows=CONFIG["mend"]["batch_windows"],
        code=fingerprint("cytomend.stages.mend_shard"),
    )


def blend_key(wildcards):
    """All that reaches the corrected pyramid of a section."""
    return key(
        mend=mend_key(wildcards),
        settings=CONFIG["pyramid"],
        code=fingerprint("cytomend.stages.blend_section"),
    )


def verify_key(wildcards):
    """All that reaches the verdict on a section."""
    return key(
        blend=blend_key(wildcards),
        code=fingerprint("cytomend.stages.verify_section"),
    )


def trials_key(wildcards):
    """All that reaches the mended trials of a section."""
    return key(
        plan=plan_key(wildcards),
        weights=checkpoint(wildcards),
        mend=mend_settings(wildcards),
        batch_windows=CONFIG["mend"]["batch_windows"],
        settings=trial_settings(wildcards),
        parts=SAMPLER_PARTS,
        code=fingerprint("cytomend.stages.mend_trials"),
    )


def evaluate_key(wildcards):
    """All that reaches the evaluation of a section."""
    return key(
        trials=trials_key(wildcards),
        known=known_content(wildcards),
        settings=evaluate_settings(wildcards),
        parts=EVALUATION_PARTS,
        code=fingerprint("cytomend.stages.evaluate_section"),
    )


def needs(wildcards):
    """What the section's plan says of its size and damage, or None before there is one."""
    return Needs.read(PLANS[wildcards.section])


def screen_asks(wildcards):
    """What screening asks of a machine."""
    return screen_request(SECTIONS[wildcards.section].image)


def plan_asks(wildcards):
    """What planning asks of a machine."""
    return plan_request(SECTIONS[wildcards.section].planned_files.values())


def mend_asks(wildcards):
    """What mending a shard asks for."""
    calls = calls_at_most(SECTIONS[wildcards.section].mend)
    return mend_request(needs(wildcards), int(wildcards.shard), calls)


def trials_asks(wildcards):
    """What mending the trials asks for."""
    section = SECTIONS[wildcards.section]
    pixel_size_um = section.plan["pixel_size_um"]
    return trials_request(
        needs(wildcards), section.trials, calls_at_most(section.mend), pixel_size_um
    )


def evaluate_asks(wildcards):
    """What looking at them asks for."""
    section = SECTIONS[wildcards.section]
    return evaluate_request(section.trials, section.plan["pixel_size_um"])


def blend_asks(wildcards):
    """What blending asks for."""
    return blend_request(needs(wildcards), CONFIG["pyramid"]["shard_px"])


def verify_asks(wildcards):
    """What proving asks for."""
    return stream_request(needs(wildcards))


def report_asks(wildcards):
    """What the page of a section asks for."""
    return report_request(needs(wildcards))


def memory(asks):
    """Memory that a job asks for, more at each attempt; known when the job is about to start."""
    return with_signature(
        lambda wildcards, attempt: asks(wildcards).again(attempt).mem_mb
    )


def minutes(asks):
    """Time that it asks for."""
    return with_signature(
        lambda wildcards, attempt: asks(wildcards).again(attempt).runtime
    )


def with_signature(function):
    """Write a function's signature down: Snakemake asks for it several times for every job."""
    function.__signature__ = inspect.signature(function)
    return function


def training_image(wildcards):
    """The scan of a section to gather patches from; its content is a param."""
    return ancient(str(file_of(TRAINING_SECTIONS[wildcards.section].image)))


def training_frame(wildcards):
    """Its frame; see `frame`."""
    return mark_of(TRAINING_SECTIONS[wildcards.section].image)


def training_annotations(wildcards):
    """Its artefact masks; their content is a param too."""
    return [
        ancient(str(file_of(path)))
        for path in TRAINING_SECTIONS[wildcards.section].annotations
    ]


def training_annotation_options(wildcards):
    """The same for the command."""
    return [
        f"--annotation={path}"
        for path in TRAINING_SECTIONS[wildcards.section].annotations
    ]


def training_image_content(wildcards):
    """Content hash of the scan."""
    return TRAINING_CONTENT[TRAINING_SECTIONS[wildcards.section].image]


def training_annotation_content(wildcards):
    """Content hashes of the artefact masks, as one string."""
    annotations = TRAINING_SECTIONS[wildcards.section].annotations
    return " ".join(TRAINING_CONTENT[path] for path in annotations)


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
    return [ancient(str(file_of(path))) for path in TRAINING.files()]


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


for function in [value for value in globals().values() if inspect.isfunction(value)]:
    if function.__code__.co_varnames[:1] == ("wildcards",):
        with_signature(function)
