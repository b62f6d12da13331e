"""Mend trials: masks laid over intact tissue of a section, to be compared with what had been there.

Everything of an evaluation that needs the model; what is said of the pictures (`cytomend.stages.evaluate_section`) can
then change without mending again. A trial is mended as a region of its shape would be. Where the truth is known, trials
lie on the artefacts themselves too. Besides small patches, some windows wide, there can be large ones, as wide as those
of the paper. Writes one store (`cytomend.evaluation.trial_store`); a killed job goes on with the trials that it had not
finished. What is drawn is kept on disk as it comes: memory does not grow with the number of trials.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.named_samplers import open_sampler
from cytomend.diffusion.record import ModelSettings, checkpoint_hash
from cytomend.diffusion.samplers import Draws
from cytomend.diffusion.windows import window_denoiser
from cytomend.errors import InputError
from cytomend.evaluation.mending import Grafting, TrialMender
from cytomend.evaluation.placement import (
    ARTEFACT,
    INTACT,
    LARGE,
    MARGIN_UM,
    SMALL,
    Placement,
    Placements,
    next_number,
    place_intact,
    place_on_artefacts,
)
from cytomend.evaluation.trial_store import Picture, write_trials
from cytomend.fingerprint import fingerprint
from cytomend.geometry import Box
from cytomend.grafts.region import Tissue
from cytomend.grafts.settings import GraftSettings, is_graft, parse_grafts
from cytomend.plugins import blamed_on
from cytomend.progress import Progress
from cytomend.regions.plan import Plan
from cytomend.stages.mend_shard import (
    Machine,
    MendSettings,
    add_machine_arguments,
    joining_of,
    plan_identity,
    provenance_of,
)
from cytomend.storage.edition import require_planned
from cytomend.storage.images import SectionImage, open_image
from cytomend.storage.publish import (
    add_key_arguments,
    keep_only,
    keyed,
    manifest_of,
    one_writer,
    publish,
    read_manifest,
    refuse_over,
    require_key,
    write_whole,
)

log = logging.getLogger(__name__)

CHUNK = 32
"""Small trials that are mended together, and lost when interrupted. A large one is mended alone."""

Places = Mapping[str, Sequence[Placement]]
"""Trials by the size of their patch."""


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """Which trials; see the block ``evaluate`` of ``workflow/schemas/config.schema.yaml``."""

    trials: int
    artefact_trials: int
    windows: int
    samplers: list[str]
    sampler_trials: int
    seed: int
    offset: float = 0.5
    patch_trials: int = 0
    patch_um: float = 1000.0


def mend_trials(
    image_path: Path,
    plan_folder: Path,
    model: Path,
    mend: MendSettings,
    settings: TrialSettings,
    machine: Machine,
    out: Path,
) -> Path:
    """Place and mend the trials of a section and return the manifest of their store.

    Raises
    ------
    InputError
        If a file, the model or a sampler's name cannot be used.
    """
    refuse_over(out, [image_path, plan_folder, model])
    plan = Plan.read(plan_folder)
    require_planned(image_path, manifest_of(plan_folder))
    provenance = provenance_of(model, mend, machine, 1)
    made_from = _hash(
        plan=plan_identity(plan_folder),
        mend=asdict(mend),
        settings=asdict(settings),
        code=fingerprint("cytomend.stages.mend_trials"),
        **provenance,
    )
    with one_writer(out) as work, logging_redirect_tqdm(), open_image(image_path) as image:
        if out.exists() and manifest_of(out).exists() and read_manifest(manifest_of(out)).get("made_from") == made_from:
            shutil.rmtree(work)
            return manifest_of(out)
        keep_only(work, made_from)
        places = place_trials(image, plan, settings)
        samplers: dict[str, Draws] = {mend.filler: mend.choose()}
        samplers |= {name: _sampler(name, mend) for name in settings.samplers if name != mend.filler}
        calls = {name: sampler.calls for name, sampler in samplers.items()}
        counts = {size: len(of_size) for size, of_size in places.items()}
        log.info("section %s: trials %s, network calls %s", plan.facts.section, counts, calls)
        menders = _menders(plan, image, model, mend, samplers, machine)
        shared = _shared(places, settings.sampler_trials)
        fills = {
            name: _mend(mender, places if name == mend.filler else shared, work / "parts" / str(i), name)
            for i, (name, mender) in enumerate(menders.items())
        }
        if checkpoint_hash(model) != provenance["checkpoint_sha256"]:
            shutil.rmtree(work / "parts", ignore_errors=True)
            raise InputError(f"{model}: was replaced while it was used; run again")
        facts = {
            **provenance,
            "section": plan.facts.section,
            "filler": mend.filler,
            "calls": calls,
            "wanted": settings.trials,
            "patches": {
                "trials": counts[LARGE],
                "wanted": settings.patch_trials,
                "patch_um": settings.patch_um,
            },
            "settings": asdict(settings),
            "plan": plan_identity(plan_folder),
        }
        write_trials(work / "store", places, fills, image.channels, np.dtype(image.dtype), facts)
        manifest = publish(
            work / "store",
            out,
            {
                "section": plan.facts.section,
                "trials": sum(counts.values()),
                "made_from": made_from,
                "gpus": machine.gpus,
            },
        )
        shutil.rmtree(work)
        return manifest


def place_trials(image: SectionImage, plan: Plan, settings: TrialSettings) -> Places:
    """Return where trials lie: small ones on intact tissue, and on artefacts if that is asked for, and large ones."""
    facts = plan.facts
    small: _Size = {
        "patch_px": facts.window_px + (settings.windows - 1) * facts.stride_px,
        "margin_px": round(MARGIN_UM / facts.pixel_size_um),
        "seed": settings.seed,
    }
    large: _Size = {**small, "patch_px": round(settings.patch_um / facts.pixel_size_um)}
    intact = list(_place(image, plan, settings.trials, settings.offset, small, SMALL, 0))
    corners = plan.regions[["y0_px", "x0_px", "y1_px", "x1_px"]].to_numpy().tolist()
    boxes = [Box(*map(int, corner)) for corner in corners]
    known = place_on_artefacts(boxes, plan.mask, intact, count=settings.artefact_trials, **small)
    first = next_number([*intact, *known])
    return {
        SMALL: [*intact, *known],
        LARGE: _place(image, plan, settings.patch_trials, settings.offset, large, LARGE, first),
    }


class _Size(TypedDict):
    patch_px: int
    margin_px: int
    seed: int


def _place(
    image: SectionImage, plan: Plan, count: int, offset: float, side: _Size, size: str, first: int
) -> Placements:
    """Return trials of one size on intact tissue, and say so if there is room for fewer than are wanted."""
    facts = plan.facts
    placed = place_intact(
        image,
        plan.not_intact(),
        facts.value_range,
        count=count,
        name=facts.section,
        offset=offset,
        size=size,
        first=first,
        **side,
    )
    if len(placed) < count:
        log.warning(
            "section %s: intact tissue for %d of %d trials of %d px",
            facts.section,
            len(placed),
            count,
            side["patch_px"],
        )
    return placed


def _menders(
    plan: Plan, image: SectionImage, model: Path, mend: MendSettings, samplers: Mapping[str, Draws], machine: Machine
) -> dict[str, TrialMender]:
    facts = plan.facts
    denoiser, record = load_model(model, machine.device)
    if record.window_px != facts.window_px:
        raise InputError(
            f"{model}: window_px is {record.window_px}, the plan was made for {facts.window_px}; plan again"
        )
    ask = window_denoiser(
        denoiser, machine.device, batch=machine.batch_windows, threads=machine.threads, precision=mend.precision
    )
    return {
        name: TrialMender(
            image,
            plan.mask,
            facts.lattice,
            facts.value_range,
            ask,
            sampler,
            mend.seed,
            machine.device,
            machine.group_windows(facts.window_px),
            _grafting(name, mend, image, plan, record),
        )
        for name, sampler in samplers.items()
    }


def _sampler(name: str, mend: MendSettings) -> Draws:
    """Return the sampler of a filler: grafts are joined by the section's own."""
    return mend.choose() if is_graft(name) else open_sampler(name)


def _grafting(name: str, mend: MendSettings, image: SectionImage, plan: Plan, record: ModelSettings) -> Grafting | None:
    """Return how a filler grafts, or None if it draws all."""
    if not is_graft(name):
        return None
    settings = parse_grafts(name, GraftSettings(**mend.graft))
    return Grafting(settings, Tissue.of(image, plan), joining_of(plan.facts, record))


def _shared(places: Places, count: int) -> Places:
    """Return the trials that further samplers fill too: the first of each size and kind; their fractions are random."""
    small = [place for kind in (INTACT, ARTEFACT) for place in [p for p in places[SMALL] if p.kind == kind][:count]]
    return {SMALL: small, LARGE: places[LARGE][:count]}


def _chunks(places: Places) -> Iterator[tuple[int, Sequence[Placement]]]:
    """Yield trials that are mended together, with the number of those before them."""
    before = 0
    for size, of_size in places.items():
        step = 1 if size == LARGE else CHUNK
        for start in range(0, len(of_size), step):
            yield before + start, of_size[start : start + step]
        before += len(of_size)


class KeptFills(Mapping[int, Picture]):
    """What a sampler has drawn, by the trial's number: kept in files, each of some trials, and read one by one."""

    def __init__(self) -> None:
        self.parts: dict[int, Path] = {}

    def keep(self, part: Path) -> None:
        """Take in the trials of a file."""
        with np.load(part, allow_pickle=False) as kept:
            self.parts.update(dict.fromkeys(map(int, kept.files), part))

    def __getitem__(self, trial: int) -> Picture:
        with np.load(self.parts[trial], allow_pickle=False) as kept:
            picture: Picture = kept[str(trial)]
        return picture

    def __contains__(self, trial: object) -> bool:
        return trial in self.parts

    def __iter__(self) -> Iterator[int]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def _mend(mender: TrialMender, places: Places, parts: Path, name: str) -> KeptFills:
    """Return what a sampler draws; chunks that an earlier run has drawn are left as they are."""
    fills = KeptFills()
    with Progress(name, sum(map(len, places.values())), "trial") as progress:
        for start, chunk in _chunks(places):
            part = parts / f"{start:06d}.npz"
            if not part.exists():
                drawn_in = list(chunk)
                with blamed_on("sampler", name):
                    drawn = mender(drawn_in)
                arrays = {str(place.trial): picture for place, picture in zip(drawn_in, drawn, strict=True)}
                write_whole(part, partial(_save, arrays=arrays))
            fills.keep(part)
            progress.update(len(chunk))
    return fills


def _save(path: Path, arrays: Mapping[str, Picture]) -> None:
    np.savez(path, allow_pickle=False, **arrays)


def _hash(**made_from: object) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--image", type=Path, required=True, help="scan of the section")
    parser.add_argument("--plan", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint (.safetensors)")
    entries = ", ".join(field.name for field in fields(MendSettings))
    parser.add_argument("--mend", required=True, help=f"JSON object with {entries}")
    entries = ", ".join(field.name for field in fields(TrialSettings))
    parser.add_argument("--settings", required=True, help=f"JSON object with {entries}")
    parser.add_argument("--out", type=Path, required=True, help="Zarr store of the trials")
    add_machine_arguments(parser)
    add_key_arguments(parser, after="a plan")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    require_key(args.plan, args.after)
    manifest = mend_trials(
        args.image,
        args.plan,
        args.model,
        MendSettings(**json.loads(args.mend)),
        TrialSettings(**json.loads(args.settings)),
        Machine.of(args.device, args.threads, args.batch_windows),
        args.out,
    )
    print(keyed(manifest, args.key))
