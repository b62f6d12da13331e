"""Mend the regions of one shard.

Reads source pixels, the plan and a checkpoint, and writes one Zarr group whose arrays hold the mended cells of the
section's lattice:

| array | dimensions | what |
|---|---|---|
| ``pixels`` | (cell, c, y, x) | values in the scanner's dtype; meaningful where the plan's label is the cell's region |
| ``uncertainty`` | (cell, y, x) | standard deviation over samples, in grey values; only with two samples or more |
| ``corners`` | (cell, 2) | absolute (y, x) pixel of the cell's corner |
| ``region`` | (cell,) | region number |
| ``graft`` | (cell, y, x) | which of its region's grafts a pixel came from, counted from 1; 0 where it was drawn |
| ``grafts`` | (graft, entry) | region, then the columns of `cytomend.grafts.quilt.GRAFT_COLUMNS` |

Its attributes are the provenance: model, checkpoint hash, sampler, seed. Regions are mended in groups that share the
network's calls, which reaches no pixel: they know nothing of each other, and noise belongs to the place. A killed job
keeps its finished regions, and the next one continues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import zarr
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from tqdm.contrib.logging import logging_redirect_tqdm

from cytomend import __version__
from cytomend.diary import begin_log, die_with, told
from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.inference import Precision, usable_dtype
from cytomend.diffusion.record import ModelSettings, checkpoint_hash, load_settings
from cytomend.diffusion.samplers import SAMPLERS, Sampler
from cytomend.diffusion.schedule import TIMES
from cytomend.diffusion.windows import WindowDenoise, window_denoiser
from cytomend.errors import InputError, ResourceError
from cytomend.fingerprint import fingerprint
from cytomend.grafts.join import Joining
from cytomend.grafts.quilt import GRAFT_COLUMNS
from cytomend.grafts.settings import GRAFT, GraftSettings
from cytomend.overlap import overlapped
from cytomend.progress import Progress
from cytomend.regions.groups import grouped, turns
from cytomend.regions.plan import Plan, SectionFacts, pack
from cytomend.stages.group_mender import GroupMender
from cytomend.storage.edition import require_planned
from cytomend.storage.images import open_image
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
)

log = logging.getLogger(__name__)

CELLS_PER_CHUNK = 1024

GROUP_PX = {"cpu": 1 << 20}
LARGE_GROUP_PX = 1 << 25
GROUP_STATES = 24
"""Pixels of windows that are mended together, by device: so many that few places of the network's calls stay empty and
the steps between calls weigh nothing, yet a killed job loses only minutes, and a group takes far below a gigabyte of
memory on a CPU and a few on an accelerator. ``GROUP_STATES`` float32 copies of them are reckoned with there."""


@dataclass(frozen=True, slots=True)
class MendSettings:
    """How to mend; see the block ``mend`` of ``workflow/schemas/config.schema.yaml``."""

    sampler: str
    steps: int
    jump: int
    resample: int | None
    seed: int
    eta: float = 0.0
    precision: Precision = "bfloat16"
    fill: Literal["graft", "draw"] = "draw"
    graft: dict[str, float] = field(default_factory=dict)

    @property
    def grafts(self) -> GraftSettings | None:
        """How to graft, or None if all is drawn."""
        return GraftSettings(**self.graft) if self.fill == "graft" else None

    @property
    def filler(self) -> str:
        """Name of what fills, beside that of other fillers."""
        return GRAFT if self.fill == "graft" else self.sampler

    def choose(self) -> Sampler:
        """Return the sampler.

        Raises
        ------
        InputError
            If there is no sampler of that name, or it cannot take so many steps.
        """
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler {self.sampler!r}: expected one of {', '.join(SAMPLERS)}")
        if not 1 <= self.steps <= TIMES:
            raise InputError(f"steps is {self.steps}, expected 1 to {TIMES}")
        default = SAMPLERS[self.sampler]
        if default.resamples:
            return replace(default, steps=self.steps, jump=self.jump, resample=self.resample or default.resample)
        if default.name == "langevin":
            return replace(default, steps=self.steps, resample=self.resample or default.resample)
        return replace(default, steps=self.steps, eta=self.eta)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the network runs; reaches no result beyond the last bits of another device.

    ``workers`` processes share the regions of a shard, each with a GPU of its own.
    """

    device: torch.device
    threads: int
    batch_windows: int
    group_px: int | None = None
    workers: int = 1

    @property
    def gpus(self) -> int:
        """GPUs that are used."""
        return self.workers if self.device.type == "cuda" else 0

    def worker(self, number: int) -> Machine:
        """Return the part of the machine that one of the workers has."""
        device = torch.device("cuda", number) if self.device.type == "cuda" else self.device
        return replace(self, device=device, threads=max(self.threads // self.workers, 1), workers=1)

    def group_windows(self, window_px: int) -> int:
        """Return how many windows are mended together, unless a region alone has more."""
        group_px = self.group_px or GROUP_PX.get(self.device.type, LARGE_GROUP_PX)
        return max(group_px // window_px**2, 1)

    @classmethod
    def of(cls, device: str, threads: int, batch_windows: int, gpus: int = 1) -> Machine:
        """Return the machine; ``auto`` is the GPU if there is one, and ``gpus`` of them then work."""
        if gpus < 1:
            raise InputError(f"--gpus is {gpus}, expected at least 1; without a GPU the CPU is taken")
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if device == "auto" and chosen == "cpu" and "SLURM_JOB_ID" in os.environ:
            log.warning("this job asks for %d GPUs and sees none: it computes on the CPU, many times slower", gpus)
        if threads < 1 or batch_windows < 1:
            raise InputError(f"--threads is {threads}, --batch-windows {batch_windows}; expected at least 1 of each")
        try:
            torch.empty(1, device=chosen).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise InputError(
                f"--device {device}: cannot be used here ({str(error).splitlines()[0]}); try cpu"
            ) from error
        if chosen != "cuda":
            return cls(torch.device(chosen), threads, batch_windows)
        if gpus > (found := torch.cuda.device_count()):
            raise InputError(f"--gpus {gpus}: {found} visible here; ask the cluster for as many, or use fewer")
        return cls(torch.device(chosen), threads, batch_windows, workers=gpus)


def mend_shard(
    image_path: Path, plan_folder: Path, shard: int, model: Path, settings: MendSettings, machine: Machine, out: Path
) -> Path:
    """Mend the regions that the plan gives to this shard and return the manifest of the store."""
    plan = Plan.read(plan_folder)
    mine = plan.regions[plan.regions["shard"] == shard]
    provenance = provenance_of(model, settings, machine, plan.facts.samples)
    require_planned(image_path, manifest_of(plan_folder))
    made_from = _hash(
        plan=plan_identity(plan_folder),
        shard=shard,
        code=fingerprint("cytomend.stages.mend_shard"),
        **provenance,
    )
    with one_writer(out) as work, logging_redirect_tqdm():
        if out.exists() and manifest_of(out).exists() and read_manifest(manifest_of(out)).get("made_from") == made_from:
            shutil.rmtree(work)
            return manifest_of(out)
        done = work / "regions"
        keep_only(work, made_from)
        done.mkdir(exist_ok=True)
        costs = dict(zip(mine["region"].tolist(), mine["windows"].tolist(), strict=True))
        missing = {region: windows for region, windows in costs.items() if not (done / f"{region}.npz").exists()}
        log.info(
            "section %s, shard %d: %d of %d regions to mend, %d samples each, %d windows, %s",
            plan.facts.section,
            shard,
            len(missing),
            len(costs),
            plan.facts.samples,
            sum(missing.values()),
            provenance,
        )
        if missing:
            _mend_regions(missing, image_path, plan_folder, model, settings, machine, done)
        if checkpoint_hash(model) != provenance["checkpoint_sha256"]:
            shutil.rmtree(done)
            raise InputError(
                f"{model}: was replaced while section {plan.facts.section!r} was mended with it; copy the weights of a"
                " training that goes on to a folder of their own, and run again"
            )
        joined = {"joint": joining_of(plan.facts, load_settings(model)).name} if settings.grafts else {}
        _gather(plan, list(costs), done, work / "store", {**provenance, **joined, "plan": plan_identity(plan_folder)})
        facts = {"section": plan.facts.section, "shard": shard, "regions": len(mine), "made_from": made_from}
        manifest = publish(work / "store", out, {**facts, "gpus": machine.gpus})
        shutil.rmtree(work)  # not before: a job killed while it publishes keeps its regions
        return manifest


def _mend_regions(
    windows_of: dict[int, int],
    image_path: Path,
    plan_folder: Path,
    model: Path,
    settings: MendSettings,
    machine: Machine,
    done: Path,
) -> None:
    """Mend regions, given as number and windows, by all workers of the machine."""
    job = _Job(image_path, plan_folder, model, settings, machine, done)
    if machine.workers == 1:
        job.mend(windows_of, machine)
        return
    worker_of = pack(np.array(list(windows_of.values()), dtype=np.int64), machine.workers)
    parts = [
        {region: windows for (region, windows), its in zip(windows_of.items(), worker_of, strict=True) if its == worker}
        for worker in range(machine.workers)
    ]
    try:
        # Ends all workers when one of them ends; they end themselves when this process does.
        spawn(_work, (job, parts, os.getpid()), machine.workers, daemon=True)  # type: ignore[no-untyped-call]
    except ProcessExitedException as error:
        blame = InputError if error.exit_code == InputError.status else ResourceError
        raise blame(
            f"{image_path}: worker {error.error_index} of {machine.workers} ended with status {error.exit_code}"
            f" {error.signal_name or ''}; its reason stands above, if it gave one; run again, what is finished is kept"
        ) from error


def _work(worker: int, job: _Job, parts: list[dict[int, int]], parent: int) -> None:
    """Mend one worker's regions, in a process of its own that does not outlive its parent, who holds the lock."""
    die_with(parent)
    begin_log()
    try:
        job.mend(parts[worker], job.machine.worker(worker))
    except (InputError, ResourceError) as error:
        print(f"cytomend mend-shard, worker {worker}: {told(error)}", file=sys.stderr)
        sys.exit(error.status)


@dataclass(frozen=True, slots=True)
class _Job:
    """What all workers of a shard know."""

    image: Path
    plan: Path
    model: Path
    settings: MendSettings
    machine: Machine
    done: Path

    def mend(self, windows_of: dict[int, int], machine: Machine) -> None:
        """Mend regions, given as number and windows, group by group, and keep each as soon as it is finished."""
        if windows_of:
            _mend_groups(windows_of, self.image, Plan.read(self.plan), self.model, self.settings, machine, self.done)


def _mend_groups(
    windows_of: dict[int, int],
    image_path: Path,
    plan: Plan,
    model: Path,
    settings: MendSettings,
    machine: Machine,
    done: Path,
) -> None:
    facts = plan.facts
    denoiser, record = load_model(model, machine.device)
    if record.window_px != facts.window_px:
        raise InputError(
            f"{model}: window_px is {record.window_px}, the plan was made for {facts.window_px}; plan again"
        )
    ask = window_denoiser(
        denoiser,
        machine.device,
        batch=machine.batch_windows,
        threads=machine.threads,
        precision=settings.precision,
    )
    sampler = settings.choose()
    joining = joining_of(facts, record) if settings.grafts else Joining()
    most_windows = max(*windows_of.values(), machine.group_windows(facts.window_px))
    rehearse(ask, machine, facts, most_windows, record.unet.channels)
    # An estimate where the network has pixels of its own: the plan counts windows of the scan's.
    share = 1.0 if joining.grid is None else joining.grid.step**-2
    total = math.ceil(sum(windows_of.values()) * share) * facts.samples * sampler.calls
    with (
        open_image(image_path) as image,
        Progress(f"section {facts.section}", total, "window call") as progress,
    ):

        def ask_and_tell(x: Tensor, time: Tensor) -> Tensor:
            answer = ask(x, time)
            progress.update(len(x))
            return answer

        hands = GroupMender(
            image, plan, model, ask_and_tell, sampler, settings.seed, machine.device, settings.grafts, joining, done
        )
        groups = grouped(turns(windows_of.items(), facts.samples), machine.group_windows(facts.window_px))
        overlapped(groups, hands.read, hands.mend, hands.keep)


def rehearse(ask: WindowDenoise, machine: Machine, facts: SectionFacts, most_windows: int, channels: int) -> None:
    """See on a GPU, before any region is begun, that a network call and the largest group have room in its memory.

    Every call has the same shape, so that what fits once fits always.

    Raises
    ------
    ResourceError
        If they have not.
    """
    if machine.device.type != "cuda":
        return
    side, gigabyte = facts.window_px, 1e9
    held = GROUP_STATES * 4 * channels * most_windows * side**2
    try:
        x = torch.zeros((machine.batch_windows, channels, side, side), device=machine.device)
        ask(x, x[:, :1])
    except torch.OutOfMemoryError as error:
        free, whole = torch.cuda.mem_get_info(machine.device)
        raise ResourceError(
            f"section {facts.section!r}: a network call with {machine.batch_windows} windows of {side} px does not fit"
            f" into the memory of {machine.device} ({free / gigabyte:.1f} of {whole / gigabyte:.1f} GB are free); set"
            " mend.batch_windows lower, ask for a larger GPU, or see who else uses this one"
        ) from error
    free, whole = torch.cuda.mem_get_info(machine.device)
    free += torch.cuda.memory_reserved(machine.device) - torch.cuda.memory_allocated(machine.device)
    if held > free:
        raise ResourceError(
            f"section {facts.section!r}: {most_windows} windows of {side} px at a time take {held / gigabyte:.1f} GB"
            f" beside the network, {free / gigabyte:.1f} of {whole / gigabyte:.1f} GB are free on {machine.device};"
            " ask for a larger GPU, or see who else uses this one"
        )


def provenance_of(model: Path, settings: MendSettings, machine: Machine, samples: int) -> dict[str, Any]:
    """Return what stands in the metadata of everything that is made."""
    name = model.parent.name if model.name == "model.safetensors" else model.stem
    sampler = settings.choose()
    return {
        "cytomend": __version__,
        "model": name,
        "checkpoint_sha256": checkpoint_hash(model),
        **{f"sampler_{key}" if key != "name" else "sampler": value for key, value in asdict(sampler).items()},
        "network_calls": sampler.calls,
        "fill": settings.fill,
        **{f"graft_{key}": value for key, value in (asdict(settings.grafts) if settings.grafts else {}).items()},
        "seed": settings.seed,
        "samples": samples,
        "precision": str(usable_dtype(machine.device, settings.precision)).removeprefix("torch."),
    }


def joining_of(facts: SectionFacts, record: ModelSettings) -> Joining:
    """Return who makes the joints of a section with a model."""
    return Joining.of(
        facts.shape, facts.channels, facts.pixel_size_um, facts.lattice, record.unet.channels, record.pixel_size_um
    )


def plan_identity(plan_folder: Path) -> str:
    """Return the checksum of a plan."""
    return str(read_manifest(manifest_of(plan_folder))["sha256"])


def _hash(**made_from: object) -> str:
    """Return the identity of all that a shard is made from."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _gather(plan: Plan, regions: list[int], done: Path, store: Path, provenance: dict[str, Any]) -> None:
    """Turn the finished regions into one store, a region at a time."""
    facts = plan.facts
    cell_px, counts, tables = facts.lattice.cell_px, [], [np.zeros((0, 1 + len(GRAFT_COLUMNS)))]
    for region in regions:
        with np.load(done / f"{region}.npz", allow_pickle=False) as arrays:
            counts.append(len(arrays["corners"]))
            tables.append(np.insert(arrays["grafts"], 0, region, axis=1))
    total = sum(counts)
    group = zarr.open_group(store, mode="w", zarr_format=3)
    kinds = {"pixels": ((facts.channels,), facts.dtype), "graft": ((), "uint32")}
    kinds |= {"uncertainty": ((), facts.dtype)} if facts.samples > 1 else {}
    cells = {
        name: group.create_array(
            name,
            shape=(total, *channels, cell_px, cell_px),
            chunks=(min(CELLS_PER_CHUNK, max(total, 1)), *channels, cell_px, cell_px),
            dtype=dtype,
            dimension_names=("cell", "c", "y", "x") if channels else ("cell", "y", "x"),
            overwrite=True,
        )
        for name, (channels, dtype) in kinds.items()
    }
    corners, start = np.zeros((total, 2), dtype=np.int64), 0
    for region, count in zip(regions, counts, strict=True):
        with np.load(done / f"{region}.npz", allow_pickle=False) as kept:
            for name, array in cells.items():
                array[start : start + count] = kept[name]
            corners[start : start + count] = kept["corners"]
        start += count
    tables_of = {
        "corners": (corners, ("cell", "axis")),
        "region": (np.repeat(np.array(regions, dtype=np.int64), counts), ("cell",)),
        "grafts": (np.concatenate(tables), ("graft", "entry")),
    }
    for name, (values, dimensions) in tables_of.items():
        group.create_array(name, data=values, dimension_names=dimensions, overwrite=True)
    group.attrs.update(provenance)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--image", type=Path, required=True, help="scan of the section")
    parser.add_argument("--plan", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--shard", type=int, required=True, help="which of the plan's shards")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint (.safetensors)")
    entries = ", ".join(field.name for field in fields(MendSettings))
    parser.add_argument("--settings", required=True, help=f"JSON object with {entries}")
    parser.add_argument("--out", type=Path, required=True, help="Zarr store of the shard")
    add_machine_arguments(parser)
    add_key_arguments(parser, after="a plan")


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where the network runs."""
    parser.add_argument("--device", default="auto", help="torch device; auto takes a GPU if there is one")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads, a network call each")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that share the regions of a shard")
    parser.add_argument("--batch-windows", type=int, default=32, help="windows in a GPU's network call")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    refuse_over(args.out, [args.image, args.plan, args.model])
    require_key(args.plan, args.after)
    machine = Machine.of(args.device, args.threads, args.batch_windows, args.gpus)
    settings = MendSettings(**json.loads(args.settings))
    print(keyed(mend_shard(args.image, args.plan, args.shard, args.model, settings, machine, args.out), args.key))
