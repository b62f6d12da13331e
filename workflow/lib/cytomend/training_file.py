"""The training file and the sheets of sections it names: what is gathered, and who learns from it.

Read when the workflow is read, like `cytomend.sheet`, so that mistakes are named before any job is queued.

**The split is by section.** Each section's side follows from a hash of its name alone, so that adding sections moves
none to the other side. One exception keeps both sides filled: where chance holds out no section of a sheet, the one
nearest to being held out stands in; where it holds out all, the one farthest from it is learned from.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from cytomend.diffusion.record import UNetSettings
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.places import model_file
from cytomend.settings import Record, one_line, read_yaml, schema
from cytomend.sheet import CLASSES, annotations_of, check_pixel_size, checked_rows, classes_of, image_of, value_range
from cytomend.storage.frames import file_of

SIDES = ("sources", "validation")
FILES = {"image", "annotation", "sheet"}
"""Entries of a source that name files; what a sheet says is told by its sections."""
EVERYWHERE = Box(0, 0, 1 << 60, 1 << 60)


@dataclass(frozen=True, slots=True)
class TrainingSection:
    """A section of a sheet: its files, its side, what to gather (a plain record), and the source that names it."""

    section: str
    image: Path
    annotations: tuple[Path, ...]
    side: str
    source: int
    weight: float
    gather: Record


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """A checked training file with its defaults; ``sections`` are those of all sheets, by name."""

    path: Path
    settings: Record
    unet: UNetSettings
    sections: dict[str, TrainingSection]

    def scans(self, side: str) -> list[Record]:
        """Return the sources of a side that are scans named in the file itself."""
        return [source for source in self.settings[side] if "image" in source]

    def files(self) -> list[Path]:
        """Return all that the file names itself: scans, annotations, and the model that training starts from."""
        named = [source for side in SIDES for source in self.scans(side)]
        found = [Path(source[key]) for source in named for key in ("image", "annotation") if key in source]
        return found + ([model_file(self.settings["start_from"])] if "start_from" in self.settings else [])

    def all_files(self) -> list[Path]:
        """Return these, and the scans and annotations of all sections of sheets."""
        sections = self.sections.values()
        return [*self.files(), *(path for section in sections for path in (section.image, *section.annotations))]

    def key(self, content: dict[Path, str], gather_code: str) -> str:
        """Return a hash of all that reaches the model: settings, the split, and all files by their content.

        Parameters
        ----------
        content : content hash of each of ``all_files``
        gather_code : fingerprint of the code that gathers patches
        """
        named = {
            side: [
                {key: content.get(Path(str(value))) if key in FILES else value for key, value in source.items()}
                for source in self.settings[side]
            ]
            for side in SIDES
        }
        gathered = {
            name: [s.side, s.source, s.weight, s.gather, content[s.image], *(content[path] for path in s.annotations)]
            for name, s in self.sections.items()
        }
        start = [content[path] for path in self.files()[-1:] if "start_from" in self.settings]
        whole = {**self.settings, **named, "start_from": start, "sections": gathered, "gather_code": gather_code}
        return hashlib.sha256(one_line(whole).encode()).hexdigest()


def read_training_file(path: Path) -> TrainingFile:
    """Read and check a training file and its sheets.

    Raises
    ------
    InputError
        If an entry cannot be used, a sheet or a file is missing, there is nothing on one side, or the same tissue is on
        both.
    """
    settings = read_yaml(path, "train")
    unet = UNetSettings.from_record(settings["network"])
    _check_network(path, unet, settings["window_px"])
    _check_sources(path, settings)
    sections: dict[str, TrainingSection] = {}
    for number, source in enumerate(settings["sources"]):
        if "sheet" in source:
            settings["sources"][number] = source = _with_defaults(source)
            for section in _sections(path, settings, number):
                if section.section in sections:
                    raise InputError(f"{path}: section {section.section!r} stands in two sheets; names must be unique")
                sections[section.section] = section
    training = TrainingFile(path, settings, unet, sections)
    if not settings["validation"] and not any(section.side == "validation" for section in sections.values()):
        raise InputError(
            f"{path}: validation is empty; expected tissue that is not learned from, or a sheet of sections with a"
            " validation_share"
        )
    if missing := [file for file in training.files() if not file_of(file).exists()]:
        raise InputError(f"{path}: {missing[0]}: no such file or folder, seen from {Path.cwd()}")
    check_apart(training, lambda image: str(image.resolve()))
    return training


def held_out(names: Iterable[str], share: float) -> set[str]:
    """Return the sections that are held out; see the module's description."""
    nearness = {name: int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) / 2**64 for name in names}
    chosen = {name for name, near in nearness.items() if near < share}
    if share > 0 and len(nearness) > 1 and len(chosen) in {0, len(nearness)}:
        chosen ^= {min(nearness, key=nearness.__getitem__) if not chosen else max(nearness, key=nearness.__getitem__)}
    return chosen


def check_apart(training: TrainingFile, identity: Callable[[Path], str]) -> None:
    """Refuse tissue that is learned from and held out at once.

    Parameters
    ----------
    training : the file
    identity : says when two scans are the same, of those named in the file and in sheets
    """
    learned = defaultdict[str, list[_Tissue]](list)
    for tissue in _tissue(training, "sources", identity):
        learned[tissue.image].append(tissue)
    for kept in _tissue(training, "validation", identity):
        for seen in learned.get(kept.image, ()):
            if not seen.box.intersect(kept.box).is_empty:
                raise InputError(
                    f"{training.path}: {seen.name} is learned from, and {kept.name} is held out, but both show the same"
                    " tissue; hold out another section, or give both scans a `box`, and boxes that do not overlap"
                )


class _Tissue(NamedTuple):
    """``name`` for the error, which ``image``, which part of it."""

    name: str
    image: str
    box: Box


def _tissue(training: TrainingFile, side: str, identity: Callable[[Path], str]) -> list[_Tissue]:
    """Return all that stands on a side."""
    found = [
        _Tissue(f"{source['image']} {source.get('box', '')}".strip(), identity(Path(source["image"])), _box(source))
        for source in training.scans(side)
    ]
    for source in training.settings[side]:
        if "phantom" in source:
            seed = source["phantom"]["seed"]
            seeds = Box(seed, 0, seed + source["phantom"]["count"], 1)  # seeds are to phantoms what rows are to scans
            found.append(_Tissue(f"phantom tissue of the seeds {seeds.y0} to {seeds.y1 - 1}", "phantom", seeds))
    for section in training.sections.values():
        if section.side == side:
            name = f"section {section.section!r} ({section.image})"
            found.append(_Tissue(name, identity(section.image), EVERYWHERE))
    return found


def _box(source: Record) -> Box:
    return Box(*source["box"]) if "box" in source else EVERYWHERE


def _check_network(path: Path, unet: UNetSettings, window_px: int) -> None:
    if window_px % unet.divisor_px:
        raise InputError(f"{path}: window_px is {window_px}, expected a multiple of {unet.divisor_px} for this network")
    if beyond := [depth for depth in unet.attention if not 0 <= depth < len(unet.widths)]:
        raise InputError(
            f"{path}: network.attention names resolution {beyond[0]}, expected 0 to {len(unet.widths) - 1}: the network"
            f" has {len(unet.widths)} (widths); give network.attention"
        )
    attending = {unet.widths[-1], *(width for depth, width in enumerate(unet.widths) if depth in unet.attention)}
    if odd := [width for width in sorted(attending) if width % unet.heads]:
        raise InputError(
            f"{path}: network.heads is {unet.heads}, expected a divisor of every width with attention, found {odd[0]}"
        )


def _check_sources(path: Path, settings: Record) -> None:
    """Refuse entries of which the schema cannot know that they cannot be used."""
    _check_name(path, "the training file", str(path))
    _check_name(path, "start_from", settings.get("start_from", ""))
    for side in SIDES:
        for number, source in enumerate(settings[side]):
            where = f"{side}.{number}"
            for key in sorted(FILES & source.keys()):
                _check_name(path, f"{where}.{key}", source[key])
            if "value_range" in source and not source["value_range"][0] < source["value_range"][1]:
                raise InputError(
                    f"{path}: {where}.value_range is {source['value_range']}, expected [low, high], low first"
                )
            if "box" in source and Box(*source["box"]).is_empty:
                raise InputError(
                    f"{path}: {where}.box is {source['box']}, which is empty; expected y0, x0, y1, x1 with y0 below y1"
                    " and x0 below x1"
                )
            if "phantom" in source and source["phantom"]["size_px"] < settings["window_px"]:
                raise InputError(
                    f"{path}: {where}.phantom.size_px is {source['phantom']['size_px']}, expected at least window_px,"
                    f" {settings['window_px']}: windows are cut from the pieces"
                )
            if "phantom" in source and ("stain" in source["phantom"]) != (settings["network"]["channels"] == 3):
                raise InputError(
                    f"{path}: {where}.phantom.stain is {source['phantom'].get('stain', 'not there')}; expected a stain"
                    " for network.channels: 3, which learns RGB, and none for a network of grey scans"
                )


def _check_name(path: Path, what: str, name: str) -> None:
    if set(name) & set("{}"):
        raise InputError(f"{path}: {what} is {name}: braces mean wildcards to Snakemake; rename the file")


def _with_defaults(source: Record) -> Record:
    rules: dict[str, Any] = schema("train")["$defs"]["sheet"]["properties"]
    return {**{key: rule["default"] for key, rule in rules.items() if "default" in rule}, **source}


def _sections(path: Path, settings: Record, number: int) -> list[TrainingSection]:
    """Return the sections of the sheet that source ``number`` names."""
    source = settings["sources"][number]
    sheet = Path(source["sheet"])
    if source["patch_px"] < settings["window_px"]:
        raise InputError(
            f"{path}: sources.{number}.patch_px is {source['patch_px']}, expected at least window_px,"
            f" {settings['window_px']}: windows are cut from patches"
        )
    rows = list(checked_rows(sheet))
    if len(rows) < (2 if source["validation_share"] > 0 else 1):
        raise InputError(
            f"{sheet}: {len(rows)} section(s) in it, expected at least two, one to learn from and one to hold out;"
            f" with `validation_share: 0` in {path} all are learned from, and what is held out is named under"
            " `validation`"
        )
    apart = held_out((row["section"] for _, row in rows), source["validation_share"])
    return [
        TrainingSection(
            section=row["section"],
            image=image_of(row, where),
            annotations=_annotations(row, where),
            side=SIDES[row["section"] in apart],
            source=number,
            weight=float(source["weight"]),
            gather=_gather(row, source, settings, where),
        )
        for where, row in rows
    ]


def _gather(row: Record, source: Record, settings: Record, where: str) -> Record:
    """Return the settings of `cytomend.stages.gather_patches`."""
    check_pixel_size(float(row["pixel_size_um"]), settings["pixel_size_um"], where)
    return {
        "section": row["section"],
        "channels": settings["network"]["channels"],
        "pixel_size_um": float(row["pixel_size_um"]),
        "value_range": value_range(row, where),
        **{key: source[key] for key in ("patch_px", "patches_per_section", "licence", "attribution")},
        "tissue_share": float(source["tissue_share"]),
        "grow_px": source["grow_px"] if row["grow_px"] is None else row["grow_px"],
        **{name: classes_of(row, name, source[name]) for name in CLASSES},
    }


def _annotations(row: Record, where: str) -> tuple[Path, ...]:
    """Return the annotations of a row: what is learned must be known to be intact."""
    annotations = annotations_of(row, where)
    if not annotations:
        raise InputError(
            f"{where}: annotation is {row['annotation']!r}, expected files, to learn from the tissue outside of them;"
            " look at proposals before they are trusted"
        )
    return annotations
