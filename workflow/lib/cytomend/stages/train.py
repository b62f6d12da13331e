"""Train a model on sections and phantoms, in one process or, under torchrun, in many.

Reads a training file (``workflow/schemas/train.schema.yaml``) and writes into one folder:

| file | what |
|---|---|
| ``model.safetensors`` | the averaged weights with the lowest validation loss so far, with their settings record |
| ``training.safetensors`` | everything that resuming needs, rewritten at every report; all else follows from it |
| ``loss.tsv`` | step, seconds (of training so far), train_loss and validation_loss (mean squared error of v) |
| ``loss.png`` | the same as curves |
| ``samples.png`` | held-out patches: original, damaged, mended; and patches drawn from nothing |
| ``MODEL_CARD.md`` | what the model is, was trained on, and is not good for |
| ``patches/`` | patch stores of the sections of sheets, unless they were gathered elsewhere (``--patches``) |
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
import torch

from cytomend.diffusion.checkpoint import load_model, save_model
from cytomend.diffusion.colour import spread_over_colours
from cytomend.diffusion.feed import Key, feed
from cytomend.diffusion.patches import Patches, Tissue
from cytomend.diffusion.processes import Processes, joined
from cytomend.diffusion.record import ModelSettings, checkpoint_hash
from cytomend.diffusion.schedule import TIMES
from cytomend.diffusion.training import Training, TrainingSettings
from cytomend.errors import InputError
from cytomend.places import model_file
from cytomend.report.model_card import draw_losses, draw_samples, write_card
from cytomend.settings import one_line
from cytomend.stages.gather_patches import gather_patches, is_gathered, settings_from
from cytomend.storage.publish import locked, told_if_disk_is_full, write_whole
from cytomend.training_data import TrainingData, read_data, store_of
from cytomend.training_file import SIDES, TrainingFile, read_training_file

log = logging.getLogger(__name__)

STATE = "training.safetensors"
MODEL = "model.safetensors"
SAMPLES = "samples.png"
SHOWN = (MODEL, "MODEL_CARD.md", "loss.tsv", "loss.png", SAMPLES)
"""What is made of a state."""
MOST_WORKERS = 16
POLL_SECONDS = 0.5

Row = dict[str, float]


def train(
    config: Path,
    out: Path,
    device: str,
    *,
    stores: Path | None = None,
    workers: int | None = None,
    set_aside: bool = False,
) -> Path:
    """Train as the file says, resuming what an earlier call left in ``out``; return the checkpoint.

    Parameters
    ----------
    config : training file
    out : folder of the model
    device : torch device
    stores : folder with the patch stores of all sections of sheets; by default they are gathered into ``out``
    workers : processes that draw patches ahead; by default one a core if a GPU trains, and none if the cores do
    set_aside : rename a training with other settings, or a model, that is found in ``out``, instead of refusing

    Raises
    ------
    InputError
        If the file or a source of it cannot be used, or ``out`` holds a training with other settings or another model.
    """
    if workers is not None and workers < 0:
        raise InputError(f"--workers {workers}: expected 0 or more")
    training_file = read_training_file(config)
    _check_start(training_file, out)
    if held_out := sorted(name for name, section in training_file.sections.items() if section.side == "validation"):
        log.info("%d of %d sections held out: %s", len(held_out), len(training_file.sections), ", ".join(held_out[:20]))
    with joined(device) as processes, locked(out / MODEL) if processes.leads else nullcontext():
        if stores is None:
            gather_all(training_file, out / "patches", leads=processes.leads)
        data = read_data(training_file, stores or out / "patches")
        course = Course(training_file, data, processes, _workers(processes, workers), out)
        with told_if_disk_is_full(out):
            course.begin(set_aside=set_aside)
            course.run()
    return out / MODEL


def _check_start(training: TrainingFile, out: Path) -> None:
    """Refuse to train over the model that training starts from."""
    if "start_from" in training.settings:
        path = model_file(training.settings["start_from"])
        if out.resolve() in {path.parent.resolve(), path.resolve().parent}:
            raise InputError(
                f"{training.path}: start_from names {path}, which lies in --out and would be overwritten; give another"
                " --out"
            )


def _workers(processes: Processes, asked: int | None) -> int:
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(cores // processes.here - 1, 1)) if processes.device.type == "cuda" else 0


def gather_all(training: TrainingFile, folder: Path, *, leads: bool) -> None:
    """Gather the patches of all sections of sheets, one after the other; processes that do not lead wait for them."""
    for section in training.sections.values():
        what = (section.image, section.annotations, settings_from(section.gather), store_of(folder, section))
        if leads:
            gather_patches(*what)
        while not is_gathered(*what):  # torchrun ends us if the leading process fails
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Start:
    """The model that training starts from."""

    name: str
    sha256: str
    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, training: TrainingFile) -> Start | None:
        """Read the model that a training file names, if it names one.

        Raises
        ------
        InputError
            If there is none, or its network is another; an RGB network may start from a grey one of its shape.
        """
        if "start_from" not in training.settings:
            return None
        path = model_file(training.settings["start_from"])
        denoiser, record = load_model(path)
        theirs, ours = (
            {**asdict(unet), "times": times} for unet, times in ((record.unet, record.times), (training.unet, TIMES))
        )
        coloured = (record.unet.channels, training.unet.channels) == (1, 3)
        if other := [key for key in ours if theirs[key] != ours[key] and not (coloured and key == "channels")]:
            differences = "; ".join(f"network.{key} is {ours[key]}, expected {theirs[key]}" for key in other)
            raise InputError(
                f"{training.path}: start_from names {path}, whose network is another: {differences}; use its"
                " network, or leave start_from out"
            )
        weights = denoiser.network.state_dict()
        if coloured:
            weights = spread_over_colours(weights, training.unet)
        return cls(path.parent.name, checkpoint_hash(path), weights)


class Course:
    """One training, from its first step or where it was interrupted to its last."""

    def __init__(
        self, training_file: TrainingFile, data: TrainingData, processes: Processes, workers: int, out: Path
    ) -> None:
        self.file, self.settings, self.data = training_file, training_file.settings, data
        self.processes, self.workers, self.out = processes, workers, out
        self.parts = processes.count * self.settings["accumulate"]
        self.start = Start.of(training_file)
        self.training = Training(training_file.unet, self._how(), processes, compiled=self.settings["compile"])
        if self.start is not None:
            self.training.start_from(self.start.weights)
        seed = self.settings["seed"]
        self.patches = self._patches(data.sources, self.settings["batch"], seed)
        self.held_out = self._patches(data.validation, self.settings["validation_patches"], seed + 1)
        self.rows: list[Row] = []

    def _how(self) -> TrainingSettings:
        if self.settings["batch"] % self.parts:
            raise InputError(
                f"{self.file.path}: batch is {self.settings['batch']}, expected a multiple of {self.parts}:"
                f" {self.processes.count} process(es), each in {self.settings['accumulate']} part(s) (accumulate)"
            )
        keys = (
            "steps",
            "batch",
            "learning_rate",
            "warmup_steps",
            "average_decay",
            "border_weight",
            "precision",
            "seed",
        )
        drawn = ("window_px", "constant_share", "resample_share", "validation_patches")
        return TrainingSettings(
            **{key: self.settings[key] for key in keys},
            start_from="" if self.start is None else self.start.sha256,
            data=one_line({"identity": self.data.identity, **{key: self.settings[key] for key in drawn}}),
        )

    def _patches(self, tissue: list[Tissue], batch: int, seed: int) -> Patches:
        shares = (self.settings["constant_share"], self.settings["resample_share"])
        return Patches(tissue, self.settings["window_px"], batch, TIMES, seed, *shares)

    def begin(self, *, set_aside: bool) -> None:
        """Resume what an earlier training left, if it left something.

        Raises
        ------
        InputError
            If that had other settings or is damaged, or there is a model without the state it was made of.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        if self.processes.leads:  # of a killed writer; the lock is ours
            for name in (STATE, MODEL):
                for left in self.out.glob(f".{name}.[0-9]*"):
                    left.unlink(missing_ok=True)
        state, model = self.out / STATE, self.out / MODEL
        if not state.exists() and not model.exists():
            return
        if not state.exists() and not set_aside:
            raise InputError(
                f"{model}: expected no model or one with its {STATE}, found a finished model, which would be"
                " overwritten; give another --out, or move the model away (--set-aside renames it)"
            )
        if set_aside and (difference := self.training.differs(state) if state.exists() else f"there is no {STATE}"):
            log.warning("what is in %s is set aside, for it is of another training: %s", self.out, difference)
            self.processes.total(torch.zeros(1, device=self.processes.device))  # all have looked
            if self.processes.leads:
                self._set_aside()
            return
        self.rows = self.training.resume(state)["rows"]
        log.info("resuming after step %d", self.training.steps_done)
        if self.processes.leads:  # what was made of the state may be older than it, or gone
            self._show()
            self._keep()
            if not (self.out / SAMPLES).exists():
                self._draw()

    def _set_aside(self) -> None:
        """Rename all that a training left, with one time stamp."""
        now = time.time_ns()
        for name in (STATE, *SHOWN):
            path = self.out / name
            if path.exists():
                path.rename(path.with_name(f"{path.stem}.{now}{path.suffix}"))

    def run(self) -> None:
        """Take the steps that are left; report, save, and keep the best weights as they come."""
        steps, training = self.settings["steps"], self.training
        if training.steps_done == steps:
            return
        log.info(
            "%d weights; %d pieces of tissue to learn from, %d held out; %d process(es), %d part(s) a step, %s;"
            " a line every %d steps",
            sum(p.numel() for p in training.network.parameters()),
            len(self.data.sources),
            len(self.data.validation),
            self.processes.count,
            self.parts,
            self.processes.device,
            self.settings["report_every"],
        )
        held_out = list(feed(self.held_out, self._held_out_keys, self.workers, pin=False))
        batches = feed(self.patches, self._keys, self.workers, pin=self.processes.device.type == "cuda")
        since, losses = time.monotonic(), list[torch.Tensor]()
        while training.steps_done < steps:
            losses.append(training.step(*islice(batches, self.settings["accumulate"])))
            done = training.steps_done
            if done % self.settings["report_every"] == 0 or done == steps:
                train_loss = float(torch.stack(losses).mean())  # waits for the GPU, so the time is that of the steps
                seconds, since, losses = time.monotonic() - since, time.monotonic(), []
                self._report(seconds, train_loss, training.validation_loss(held_out))
            if self.processes.leads and (done % self.settings["sample_every"] == 0 or done == steps):
                self._draw()

    def _keys(self) -> Iterator[Key]:
        """Yield this process's parts of the batches of all steps that are left."""
        accumulate = self.settings["accumulate"]
        for step in range(self.training.steps_done, self.settings["steps"]):
            for part in range(accumulate):
                yield step, range(self.processes.rank * accumulate + part, self.settings["batch"], self.parts)

    def _held_out_keys(self) -> Iterator[Key]:
        """Yield this process's parts of the held-out patches, none larger than a part of a step."""
        patches, count = self.settings["validation_patches"], self.processes.count
        parts = count * -(-patches // (count * (self.settings["batch"] // self.parts)))
        for part in range(self.processes.rank, min(parts, patches), count):
            yield 0, range(part, patches, parts)

    def _report(self, seconds: float, train_loss: float, validation_loss: float) -> None:
        """Save the state after these steps, and show it."""
        done = self.training.steps_done
        if not math.isfinite(train_loss + validation_loss):
            raise InputError(
                f"{self.file.path}: the loss is no longer finite at step {done} of {self.settings['steps']}; lower"
                " learning_rate, lengthen warmup_steps, or use precision: float32, and train anew"
                + (f"; the weights kept so far are in {self.out / MODEL}" if self.training.kept else "")
            )
        better = all(validation_loss < row["validation_loss"] for row in self.rows)
        before = self.rows[-1]["seconds"] if self.rows else 0.0
        row = {"step": done, "seconds": round(before + seconds, 1)}
        self.rows.append({**row, "train_loss": train_loss, "validation_loss": validation_loss})
        a_step = seconds / (done - int(self.rows[-2]["step"] if len(self.rows) > 1 else 0))
        log.info(
            "step %d of %d: loss %.5f, held out %.5f%s, %.3f s a step, about %.0f min left",
            done,
            self.settings["steps"],
            train_loss,
            validation_loss,
            " (lowest so far)" if better else "",
            a_step,
            a_step * (self.settings["steps"] - done) / 60,
        )
        if self.processes.leads:
            if better:
                self.training.keep()
            # The state first: all else is made from it, and made again by a training that resumes.
            self.training.save(self.out / STATE, {"rows": self.rows})
            self._show()
            if better or done == self.settings["steps"]:
                self._keep()

    def _show(self) -> None:
        table = pd.DataFrame(self.rows)
        write_whole(self.out / "loss.tsv", lambda path: table.to_csv(path, sep="\t", index=False, float_format="%.6g"))
        draw_losses(self.rows, self.out / "loss.png")

    def _keep(self) -> None:
        """Write the kept weights and their card."""
        best = min(self.rows, key=lambda row: row["validation_loss"])
        told = {key: value for key, value in self.settings.items() if key not in {*SIDES, "start_from"}}
        start = {} if self.start is None else {"start_from": {"model": self.start.name, "sha256": self.start.sha256}}
        record = ModelSettings(
            unet=self.file.unet,
            times=TIMES,
            window_px=self.settings["window_px"],
            pixel_size_um=self.settings["pixel_size_um"],
            training={"settings": told, **self.data.record, **start, "seconds": best["seconds"], "loss": best},
        )
        save_model(self.out / MODEL, self.training.kept, record)
        write_card(self.out, record)

    def _draw(self) -> None:
        """Draw samples of the kept weights."""
        draw_samples(self.training.averaged(self.training.kept or None), self.held_out, self.out / SAMPLES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("config", type=Path, help="training file, for example config/train/tiny.yaml")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model; an unfinished training in it is resumed"
    )
    parser.add_argument(
        "--patches", type=Path, help="folder of the patch stores of sections (default: gathered into OUT/patches)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--workers", type=int, help="processes that draw patches ahead (default: cores, for a GPU)")
    parser.add_argument(
        "--set-aside", action="store_true", help="rename another training or model in OUT, instead of refusing"
    )


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger().setLevel(logging.WARNING)
    done = train(
        args.config,
        args.out,
        args.device,
        stores=args.patches,
        workers=args.workers,
        set_aside=args.set_aside,
    )
    if os.environ.get("RANK", "0") == "0":
        print(done)
