"""Train a classifier of layers or areas, on phantoms, on labelled sections, or on both.

Reads a training file (``workflow/schemas/classifier.schema.yaml``) and writes into one folder:

| file | what |
|---|---|
| ``model.safetensors`` | the weights with the lowest validation loss so far, with their settings record |
| ``training.safetensors`` | everything that resuming needs, rewritten at every report; all else follows from it |
| ``loss.tsv`` | step, seconds (of training so far), train_loss, validation_loss (cross entropy), top1, top2 (shares) |
| ``MODEL_CARD.md`` | what the classifier is, was trained on, takes for what, and is not good for |

A training that was interrupted goes on from its last report, with the same curve.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from cytomend import __version__
from cytomend.classification.agreement import agreement
from cytomend.classification.areas import LabelledSection
from cytomend.classification.card import write_card
from cytomend.classification.patches import LabelledBatch, LabelledPatches, LabelledTissue, Phantoms
from cytomend.classification.record import ClassifierSettings, save_classifier
from cytomend.classification.training import Training, TrainingSettings, drawn_ahead
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.settings import Record, one_line, read_yaml, schema
from cytomend.storage.identity import image_identity
from cytomend.storage.images import open_image
from cytomend.storage.publish import locked, told_if_disk_is_full, write_whole

log = logging.getLogger(__name__)

STATE = "training.safetensors"
MODEL = "model.safetensors"
SIDES = ("training", "validation")
NOT_LEARNED = {"licence", "attribution"}
VALIDATION_BATCH = 32

Row = dict[str, float]


def train_classifier(config: Path, out: Path, device: str = "cpu") -> Path:
    """Train as the file says, resuming what an earlier call left in ``out``; return the classifier.

    Raises
    ------
    InputError
        If the file or a source of it cannot be used, or ``out`` holds a training with other settings.
    """
    settings = read_settings(config)
    data = read_data(config, settings)
    with locked(out / MODEL), told_if_disk_is_full(out):
        course = Course(config, settings, data, out, device)
        course.begin()
        course.run()
    return out / MODEL


def read_settings(config: Path) -> Record:
    """Read and check a training file.

    Raises
    ------
    InputError
        If an entry cannot be used, a file is missing, or the same tissue is on both sides.
    """
    settings = read_yaml(config, "classifier")
    for side in SIDES:
        settings[side] = [_with_defaults(source) for source in settings[side]]
    low, high = settings["sides_px"]
    if low > high:
        raise InputError(f"{config}: sides_px is [{low}, {high}], expected the smaller one first")
    largest = max(high, settings["patch_px"])
    for side, number, source in _numbered(settings):
        where = f"{config}: {side}.{number}"
        if "phantom" in source and source["phantom"]["size_px"] < largest:
            raise InputError(
                f"{where}.phantom.size_px is {source['phantom']['size_px']}, expected at least {largest}, the largest"
                " patch that is cut from it (sides_px, patch_px)"
            )
        for key in {"image", "areas", "names"} & source.keys():
            if not Path(source[key]).exists():
                raise InputError(f"{where}.{key}: {source[key]}: no such file or folder, seen from {Path.cwd()}")
        if "value_range" in source and not source["value_range"][0] < source["value_range"][1]:
            raise InputError(f"{where}.value_range is {source['value_range']}, expected [low, high], low first")
    _check_apart(config, settings)
    return settings


def _with_defaults(source: Record) -> Record:
    """Fill in what a source leaves out; the schema's alternatives are not completed by reading it."""
    kind = schema("classifier")["$defs"]["phantom" if "phantom" in source else "section"]["properties"]
    whole = {**{key: rule["default"] for key, rule in kind.items() if "default" in rule}, **source}
    if "phantom" in source:
        whole["phantom"] = {"layers_of": "any area", **source["phantom"]}
    return whole


def _numbered(settings: Record) -> list[tuple[str, int, Record]]:
    return [(side, number, source) for side in SIDES for number, source in enumerate(settings[side])]


def _check_apart(config: Path, settings: Record) -> None:
    """Refuse tissue that is learned from and held out at once: scans by their content, phantoms by their seeds."""
    seeds = {side: [_seeds(source) for source in settings[side] if "phantom" in source] for side in SIDES}
    for a in seeds["training"]:
        for b in seeds["validation"]:
            if not (both := a.intersect(b)).is_empty:
                raise InputError(
                    f"{config}: the phantoms of the seeds {both.y0} to {both.y1 - 1} are learned from and held out;"
                    " give validation other seeds"
                )
    hashes = [
        (side, source["image"], image_identity(Path(source["image"])))
        for side, _, source in _numbered(settings)
        if "image" in source
    ]
    learned = {digest: image for side, image, digest in hashes if side == "training"}
    for side, image, digest in hashes:
        if side == "validation" and digest in learned:
            raise InputError(
                f"{config}: {image} is held out, and {learned[digest]}, the same scan, is learned from; hold out"
                " another section"
            )


def _seeds(source: Record) -> Box:
    phantom = source["phantom"]
    return Box(
        phantom["seed"], 0, phantom["seed"] + phantom["count"], 1
    )  # seeds are to phantoms what rows are to scans


@dataclass(frozen=True, slots=True)
class Data:
    """What is learned from and what is held out; ``classes`` maps each class to the names that belong to it."""

    training: list[LabelledTissue]
    validation: list[LabelledTissue]
    classes: dict[str, tuple[str, ...]]
    record: Record


def read_data(config: Path, settings: Record) -> Data:
    """Open all sources.

    Raises
    ------
    InputError
        If one cannot be used, or a class is shown on one side only.
    """
    tissue = {
        side: [_open(f"{config}: {side}.{number}", source, settings) for number, source in enumerate(settings[side])]
        for side in SIDES
    }
    shown = {side: list(dict.fromkeys(name for piece in tissue[side] for name in piece.names)) for side in SIDES}
    given: dict[str, list[str]] = settings.get("classes") or {name: [name] for name in shown["training"]}
    for side in SIDES:
        if absent := [name for name, members in given.items() if not set(members) & set(shown[side])]:
            raise InputError(
                f"{config}: class {absent[0]!r} is not shown by any tissue of {side}, expected it on both sides; found"
                f" {', '.join(shown[side]) or 'no areas'}"
            )
    if len(given) < 2:
        raise InputError(
            f"{config}: found one class, {next(iter(given), 'none')!r}, expected at least two to tell apart"
        )
    record = {side: [_told(source) for source in settings[side]] for side in SIDES}
    classes = {name: tuple(members) for name, members in given.items()}
    return Data(tissue["training"], tissue["validation"], classes, record)


def _open(where: str, source: Record, settings: Record) -> LabelledTissue:
    if "phantom" in source:
        phantom = source["phantom"]
        return Phantoms(
            phantom["count"],
            phantom["size_px"],
            phantom["seed"],
            layers_of=phantom["layers_of"],
            areas=phantom.get("areas"),
            pixel_size_um=settings["pixel_size_um"],
            weight=source["weight"],
        )
    image = Path(source["image"])
    with open_image(image) as opened:
        pixel_size_um = source.get("pixel_size_um", opened.pixel_size_um)
    if pixel_size_um is None:
        raise InputError(f"{where}: {image} does not say its pixel size; give pixel_size_um")
    low_high = source.get("value_range")
    return LabelledSection(
        image,
        Path(source["areas"]),
        pixel_size_um=pixel_size_um,
        wanted_um=settings["pixel_size_um"],
        names=Path(source["names"]) if "names" in source else None,
        values=(low_high[0], low_high[1]) if low_high else None,
        weight=source["weight"],
    )


def _told(source: Record) -> Record:
    """Return what the record says of a source: names of files, not where they lay, and their content."""
    if "phantom" in source:
        return source
    files = {key: Path(source[key]) for key in ("image", "areas", "names") if key in source}
    content = "-".join(image_identity(path)[:16] for path in files.values())
    return {**source, **{key: path.name for key, path in files.items()}, "hash": content}


class Course:
    """One training, from its first step or where it was interrupted to its last."""

    def __init__(self, config: Path, settings: Record, data: Data, out: Path, device: str) -> None:
        self.config, self.settings, self.data, self.out = config, settings, data, out
        keys = ("steps", "learning_rate", "warmup_steps", "weight_decay", "label_smoothing", "seed")
        how = TrainingSettings(**{key: settings[key] for key in keys}, data=self._identity())
        self.training = Training(tuple(settings["widths"]), len(data.classes), how, device)
        drawn = {"classes": data.classes, "share": settings["share"]}
        low, high = settings["sides_px"]
        self.patches = LabelledPatches(
            data.training, sides_px=(low, high), batch=settings["batch"], seed=settings["seed"], **drawn
        )
        self.held_out = LabelledPatches(
            data.validation,
            sides_px=(settings["patch_px"],) * 2,
            batch=VALIDATION_BATCH,
            seed=settings["seed"] + 1,
            augmented=False,
            **drawn,
        )
        self.rows: list[Row] = []
        self.confusion: list[list[int]] = []

    def _identity(self) -> str:
        """Name what is learned by its content; other licences or steps between reports change nothing."""
        drawn = ("widths", "pixel_size_um", "sides_px", "patch_px", "share", "batch", "validation_patches")
        named = {
            side: [
                {key: value for key, value in source.items() if key not in NOT_LEARNED}
                for source in self.data.record[side]
            ]
            for side in SIDES
        }
        return one_line({**named, "classes": self.data.classes, **{key: self.settings[key] for key in drawn}})

    def begin(self) -> None:
        """Resume what an earlier training left, if it left something."""
        state, model = self.out / STATE, self.out / MODEL
        if state.exists():
            notes = self.training.resume(state)
            self.rows, self.confusion = notes["rows"], notes["confusion"]
            log.info("resuming after step %d", self.training.steps_done)
            self._show()
        elif model.exists():
            raise InputError(
                f"{model}: expected no model or one with its {STATE}, found a finished model, which would be"
                " overwritten; give another --out, or move the model away"
            )

    def run(self) -> None:
        """Take the steps that are left; report, save, and keep the best weights as they come."""
        training, steps = self.training, self.settings["steps"]
        if training.steps_done == steps:
            return
        log.info(
            "%d weights; classes %s",
            sum(p.numel() for p in training.network.parameters()),
            ", ".join(self.data.classes),
        )
        try:
            held_out = self._held_out()
            since, losses = time.monotonic(), list[float]()
            for batch in drawn_ahead(self.patches, range(training.steps_done, steps)):
                losses.append(training.step(batch))
                if training.steps_done % self.settings["report_every"] == 0 or training.steps_done == steps:
                    self._report(time.monotonic() - since, float(np.mean(losses)), held_out)
                    since, losses = time.monotonic(), []
        except ValueError as error:  # no patch of some side
            raise InputError(f"{self.config}: {error}; lower share or sides_px, or draw larger areas") from error

    def _held_out(self) -> list[LabelledBatch]:
        """Return the patches on which it is decided which weights are kept."""
        count = self.settings["validation_patches"]
        batches = [self.held_out.draw(i) for i in range(-(-count // VALIDATION_BATCH))]
        rest = count - VALIDATION_BATCH * (len(batches) - 1)
        return [*batches[:-1], LabelledBatch(*(part[:rest] for part in batches[-1]))]

    def _report(self, seconds: float, train_loss: float, held_out: list[LabelledBatch]) -> None:
        """Save the state after these steps, and show it."""
        training, labels = self.training, torch.cat([batch.label for batch in held_out])
        logits = training.logits(held_out)
        validation_loss = float(cross_entropy(logits, labels))
        if not math.isfinite(train_loss + validation_loss):
            raise InputError(
                f"{self.config}: the loss is no longer finite at step {training.steps_done}; lower learning_rate and"
                " train anew"
            )
        found = agreement(logits.numpy(), labels.numpy())
        better = all(validation_loss < row["validation_loss"] for row in self.rows)
        before = self.rows[-1]["seconds"] if self.rows else 0.0
        row = {"step": training.steps_done, "seconds": round(before + seconds, 1), "train_loss": train_loss}
        self.rows.append({**row, "validation_loss": validation_loss, "top1": found.top1, "top2": found.top2})
        log.info(
            "step %d of %d: loss %.4f, held out %.4f%s, top-1 %.3f, top-2 %.3f, %.2f s a step",
            training.steps_done,
            self.settings["steps"],
            train_loss,
            validation_loss,
            " (lowest so far)" if better else "",
            found.top1,
            found.top2,
            seconds / (training.steps_done - int(self.rows[-2]["step"] if len(self.rows) > 1 else 0)),
        )
        if better:
            training.keep()
            self.confusion = found.confusion.tolist()
        # The state first: all else is made from it, and made again by a training that resumes.
        training.save(self.out / STATE, {"rows": self.rows, "confusion": self.confusion})
        self._show()

    def _show(self) -> None:
        """Write the kept weights, their card and the curve."""
        table = pd.DataFrame(self.rows)
        write_whole(self.out / "loss.tsv", lambda path: table.to_csv(path, sep="\t", index=False, float_format="%.6g"))
        best = min(self.rows, key=lambda row: row["validation_loss"])
        record = ClassifierSettings(
            classes=tuple(self.data.classes),
            widths=tuple(self.settings["widths"]),
            pixel_size_um=self.settings["pixel_size_um"],
            patch_px=self.settings["patch_px"],
            training={
                "cytomend": __version__,
                "settings": {key: value for key, value in self.settings.items() if key not in SIDES},
                **self.data.record,
                "seconds": best["seconds"],
                "validated": best,
                "confusion": self.confusion,
            },
        )
        save_classifier(self.out / MODEL, self.training.kept, record)
        write_card(self.out, record)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("config", type=Path, help="training file, for example config/classifier.yaml")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the classifier; an unfinished training in it is resumed"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    print(train_classifier(args.config, args.out, args.device))
