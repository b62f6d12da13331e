"""The tissue that a training file names: scans and phantoms in memory, sections of sheets in patch stores."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cytomend.diffusion.patches import Tile, Tissue
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.regions.annotation import open_mask
from cytomend.regions.intact import intact_pieces
from cytomend.settings import Record, one_line
from cytomend.storage.identity import image_identity
from cytomend.storage.images import open_image
from cytomend.storage.omezarr import attributes_of
from cytomend.storage.patches import PatchStore
from cytomend.storage.publish import manifest_of, read_manifest
from cytomend.training_file import SIDES, TrainingFile, TrainingSection, check_apart
from cytomend.values import to_model

PIECE_PX = 512
PIECES_PER_SCAN = 256


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What is learned from and what is held out, and what a checkpoint says of both.

    ``record`` has an entry for each side: its sources by name and content hash, not by where they lay. ``identity``
    changes with what is learned from and what decides which weights are kept.
    """

    sources: list[Tissue]
    validation: list[Tissue]
    record: Record
    identity: str


def store_of(folder: Path, section: TrainingSection) -> Path:
    """Return where the patches of a section stand."""
    return folder / f"{section.section}.zarr"


def read_data(training: TrainingFile, folder: Path) -> TrainingData:
    """Open the patch stores and read what is held in memory.

    Raises
    ------
    InputError
        If a store is missing or was gathered with other settings, a scan cannot be used, a side shows no tissue, or the
        same scan is on both sides.
    """
    stores = {name: _open_store(store_of(folder, section), section) for name, section in training.sections.items()}
    contents = {section.image: stores[name].facts["blake2b"] for name, section in training.sections.items()}
    contents |= {Path(scan["image"]): image_identity(Path(scan["image"])) for s in SIDES for scan in training.scans(s)}
    check_apart(training, contents.__getitem__)
    record = {side: [_source_record(source, contents) for source in training.settings[side]] for side in SIDES}
    for section in training.sections.values():
        source = record["sources"][section.source]
        its = source.setdefault(section.side, {"patches": 0, "sections": {}})
        its["patches"] += stores[section.section].patches
        its["sections"][section.section] = contents[section.image]
    learned, held_out = (_tissue(training, side, stores) for side in SIDES)
    manifests = {name: read_manifest(manifest_of(store.path))["sha256"] for name, store in stores.items()}
    return TrainingData(
        learned,
        held_out,
        record,
        one_line({**record, "stores": hashlib.sha256(one_line(manifests).encode()).hexdigest()}),
    )


def _open_store(path: Path, section: TrainingSection) -> PatchStore:
    """Return a finished store of just these settings."""
    read_manifest(manifest_of(path))
    store = PatchStore(path)
    expected = dict(section.gather)
    if expected["value_range"] is None:
        del expected["value_range"]  # the store has the one that was found
    if other := [key for key, value in expected.items() if store.facts.get(key) != value]:
        raise InputError(
            f"{path}: {other[0]} is {store.facts.get(other[0])}, expected {expected[other[0]]}; gather the"
            f" patches of section {section.section!r} again"
        )
    return store


def _tissue(training: TrainingFile, side: str, stores: dict[str, PatchStore]) -> list[Tissue]:
    """Return all tissue of a side; within a source, every tile and every patch is drawn alike."""
    tissue: list[Tissue] = []
    for source in training.settings[side]:
        if "sheet" not in source:
            tiles = _phantom_tiles(source) if "phantom" in source else _scan_tiles(source, training.settings)
            weight = source.get("weight", 1.0) / len(tiles)
            tissue.extend(Tile(tile.image, tile.intact, weight) for tile in tiles)
    mine = [section for section in training.sections.values() if section.side == side]
    patches = Counter[int]()
    for section in mine:
        patches[section.source] += stores[section.section].patches
    for section in mine:
        store = stores[section.section]
        if store.patches:
            store.weight = section.weight * store.patches / patches[section.source]
            tissue.append(store)
    if not tissue:
        raise InputError(
            f"{training.path}: no patch of {side} is intact and shows tissue; expected some: see the warnings of"
            " gather-patches, lower patch_px or tissue_share, or check the annotations"
        )
    return tissue


def _phantom_tiles(source: Record) -> list[Tile]:
    phantom = source["phantom"]
    size = (phantom["size_px"],) * 2
    images = (render_tissue(size, phantom["seed"] + i).image for i in range(phantom["count"]))
    return [Tile(to_model(image[None], (0, 255)), np.ones(size, dtype=bool)) for image in images]


def _scan_tiles(source: Record, settings: Record) -> list[Tile]:
    image = open_image(Path(source["image"]))
    if image.channels != settings["network"]["channels"]:
        raise InputError(
            f"{image.path}: has {image.channels} channels, expected"
            f" {settings['network']['channels']} (network.channels of the training file)"
        )
    if "cytomend" in attributes_of(image.path):
        raise InputError(
            f"{image.path}: a mended section; nothing is learned from synthetic pixels; give the scan itself"
        )
    mask = open_mask(Path(source["annotation"]), image.shape) if "annotation" in source else None
    within = Box(*source.get("box", (0, 0, *image.shape))).clip(image.shape)
    low, high = source.get("value_range", (0, np.iinfo(image.dtype).max))
    pieces = intact_pieces(image, mask, within, PIECE_PX, settings["window_px"], PIECES_PER_SCAN, settings["seed"])
    tiles = [Tile(to_model(piece.pixels, (low, high)), piece.intact) for piece in pieces]
    if not tiles:
        raise InputError(
            f"{image.path}: no intact square of {settings['window_px']} px in {within}; nothing to learn from"
        )
    return tiles


def _source_record(source: Record, contents: dict[Path, str]) -> Record:
    """Name a source by what it is and by the hash of its content, not by where it lay."""
    named = {key: value for key, value in source.items() if key not in {"image", "annotation", "sheet"}}
    if "image" in source:
        return {"image": Path(source["image"]).name, "blake2b": contents[Path(source["image"])], **named}
    return {"sheet": Path(source["sheet"]).name, **named} if "sheet" in source else named
