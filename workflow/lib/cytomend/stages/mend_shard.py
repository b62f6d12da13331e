"""Mend the regions of one shard.

Reads source pixels, the plan and a checkpoint, and writes one Zarr group whose arrays hold the mended cells of the
section's lattice:

| array | dimensions | what |
|---|---|---|
| ``pixels`` | (cell, c, y, x) | values in the scanner's dtype; meaningful where the plan's label is the cell's region |
| ``corners`` | (cell, 2) | absolute (y, x) pixel of the cell's corner |
| ``region`` | (cell,) | region number |

Its attributes are the provenance: model, checkpoint hash, sampler, seed. A killed job keeps its finished regions, and
the next one continues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cytomend import __version__
from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.fuse import FusedDenoiser
from cytomend.diffusion.noise import PlaceNoise
from cytomend.diffusion.record import checkpoint_hash
from cytomend.diffusion.samplers import SAMPLERS, Sampler
from cytomend.diffusion.schedule import TIMES, cosine_alpha_bar
from cytomend.diffusion.windows import WindowDenoise, window_denoiser
from cytomend.errors import InputError
from cytomend.fingerprint import fingerprint
from cytomend.regions.canvas import read_canvas
from cytomend.regions.lattice import Layout
from cytomend.regions.plan import Plan
from cytomend.storage.identity import stamp
from cytomend.storage.images import open_image
from cytomend.storage.publish import manifest_of, one_writer, publish, read_manifest, write_whole
from cytomend.values import from_model, to_model

log = logging.getLogger(__name__)

CELLS_PER_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class MendSettings:
    """How to mend; see the block ``mend`` of ``workflow/schemas/config.schema.yaml``."""

    sampler: str
    steps: int
    jump: int
    resample: int
    seed: int
    eta: float = 0.0

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
            return replace(default, steps=self.steps, jump=self.jump, resample=self.resample)
        return replace(default, steps=self.steps, eta=self.eta)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the network runs; reaches no result beyond the last bits of another device."""

    device: torch.device
    threads: int
    batch_windows: int

    @classmethod
    def of(cls, device: str, threads: int, batch_windows: int) -> Machine:
        """Return the machine; ``auto`` is the GPU if there is one."""
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if threads < 1 or batch_windows < 1:
            raise InputError(f"--threads is {threads}, --batch-windows {batch_windows}; expected at least 1 of each")
        try:
            torch.empty(1, device=chosen).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise InputError(
                f"--device {device}: cannot be used here ({str(error).splitlines()[0]}); try cpu"
            ) from error
        return cls(torch.device(chosen), threads, batch_windows)


def mend_shard(
    image_path: Path, plan_folder: Path, shard: int, model: Path, settings: MendSettings, machine: Machine, out: Path
) -> Path:
    """Mend the regions that the plan gives to this shard and return the manifest of the store."""
    plan = Plan.read(plan_folder)
    mine = plan.regions[plan.regions["shard"] == shard]
    provenance = _provenance(model, settings)
    made_from = _hash(
        plan=read_manifest(manifest_of(plan_folder)),
        image=stamp(image_path),
        shard=shard,
        code=fingerprint("cytomend.stages.mend_shard"),
        **provenance,
    )
    with one_writer(out) as work, logging_redirect_tqdm():
        if out.exists() and manifest_of(out).exists() and read_manifest(manifest_of(out)).get("made_from") == made_from:
            shutil.rmtree(work)
            return manifest_of(out)
        done = work / "regions"
        _keep_only(work, made_from)
        done.mkdir(exist_ok=True)
        if len(mine):
            mend_region = _region_mender(image_path, plan, model, settings, machine)
            log.info(
                "section %s, shard %d: %d regions, %d windows, %s",
                plan.facts.section,
                shard,
                len(mine),
                mine["windows"].sum(),
                provenance,
            )
            bar = tqdm(total=int(mine["windows"].sum()), unit="window", desc=f"{plan.facts.section}", disable=None)
            for region, windows in zip(mine["region"].tolist(), mine["windows"].tolist(), strict=True):
                if not (done / f"{region}.npz").exists():
                    _mend_one(mend_region, region, done, plan.facts.section)
                bar.update(windows)
            bar.close()
        _gather(plan, mine["region"].tolist(), done, work / "store", {**provenance, "plan": plan_identity(plan_folder)})
        facts = {"section": plan.facts.section, "shard": shard, "regions": len(mine), "made_from": made_from}
        manifest = publish(work / "store", out, facts)
        shutil.rmtree(work)  # not before: a job killed while it publishes keeps its regions
        return manifest


def _mend_one(mend_region: Callable[[int], dict[str, NDArray[Any]]], region: int, done: Path, section: str) -> None:
    """Mend one region and keep it, whole or not at all."""
    since = time.monotonic()
    try:
        arrays = mend_region(region)
    except Exception:
        log.exception("section %s, region %d: failed", section, region)
        raise
    write_whole(done / f"{region}.npz", lambda path: np.savez(path, allow_pickle=False, **arrays))
    log.info("section %s, region %d: mended in %.1f s", section, region, time.monotonic() - since)


def _region_mender(
    image_path: Path, plan: Plan, model: Path, settings: MendSettings, machine: Machine
) -> Callable[[int], dict[str, NDArray[Any]]]:
    """Load the model once and return the function that mends one region."""
    facts = plan.facts
    denoiser, record = load_model(model, machine.device)
    if record.window_px != facts.window_px:
        raise InputError(
            f"{model}: window_px is {record.window_px}, the plan was made for {facts.window_px}; plan again"
        )
    denoise_windows = window_denoiser(denoiser, machine.device, batch=machine.batch_windows, threads=machine.threads)
    image = open_image(image_path)
    windows_of: dict[Any, pd.DataFrame] = dict(iter(plan.windows.groupby("region")))
    sampler = settings.choose()

    def mend_region(region: int) -> dict[str, NDArray[Any]]:
        layout = Layout.of(facts.lattice, windows_of[region][["row", "column"]].to_numpy())
        canvas = read_canvas(image.read, lambda box: np.asarray(plan.labels[box.slices]), facts.shape, layout)
        mended = fill(
            to_model(canvas.pixels, facts.value_range),
            canvas.numbers == 0,
            layout,
            denoise_windows,
            sampler,
            settings.seed,
            machine.device,
        )
        if not np.isfinite(mended).all():
            raise InputError(f"{model}: region {region}: the network's answer is not finite; train it again")
        own = (canvas.numbers == region).any(axis=(1, 2, 3))
        return {
            "pixels": from_model(mended[own], facts.value_range, np.dtype(facts.dtype)),
            "corners": layout.corners_px[own],
        }

    return mend_region


@torch.inference_mode()
def fill(
    image: NDArray[np.float32],
    known: NDArray[np.bool_],
    layout: Layout,
    denoise_windows: WindowDenoise,
    sampler: Sampler,
    seed: int,
    device: torch.device,
) -> NDArray[np.float32]:
    """Return the canvas with its unknown pixels drawn.

    Parameters
    ----------
    image : (k, C, c, c) in [-1, 1]; what stands at unknown pixels is not seen
    known : (k, 1, c, c)
    layout : cells and windows of the canvas
    denoise_windows : asks the network
    sampler : how to draw
    seed : of the noise, which belongs to the place
    """
    here, given = torch.from_numpy(known).to(device), torch.from_numpy(np.where(known, image, np.float32(0))).to(device)
    tables = (
        torch.from_numpy(table).to(device) for table in (layout.members, layout.sources, layout.lattice.weights())
    )
    corners = torch.from_numpy(layout.corners_px).to(device)
    states = sampler.run(
        denoise=FusedDenoiser(denoise_windows, *tables),
        image=given,
        known=here,
        alpha_bar=cosine_alpha_bar().to(device),
        noise=PlaceNoise(seed, corners, layout.lattice.cell_px, image.shape[1]),
    )
    return deque(states, maxlen=1).pop().cpu().numpy()


def _provenance(model: Path, settings: MendSettings) -> dict[str, Any]:
    """Return what stands in the metadata of everything that is made."""
    name = model.parent.name if model.name == "model.safetensors" else model.stem
    sampler = settings.choose()
    return {
        "cytomend": __version__,
        "model": name,
        "checkpoint_sha256": checkpoint_hash(model),
        **{f"sampler_{key}" if key != "name" else "sampler": value for key, value in asdict(sampler).items()},
        "network_calls": sampler.calls,
        "seed": settings.seed,
    }


def plan_identity(plan_folder: Path) -> str:
    """Return the checksum of a plan."""
    return str(read_manifest(manifest_of(plan_folder))["sha256"])


def _hash(**made_from: object) -> str:
    """Return the identity of all that a shard is made from."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _keep_only(work: Path, made_from: str) -> None:
    """Throw away what an earlier writer left, unless it was made from the very same."""
    note = work / "made-from"
    if note.exists() and note.read_text() == made_from:
        return
    for path in work.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    note.write_text(made_from)


def _gather(plan: Plan, regions: list[int], done: Path, store: Path, provenance: dict[str, Any]) -> None:
    """Turn the finished regions into one store, a region at a time."""
    facts = plan.facts
    cell_px, counts = facts.lattice.cell_px, []
    for region in regions:
        with np.load(done / f"{region}.npz", allow_pickle=False) as arrays:
            counts.append(len(arrays["corners"]))
    total = sum(counts)
    group = zarr.open_group(store, mode="w", zarr_format=3)
    pixels = group.create_array(
        "pixels",
        shape=(total, facts.channels, cell_px, cell_px),
        chunks=(min(CELLS_PER_CHUNK, max(total, 1)), facts.channels, cell_px, cell_px),
        dtype=facts.dtype,
        dimension_names=("cell", "c", "y", "x"),
        overwrite=True,
    )
    corners, start = np.zeros((total, 2), dtype=np.int64), 0
    for region, count in zip(regions, counts, strict=True):
        with np.load(done / f"{region}.npz", allow_pickle=False) as arrays:
            pixels[start : start + count] = arrays["pixels"]
            corners[start : start + count] = arrays["corners"]
        start += count
    group.create_array("corners", data=corners, dimension_names=("cell", "axis"), overwrite=True)
    group.create_array(
        "region", data=np.repeat(np.array(regions, dtype=np.int64), counts), dimension_names=("cell",), overwrite=True
    )
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


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where the network runs."""
    parser.add_argument("--device", default="auto", help="torch device; auto takes a GPU if there is one")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads, a window each")
    parser.add_argument("--batch-windows", type=int, default=32, help="windows in a GPU's network call")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    machine = Machine.of(args.device, args.threads, args.batch_windows)
    settings = MendSettings(**json.loads(args.settings))
    print(mend_shard(args.image, args.plan, args.shard, args.model, settings, machine, args.out))
