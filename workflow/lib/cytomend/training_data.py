"""The tissue that a training file names: scans and phantoms in memory, sections of sheets in patch stores.

Scans that are named directly follow the rules of sheets: artefacts are grown, glass is left out, and values are scaled
as in mending.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from cytomend.diffusion.patches import Tile, Tissue
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.regions.annotation import GrownMask, not_intact, open_mask
from cytomend.regions.intact import intact_pieces
from cytomend.regions.tissue import tissue_share
from cytomend.regions.value_range import value_range
from cytomend.settings import Record, one_line
from cytomend.storage.identity import image_identity
from cytomend.storage.images import open_image
from cytomend.storage.omezarr import attributes_of
from cytomend.storage.patches import PatchStore
from cytomend.storage.publish import checksums, lost_files, manifest_of, read_manifest
from cytomend.training_file import SIDES, TrainingFile, TrainingSection, check_apart
from cytomend.values import ValueRange, to_model

PIECE_PX = 512
PIECES_PER_SCAN = 256
GROW_PX = 3
TISSUE_SHARE = 0.9
"""Of scans that are named directly; sheets say so themselves, and these are their defaults."""
UNLEARNED = {"image", "sheet", "licence", "attribution"}
"""What is told of a source and changes nothing that is learned."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What is learned from and what is held out, and what a checkpoint says of both.

    ``record`` has an entry for each side: its sources by name and content hash, not by where they lay. ``identity``
    changes with what is learned from and what decides which weights are kept, and with no name of a file, no licence
    and no release.
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
        If a store is missing, lacks files or was gathered with other settings, a scan cannot be used, a side shows no
        tissue, or the same scan is on both sides.
    """
    stores = {name: _open_store(store_of(folder, section), section) for name, section in training.sections.items()}
    contents = {section.image: stores[name].facts["blake2b"] for name, section in training.sections.items()}
    contents |= {Path(scan["image"]): image_identity(Path(scan["image"])) for s in SIDES for scan in training.scans(s)}
    check_apart(training, contents.__getitem__)
    tiles = {side: [_tiles(source, training.settings) for source in training.settings[side]] for side in SIDES}
    record = {
        side: [_source_record(s, contents, t) for s, t in zip(training.settings[side], tiles[side], strict=True)]
        for side in SIDES
    }
    for section in training.sections.values():
        source = record["sources"][section.source]
        its = source.setdefault(section.side, {"patches": 0, "sections": {}})
        its["patches"] += stores[section.section].patches
        its["sections"][section.section] = contents[section.image]
    learned, held_out = (_tissue(training, side, tiles[side], stores) for side in SIDES)
    return TrainingData(learned, held_out, record, _identity(training, record, stores))


def _identity(training: TrainingFile, record: Record, stores: dict[str, PatchStore]) -> str:
    """Name what is learned by its content."""
    named = {
        side: [{key: value for key, value in source.items() if key not in UNLEARNED} for source in record[side]]
        for side in SIDES
    }
    held = {
        name: [
            {key: value for key, value in training.sections[name].gather.items() if key not in UNLEARNED},
            store.facts["blake2b"],
            store.facts["value_range"],
            {file: digest for file, digest in checksums(store.path).items() if Path(file).name != "zarr.json"},
        ]
        for name, store in stores.items()
    }
    return one_line({**named, "stores": hashlib.sha256(one_line(held).encode()).hexdigest()})


def _open_store(path: Path, section: TrainingSection) -> PatchStore:
    """Return a finished store of just these settings, with all its files."""
    read_manifest(manifest_of(path))
    store = PatchStore(path)
    if lost := lost_files(path):  # Zarr would read them as black
        raise InputError(
            f"{path}: {len(lost)} of its files are lost, such as {lost[0]}; delete the store and gather the patches of"
            f" section {section.section!r} again"
        )
    expected = dict(section.gather)
    if expected["value_range"] is None:
        del expected["value_range"]  # the store has the one that was found
    if other := [key for key, value in expected.items() if store.facts.get(key) != value]:
        raise InputError(
            f"{path}: {other[0]} is {store.facts.get(other[0])}, expected {expected[other[0]]}; gather the"
            f" patches of section {section.section!r} again"
        )
    return store


@dataclass(frozen=True, slots=True)
class _Tiles:
    """What is held in memory of a source; ``value_range`` only of scans."""

    tiles: list[Tile]
    value_range: ValueRange | None = None


def _tiles(source: Record, settings: Record) -> _Tiles:
    if "sheet" in source:
        return _Tiles([])
    return _phantom_tiles(source["phantom"], settings) if "phantom" in source else _scan_tiles(source, settings)


def _tissue(training: TrainingFile, side: str, read: list[_Tiles], stores: dict[str, PatchStore]) -> list[Tissue]:
    """Return all tissue of a side; within a source, every tile and every patch is drawn alike."""
    tissue: list[Tissue] = []
    for source, found in zip(training.settings[side], read, strict=True):
        tissue.extend(
            Tile(tile.image, tile.intact, source.get("weight", 1.0) / len(found.tiles)) for tile in found.tiles
        )
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


def _phantom_tiles(phantom: Record, settings: Record) -> _Tiles:
    size = (phantom["size_px"],) * 2
    pixel_size_um, stain = float(phantom.get("pixel_size_um") or settings["pixel_size_um"]), phantom.get("stain")
    seeds = range(phantom["seed"], phantom["seed"] + phantom["count"])
    tissues = (render_tissue(size, seed, pixel_size_um=pixel_size_um, stain=stain) for seed in seeds)
    images = (tissue.image.reshape(settings["network"]["channels"], *size) for tissue in tissues)
    return _Tiles([Tile(to_model(image, (0, 255)), np.ones(size, dtype=bool)) for image in images])


def _scan_tiles(source: Record, settings: Record) -> _Tiles:
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
    annotation = source.get("annotation")
    mask = GrownMask(not_intact(open_mask(Path(annotation), image.shape)), GROW_PX) if annotation else None
    within = Box(*source.get("box", (0, 0, *image.shape))).clip(image.shape)
    if within.is_empty:
        raise InputError(
            f"{image.path}: box is {source['box']}, expected a part of the scan, which has {image.shape[0]} x"
            f" {image.shape[1]} px (y, x); correct it in the training file"
        )
    low, high = source.get("value_range") or value_range(image, mask)
    window_px = settings["window_px"]
    pieces = intact_pieces(image, mask, within, PIECE_PX, window_px, settings["seed"])
    shown = (p for p in pieces if tissue_share(p.pixels, (low, high), p.intact) >= TISSUE_SHARE)
    tiles = [Tile(to_model(p.pixels, (low, high)), p.intact) for p in islice(shown, PIECES_PER_SCAN)]
    if not tiles:
        raise InputError(
            f"{image.path}: no intact square of {window_px} px on tissue in {within}; nothing to learn from; check"
            " box and annotation, or name another scan"
        )
    return _Tiles(tiles, (float(low), float(high)))


def _source_record(source: Record, contents: dict[Path, str], read: _Tiles) -> Record:
    """Name a source by what it is and by the hash of its content, not by where it lay."""
    named = {key: value for key, value in source.items() if key not in {"image", "annotation", "sheet"}}
    if read.value_range is not None:
        named["value_range"] = list(read.value_range)
    if "annotation" in source:
        named["annotation_blake2b"] = image_identity(Path(source["annotation"]))
    if "image" in source:
        return {"image": Path(source["image"]).name, "blake2b": contents[Path(source["image"])], **named}
    return {"sheet": Path(source["sheet"]).name, **named} if "sheet" in source else named
