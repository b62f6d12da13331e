"""Train a cell segmenter, a contour proposal network, on phantoms and labelled images.

Reads a training file (``workflow/schemas/segmenter.schema.yaml``) and writes into one folder:

| file | what |
|---|---|
| ``model.safetensors`` | the weights with the highest F1 on held-out phantoms so far, with their settings record |
| ``training.safetensors`` | everything that resuming needs, rewritten at every report |
| ``loss.tsv`` | the curve, see below |
| ``MODEL_CARD.md`` | what the model is and was trained on |

Columns of ``loss.tsv``: ``step``, ``seconds`` (of training so far), ``loss`` and its parts ``score`` (binary
cross-entropy), ``contour`` and ``refined`` (px), ``f1_50`` and ``f1_70`` (held-out phantoms, at an intersection over
union of 0.5 and 0.7).
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch

from cytomend.errors import InputError
from cytomend.places import TEMPLATES
from cytomend.report.model_card import code, plain
from cytomend.segmentation.cpn import ContourProposalNetwork
from cytomend.segmentation.cpn_segmenter import CpnSegmenter, save_segmenter
from cytomend.segmentation.pictures import Labelled, Phantoms, Picture, Pictures
from cytomend.segmentation.polygons import Polygons, match, polygons
from cytomend.segmentation.record import CpnRecord, CpnSettings
from cytomend.segmentation.table import table_contours
from cytomend.segmentation.training import Batch, Training, TrainingSettings
from cytomend.settings import one_line, read_yaml
from cytomend.storage.publish import locked, told_if_disk_is_full, write_whole

log = logging.getLogger(__name__)

STATE, MODEL = "training.safetensors", "model.safetensors"
RESERVED_SEED = 900_000
"""Phantoms from here on belong to evaluations."""

Row = dict[str, float]


def train_segmenter(config: Path, out: Path, device: str = "cpu") -> Path:
    """Train as the file says, resuming what an earlier call left in ``out``; return the checkpoint.

    Raises
    ------
    InputError
        If the file cannot be used, or ``out`` holds a training with other settings or a model without its state.
    """
    settings = read_yaml(config, "segmenter")
    check_seeds(config, settings)
    with locked(out / MODEL), told_if_disk_is_full(out):
        course = Course(config, settings, out, device)
        course.begin()
        course.run()
    return out / MODEL


def check_seeds(config: Path, settings: dict[str, Any]) -> None:
    """Refuse to validate on phantoms that are learned from, and to learn from those of evaluations and demo."""
    learned, held_out = (
        range(settings[side]["seed"], settings[side]["seed"] + settings[side]["count"])
        for side in ("phantoms", "validation")
    )
    if learned.start < held_out.stop and held_out.start < learned.stop:
        raise InputError(
            f"{config}: validation has seeds {held_out.start} to {held_out.stop - 1}, expected none of those of"
            f" phantoms, {learned.start} to {learned.stop - 1}"
        )
    if learned.stop > RESERVED_SEED or {1, 2} & set(learned):
        raise InputError(
            f"{config}: phantoms has seeds {learned.start} to {learned.stop - 1}, expected none of 1 and 2 (demo) and"
            f" none from {RESERVED_SEED} on (evaluation)"
        )


class Course:
    """One training, from its first step or where it was interrupted to its last."""

    def __init__(self, config: Path, settings: dict[str, Any], out: Path, device: str) -> None:
        self.config, self.settings, self.out, self.device = config, settings, out, device
        self.sources, self.data = learned_from(settings)
        self.held_out = phantoms(settings, "validation")
        network = settings["network"]
        keys = ("view_px", "steps", "batch", "learning_rate", "warmup_steps", "precision", "seed")
        how = TrainingSettings(
            network=CpnSettings(**{**network, "widths": tuple(network["widths"])}),
            data=one_line({"data": self.data, "pixel_size_um": settings["pixel_size_um"]}),
            **{key: settings[key] for key in keys},
        )
        if how.view_px % how.network.divisor_px:
            raise InputError(f"{config}: view_px is {how.view_px}, expected a multiple of {how.network.divisor_px}")
        self.training = Training(how, self.sources, device)
        self.rows: list[Row] = []

    def begin(self) -> None:
        """Resume what an earlier training left, if it left something."""
        state = self.out / STATE
        if state.exists():
            self.rows = self.training.resume(state)["rows"]
            log.info("resuming after step %d", self.training.steps_done)
            if self.rows:
                self._show()
            return
        if (self.out / MODEL).exists():
            raise InputError(
                f"{self.out / MODEL}: expected no model or one with its {STATE}, found a finished model, which would be"
                " overwritten; give another --out, or move the model away"
            )
        self.training.save(state, {"rows": []})  # from now on no model stands here without its state

    def run(self) -> None:
        """Take the steps that are left; report and save as they come."""
        training, steps, every = self.training, self.settings["steps"], self.settings["report_every"]
        weights = sum(p.numel() for p in training.network.parameters())
        log.info(
            "%d weights; %d sets of pictures; %s; a line every %d steps", weights, len(self.sources), self.device, every
        )
        since, parts = time.monotonic(), list[Row]()
        for batch in self._batches():
            parts.append(training.step(batch))
            done = training.steps_done
            if done % every == 0 or done == steps:
                means = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
                seconds, parts = time.monotonic() - since, []
                self._report(seconds, means)
                since = time.monotonic()

    def _batches(self) -> Iterator[Batch]:
        """Yield the batches of the steps that are left; the next is drawn while one is learned from."""
        with ThreadPoolExecutor(1) as drawing:
            left = range(self.training.steps_done, self.settings["steps"])
            ahead = [drawing.submit(self.training.draw, step) for step in left[:1]]
            for step in left:
                batch = ahead.pop().result()
                if step + 1 in left:
                    ahead.append(drawing.submit(self.training.draw, step + 1))
                yield batch

    def _report(self, seconds: float, means: Row) -> None:
        done = self.training.steps_done
        if not math.isfinite(means["loss"]):
            raise InputError(
                f"{self.config}: the loss is no longer finite at step {done}; lower learning_rate, train anew"
            )
        network = copy.deepcopy(self.training.network)
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        record = CpnRecord(network=network.settings, pixel_size_um=self.settings["pixel_size_um"])
        scores = held_out_f1(network, record, self.held_out, self.device)
        before = self.rows[-1]["seconds"] if self.rows else 0.0
        row = {"step": done, "seconds": round(before + seconds, 1), **means, **scores}
        better = all(_rank(row) > _rank(other) for other in self.rows)
        self.rows.append(row)
        log.info(
            "step %d of %d: loss %.3f (score %.3f, contour %.2f px, refined %.2f px), F1 %.3f at 0.5, %.3f at 0.7;"
            " %.2f s a step",
            done,
            self.settings["steps"],
            *(means[name] for name in ("loss", "score", "contour", "refined")),
            *scores.values(),
            seconds / (done - (int(self.rows[-2]["step"]) if len(self.rows) > 1 else 0)),
        )
        if better:
            self._keep(weights, record, row)
        # The state last: a training killed before it takes these steps again, and makes the same model.
        self.training.save(self.out / STATE, {"rows": self.rows})
        self._show()

    def _show(self) -> None:
        table = pd.DataFrame(self.rows)
        write_whole(self.out / "loss.tsv", lambda path: table.to_csv(path, sep="\t", index=False, float_format="%.6g"))

    def _keep(self, weights: dict[str, torch.Tensor], record: CpnRecord, row: Row) -> None:
        told = {key: value for key, value in self.settings.items() if key not in {"phantoms", "validation", "labelled"}}
        facts = {"settings": told, "data": self.data, "held_out": self.settings["validation"], "kept": row}
        record = CpnRecord(record.network, record.pixel_size_um, record.score, record.overlap, facts)
        save_segmenter(self.out / MODEL, weights, record)
        card = model_card(record, (self.out / MODEL).stat().st_size)
        write_whole(self.out / "MODEL_CARD.md", lambda path: path.write_text(card, encoding="utf-8"))


def _rank(row: Row) -> float:
    return row["f1_50"] + row["f1_70"]


def phantoms(settings: dict[str, Any], side: str) -> Phantoms:
    """Return the phantoms of one side, ``phantoms`` or ``validation``."""
    what = settings[side]
    return Phantoms(what["count"], what["size_px"], what["seed"], settings["pixel_size_um"])


def learned_from(settings: dict[str, Any]) -> tuple[list[tuple[Pictures, float]], list[dict[str, Any]]]:
    """Return the sets of pictures to learn from with their weights, and what the record says of them."""
    sources: list[tuple[Pictures, float]] = [(phantoms(settings, "phantoms"), settings["phantoms"]["weight"])]
    told = [{"phantoms": settings["phantoms"]}]
    for entry in settings["labelled"]:
        folder = Path(entry["folder"])
        if not (folder / "index.csv").exists():
            log.warning("%s: there are no labelled images here; training goes on without them", folder)
            continue
        pictures = Labelled(folder, entry["cell_px"], held_out=False)
        sources.append((pictures, entry["weight"]))
        told.append({"labelled": {**entry, "folder": folder.name}, "images": len(pictures)})
    return sources, told


def held_out_f1(network: ContourProposalNetwork, record: CpnRecord, pictures: Pictures, device: str) -> Row:
    """Return the mean F1 over pictures at two thresholds of intersection over union."""
    segmenter = CpnSegmenter(network, record, device)
    found = [found_and_true(segmenter, pictures[i], record.pixel_size_um) for i in range(len(pictures))]
    return {f"f1_{round(100 * iou)}": float(np.mean([match(*pair, iou).f1 for pair in found])) for iou in (0.5, 0.7)}


def found_and_true(segmenter: CpnSegmenter, picture: Picture, pixel_size_um: float) -> tuple[Polygons, Polygons]:
    """Return the polygons found in a picture and the true ones, in px."""
    cells = segmenter.find(picture.values, pixel_size_um=pixel_size_um, value_range=(-1.0, 1.0))
    return polygons(table_contours(cells, pixel_size_um)), polygons(picture.contours)


def model_card(record: CpnRecord, size: int) -> str:
    """Return the model card, in Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(plain=plain, code=code)
    template = environment.get_template("segmenter_card.md.j2")
    return template.render(model=record, facts=record.training, megabytes=size / 1e6)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("config", type=Path, help="training file, for example config/segmenter.yaml")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model; an unfinished training in it is resumed"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    print(train_segmenter(args.config, args.out, args.device))
