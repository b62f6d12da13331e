"""Train a model on sections and phantoms.

Reads a training file (``workflow/schemas/train.schema.yaml``) and writes into one folder:

| file | what |
|---|---|
| ``model.safetensors`` | averaged weights with their settings record, when the last step is done |
| ``training.safetensors`` | everything that resuming needs, rewritten as it goes |
| ``loss.tsv`` | step, seconds (of training so far), train_loss and validation_loss (mean squared error of v) |
| ``loss.png`` | the same as curves |
| ``samples.png`` | held-out patches: original, damaged, mended; and patches drawn from nothing |
| ``MODEL_CARD.md`` | what the model is, was trained on, and is not good for |
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cytomend.diffusion.checkpoint import save_model
from cytomend.diffusion.patches import Patches, Tile
from cytomend.diffusion.precondition import velocity_loss
from cytomend.diffusion.record import ModelSettings, UNetSettings
from cytomend.diffusion.schedule import TIMES
from cytomend.diffusion.training import Training, TrainingSettings
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.regions.annotation import open_mask
from cytomend.regions.intact import intact_pieces
from cytomend.report.model_card import draw_losses, draw_samples, write_card
from cytomend.settings import one_line, read_yaml
from cytomend.storage.identity import image_identity
from cytomend.storage.images import open_image
from cytomend.storage.publish import write_whole
from cytomend.values import to_model

log = logging.getLogger(__name__)

PIECE_PX = 512
PIECES_PER_SECTION = 256
VALIDATION_BATCHES = 8


def train(config: Path, out: Path, device: torch.device) -> Path:
    """Train as the file says, resuming what an earlier call left in ``out``; return the checkpoint.

    Raises
    ------
    InputError
        If the file or a source of it cannot be used, or ``out`` holds a training with other settings.
    """
    settings = read_yaml(config, "train")
    unet = UNetSettings.from_record(settings["network"])
    if settings["window_px"] % unet.divisor_px:
        raise InputError(
            f"{config}: window_px is {settings['window_px']}, expected a multiple of {unet.divisor_px} for this network"
        )
    attending = {unet.widths[-1], *(width for depth, width in enumerate(unet.widths) if depth in unet.attention)}
    if odd := [width for width in sorted(attending) if width % unet.heads]:
        raise InputError(
            f"{config}: network.heads is {unet.heads}, expected a divisor of every width with attention, found {odd[0]}"
        )
    how = TrainingSettings(
        **{key: settings[key] for key in ("steps", "batch", "learning_rate", "warmup_steps", "average_decay", "seed")},
        data=one_line({key: settings[key] for key in ("sources", "window_px", "constant_share", "resample_share")}),
    )
    patches = _patches(settings, read_tiles(settings["sources"], settings), how.seed)
    held_out = _patches(settings, read_tiles(settings["validation"], settings), how.seed + 1)

    out.mkdir(parents=True, exist_ok=True)
    training = Training(unet, how, device)
    rows: list[dict[str, float]] = []
    if (state := out / "training.safetensors").exists():
        training.resume(state)
        rows = [row for row in _read_rows(out / "loss.tsv") if row["step"] <= training.steps_done]
        log.info("resuming after step %d", training.steps_done)
    log.info(
        "%d weights, %d tiles, %s", sum(p.numel() for p in training.network.parameters()), len(patches.tiles), device
    )

    seconds = rows[-1]["seconds"] if rows else 0.0
    since, losses = time.monotonic(), []
    while training.steps_done < how.steps:
        losses.append(training.step(patches.draw(training.steps_done)))
        done = training.steps_done
        if done % settings["report_every"] == 0 or done == how.steps:
            seconds, since = seconds + time.monotonic() - since, time.monotonic()
            rows.append(
                {
                    "step": done,
                    "seconds": round(seconds, 1),
                    "train_loss": float(np.mean(losses)),
                    "validation_loss": validation_loss(training, held_out),
                }
            )
            losses = []
            # The table first: a training killed in between resumes before its last row, which is then left out.
            table = pd.DataFrame(rows)
            write_whole(out / "loss.tsv", lambda p: table.to_csv(p, sep="\t", index=False, float_format="%.6g"))  # noqa: B023
            training.save(state)
            draw_losses(rows, out / "loss.png")
            log.info(
                "step %d of %d: loss %.5f, held out %.5f, %.3f s a step",
                done,
                how.steps,
                rows[-1]["train_loss"],
                rows[-1]["validation_loss"],
                seconds / done,
            )
        if done % settings["sample_every"] == 0 or done == how.steps:
            draw_samples(training.averaged(), held_out, out / "samples.png")
    rows = _read_rows(out / "loss.tsv")  # as written, so that a finished training run again gives the same file
    data = {key: [_source_record(source) for source in settings.pop(key)] for key in ("sources", "validation")}
    record = ModelSettings(
        unet=unet,
        times=how.times,
        window_px=settings["window_px"],
        pixel_size_um=settings["pixel_size_um"],
        training={"settings": settings, **data, "seconds": rows[-1]["seconds"], "loss": rows[-1]},
    )
    save_model(out / "model.safetensors", training.average.weights, record)
    write_card(out, record)
    return out / "model.safetensors"


def read_tiles(sources: list[dict[str, Any]], settings: dict[str, Any]) -> list[Tile]:
    """Read intact tissue of every source; within a source, every tile is drawn alike."""
    tiles: list[Tile] = []
    for source in sources:
        its_tiles = _phantom_tiles(source) if "phantom" in source else _scan_tiles(source, settings)
        weight = source.get("weight", 1.0) / len(its_tiles)
        tiles.extend(Tile(tile.image, tile.intact, weight) for tile in its_tiles)
    return tiles


def _phantom_tiles(source: dict[str, Any]) -> list[Tile]:
    phantom = source["phantom"]
    size = (phantom["size_px"],) * 2
    images = (render_tissue(size, phantom["seed"] + i).image for i in range(phantom["count"]))
    return [Tile(to_model(image[None], (0, 255)), np.ones(size, dtype=bool)) for image in images]


def _scan_tiles(source: dict[str, Any], settings: dict[str, Any]) -> list[Tile]:
    image = open_image(Path(source["image"]))
    if image.channels != settings["network"]["channels"]:
        raise InputError(
            f"{image.path}: has {image.channels} channels, expected"
            f" {settings['network']['channels']} (network.channels of the training file)"
        )
    mask = open_mask(Path(source["annotation"]), image.shape) if "annotation" in source else None
    within = Box(*source.get("box", (0, 0, *image.shape))).clip(image.shape)
    low, high = source.get("value_range", (0, np.iinfo(image.dtype).max))
    pieces = intact_pieces(image, mask, within, PIECE_PX, settings["window_px"], PIECES_PER_SECTION, settings["seed"])
    tiles = [Tile(to_model(piece.pixels, (low, high)), piece.intact) for piece in pieces]
    if not tiles:
        raise InputError(
            f"{image.path}: no intact square of {settings['window_px']} px in {within}; nothing to learn from"
        )
    return tiles


def _patches(settings: dict[str, Any], tiles: list[Tile], seed: int) -> Patches:
    return Patches(
        tiles,
        settings["window_px"],
        settings["batch"],
        TIMES,
        seed,
        settings["constant_share"],
        settings["resample_share"],
    )


@torch.no_grad()
def validation_loss(training: Training, held_out: Patches) -> float:
    """Return the loss of the averaged weights on always the same held-out patches and noise."""
    denoiser = training.averaged()
    batches = [held_out.draw(i) for i in range(VALIDATION_BATCHES)]
    return float(
        np.mean(
            [velocity_loss(denoiser, *(t.to(training.device) for t in (b.x0, b.time, b.noise))).item() for b in batches]
        )
    )


def _read_rows(path: Path) -> list[dict[str, float]]:
    return [{str(k): float(v) for k, v in row.items()} for row in pd.read_csv(path, sep="\t").to_dict("records")]


def _source_record(source: dict[str, Any]) -> dict[str, Any]:
    """Name a source by what it is and by the hash of its content, not by where it lay."""
    if "phantom" in source:
        return dict(source)
    named = {key: value for key, value in source.items() if key not in {"image", "annotation"}}
    return {"image": Path(source["image"]).name, "blake2b": image_identity(Path(source["image"])), **named}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("config", type=Path, help="training file, for example config/train/tiny.yaml")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model; an unfinished training in it is resumed"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    print(train(args.config, args.out, torch.device(args.device)))
