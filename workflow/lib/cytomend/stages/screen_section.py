"""Propose the artefacts of one section.

Reads the scan twice, and writes one GeoJSON file as QuPath does: a FeatureCollection of annotations in pixels of the
full resolution, x before y, with class, colour and name. Their measurements:

| measurement | unit | what |
|---|---|---|
| ``score`` | 0 to 1 | how plain the damage is; 0.5 at the detector's limit |
| ``area µm^2`` | µm² | area of the outline |

Proposals are to be looked at. Nothing is mended by this stage.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from pathlib import Path

from cytomend.errors import InputError
from cytomend.regions.geojson import read_features
from cytomend.regions.value_range import value_range
from cytomend.screening.light import LightReader
from cytomend.screening.proposals import features
from cytomend.screening.screen import screen
from cytomend.screening.settings import ScreenSettings
from cytomend.storage.frames import add_frame_argument, framed
from cytomend.storage.images import SectionImage, open_image
from cytomend.storage.pixel_size import PLAUSIBLE_UM
from cytomend.storage.publish import refuse_over, write_whole

log = logging.getLogger(__name__)


def screen_section(image_path: Path, out: Path, settings: ScreenSettings, pixel_size_um: float | None = None) -> Path:
    """Write proposals for a section into ``out`` and return its path.

    Parameters
    ----------
    image_path : scan of any format that `open_image` reads
    out : GeoJSON file
    settings : see `ScreenSettings`
    pixel_size_um : side of a pixel in µm; by default what the file says

    Raises
    ------
    InputError
        The scan cannot be read, or its pixel size is not known.
    """
    with open_image(image_path) as image:
        size_um = pixel_size_um or _pixel_size_um(image_path, image)
        used = settings.value_range or value_range(image, None)
        log.info("%s: %s px of %g µm, %d channels, values %s", image_path, image.shape, size_um, image.channels, used)
        found = screen(LightReader(image, used), size_um, settings)
    for warning in found.warnings:
        log.warning("%s: %s", image_path, warning)
    counts = Counter(proposal.class_name for proposal in found.proposals)
    log.info("proposed: %s", ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing")
    written = features(found.proposals, size_um)
    write_whole(out, lambda path: write_features(path, written))
    return out


def write_features(path: Path, written: list[dict[str, object]]) -> None:
    """Write a FeatureCollection, a line a feature."""
    lines = ",\n".join(json.dumps(feature, ensure_ascii=False) for feature in written)
    path.write_text(f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n', encoding="utf-8")


def _pixel_size_um(path: Path, image: SectionImage) -> float:
    if image.pixel_size_um is None:
        raise InputError(f"{path}: its metadata give no plausible pixel size; say it with --pixel-size-um")
    return image.pixel_size_um


def _is_geojson(path: Path) -> bool:
    try:
        read_features(path)
    except InputError:
        return False
    return True


def _settings(text: str) -> ScreenSettings:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"--settings: expected a JSON object, found {text[:60]!r} ({error.msg}); correct it"
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"--settings: expected a JSON object, found {text[:60]!r}; write {{}} for the defaults")
    return ScreenSettings.of(record)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--image", type=Path, required=True, help="scan of the section")
    parser.add_argument(
        "--pixel-size-um", type=float, help="side of a pixel in µm (default: from the image's metadata)"
    )
    add_frame_argument(parser)
    entries = ", ".join(ScreenSettings.__dataclass_fields__)
    parser.add_argument("--settings", default="{}", help=f"JSON object with any of {entries} (default: {{}})")
    parser.add_argument("--out", type=Path, required=True, help="GeoJSON file of proposals")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    low, high = PLAUSIBLE_UM
    if args.pixel_size_um is not None and not low <= args.pixel_size_um <= high:
        raise InputError(f"--pixel-size-um {args.pixel_size_um:g}: expected {low:g} to {high:g} µm")
    settings = _settings(args.settings)
    if args.out.is_dir():
        raise InputError(f"{args.out}: is a folder, expected the name of a file; add one, such as proposals.geojson")
    if args.out.exists() and not args.overwrite:
        # A person may have corrected it.
        raise InputError(f"{args.out}: exists already; choose another name, or give --overwrite")
    refuse_over(args.out, [args.image])
    if args.out.exists() and not _is_geojson(args.out):
        raise InputError(f"{args.out}: exists and is no GeoJSON; it is not overwritten")
    print(screen_section(framed(args.image, args.frame), args.out, settings, args.pixel_size_um))
