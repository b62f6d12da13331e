"""Gather patches of intact tissue of one section, for training.

Reads the scan lazily and its annotation, and writes one patch store (`cytomend.storage.patches`): Zarr v3, sharded,
dimensions (patch, c, y, x), in the scanner's dtype. Attributes: ``section``, ``image`` (name) and ``blake2b`` (content)
of the scan, ``annotations_blake2b``, ``pixel_size_um``, ``value_range``, ``licence``, ``attribution``, and the
settings.

A square is taken if

1. it lies wholly inside the scan, and inside the outlines of tissue where there are any, and holds no pixel of the
   artefact mask; both with a margin of ``grow_px``;
2. at least ``tissue_share`` of it shows tissue and no empty glass (`cytomend.regions.tissue`).

Squares are tried in an order that follows from the section's name (`cytomend.regions.intact.intact_squares`) until
there are ``patches_per_section``, or no more. What the store holds depends on nothing else: not on other sections, not
on which side of the split the section stands.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path

from cytomend import __version__
from cytomend.errors import InputError
from cytomend.fingerprint import fingerprint
from cytomend.regions.annotation import ArtefactMask, GrownMask, not_intact, open_mask
from cytomend.regions.covering import check_covering, coverage
from cytomend.regions.intact import intact_squares
from cytomend.regions.tissue import tissue_share
from cytomend.regions.value_range import value_range
from cytomend.storage.desktop import without_left_behind
from cytomend.storage.identity import image_identity, stamp
from cytomend.storage.images import SectionImage, open_image
from cytomend.storage.omezarr import attributes_of
from cytomend.storage.patches import Patch, is_patch_store, write_patches
from cytomend.storage.publish import amend_manifest, lost_files, manifest_of, one_writer, publish, read_manifest
from cytomend.values import ValueRange

log = logging.getLogger(__name__)

CODE = "cytomend.stages.gather_patches"


@dataclass(frozen=True, slots=True)
class GatherSettings:
    """What a patch store depends on besides image and annotation; see ``workflow/schemas/train.schema.yaml``."""

    section: str
    channels: int
    pixel_size_um: float
    value_range: ValueRange | None
    patch_px: int
    patches_per_section: int
    tissue_share: float
    grow_px: int
    include_classes: list[str]
    exclude_classes: list[str]
    tissue_classes: list[str]
    licence: str
    attribution: str


def gather_patches(
    image_path: Path, annotations: Sequence[Path], settings: GatherSettings, out: Path, content: str | None = None
) -> Path:
    """Write the patch store of a section and return its manifest; one made from the very same is left as it is.

    Parameters
    ----------
    image_path, annotations : scan and artefact masks, which are united
    settings : which patches
    out : the store, ``NAME.zarr``
    content : content hash of the scan, if it is known already

    Raises
    ------
    InputError
        If image, annotation and settings do not fit each other, the scan is a mended one, or what stands at ``out`` is
        no patch store.
    """
    _check_place([image_path, *annotations], out)
    seen = _seen(image_path, annotations, settings)
    if is_gathered(image_path, annotations, settings, out):
        return manifest_of(out)
    with open_image(image_path) as image:
        _check_fit(image, settings)
        contents = [content or image_identity(image_path), *map(image_identity, annotations)]
        made_from = _hash(asdict(settings), *contents, fingerprint(CODE))
        if _says(out, "made_from", made_from):  # touched or copied, but the same
            return amend_manifest(manifest_of(out), {"seen": seen})
        with one_writer(out) as work:
            mask = GrownMask(_unlearned(annotations, image, settings), settings.grow_px)
            low_high = settings.value_range or value_range(image, mask)
            covered = coverage(image, mask, low_high)
            for warning in (*mask.warnings, *check_covering(", ".join(map(str, annotations)), covered, max_covered=1)):
                log.warning("section %s: %s", settings.section, warning)
            facts = {
                **asdict(settings),
                "image": image_path.name,
                "blake2b": contents[0],
                "annotations_blake2b": contents[1:],
                "value_range": list(low_high),
                "cytomend": __version__,
            }
            most = settings.patches_per_section
            count = write_patches(
                work,
                islice(_patches(image, mask, settings, low_high), most),
                (most, image.channels, settings.patch_px, settings.patch_px),
                str(image.dtype),
                facts,
            )
            told = log.info if count == most else log.warning
            told(
                "section %s: %d of %d patches of %d px found intact and on tissue",
                settings.section,
                count,
                most,
                settings.patch_px,
            )
            return publish(
                work, out, {"section": settings.section, "patches": count, "made_from": made_from, "seen": seen}
            )


def _unlearned(annotations: Sequence[Path], image: SectionImage, settings: GatherSettings) -> ArtefactMask:
    declared = open_mask(
        annotations,
        image.shape,
        include_classes=settings.include_classes or None,
        exclude_classes=settings.exclude_classes,
        tissue_classes=settings.tissue_classes,
    )
    return not_intact(declared)


def is_gathered(image_path: Path, annotations: Sequence[Path], settings: GatherSettings, out: Path) -> bool:
    """Whether the store is there with all its files, made from just these by their size and time."""
    return _says(out, "seen", _seen(image_path, annotations, settings))


def _says(out: Path, key: str, value: str) -> bool:
    """Whether the manifest of a store says this, and no file of the store is lost."""
    return (
        out.is_dir()
        and manifest_of(out).exists()
        and read_manifest(manifest_of(out)).get(key) == value
        and not lost_files(out)
    )


def _check_place(inputs: Sequence[Path], out: Path) -> None:
    """Refuse to replace what is no patch store of ours."""
    for given in (path.resolve() for path in inputs):
        for place in (out.resolve(), manifest_of(out).resolve()):
            if given.is_relative_to(place) or place.is_relative_to(given):
                raise InputError(f"{out}: would overwrite {given}, which is to be read; give another --out")
    manifest = manifest_of(out)
    known = manifest.exists() and "patches" in read_manifest(manifest)
    empty = out.is_dir() and not without_left_behind(out.iterdir())
    if (out.exists() or manifest.exists()) and not (known or empty or is_patch_store(out)):
        raise InputError(
            f"{out if out.exists() else manifest}: expected nothing or a patch store that may be replaced, found"
            " something else; give another --out, or move it away"
        )


def _patches(
    image: SectionImage, mask: ArtefactMask, settings: GatherSettings, low_high: ValueRange
) -> Iterator[Patch]:
    for box in intact_squares(image.shape, mask, settings.patch_px, settings.section):
        pixels = image.read(box)
        if tissue_share(pixels, low_high) >= settings.tissue_share:
            yield Patch((box.y0, box.x0), pixels)


def _check_fit(image: SectionImage, settings: GatherSettings) -> None:
    where = f"section {settings.section!r}: {image.path}"
    if "cytomend" in attributes_of(image.path):
        raise InputError(f"{where} is a mended section; nothing is learned from synthetic pixels; give the scan itself")
    if image.channels != settings.channels:
        raise InputError(
            f"{where} has {image.channels} channels, expected {settings.channels} (network.channels of the training"
            " file)"
        )


def _seen(image_path: Path, annotations: Sequence[Path], settings: GatherSettings) -> str:
    """Return the identity of all that the store is made from; files count by size and time, so none is read."""
    return _hash(asdict(settings), stamp(image_path), *map(stamp, annotations), fingerprint(CODE))


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def settings_from(record: dict[str, object]) -> GatherSettings:
    """Return the settings from what JSON made of them."""
    found = record["value_range"]
    given = {**record, "value_range": tuple(found) if isinstance(found, list) else found}
    return GatherSettings(**given)  # type: ignore[arg-type]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--image", type=Path, required=True, help="scan of the section")
    parser.add_argument(
        "--annotation",
        type=Path,
        action="append",
        required=True,
        help="artefacts: GeoJSON, ImageJ outlines or mask image; may be repeated",
    )
    entries = ", ".join(field.name for field in fields(GatherSettings))
    parser.add_argument("--settings", required=True, help=f"JSON object with {entries}")
    parser.add_argument("--source", help="content hash of the scan (default: the scan is read and hashed)")
    parser.add_argument("--out", type=Path, required=True, help="patch store, NAME.zarr")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    settings = settings_from(json.loads(args.settings))
    print(gather_patches(args.image, args.annotation, settings, args.out, args.source))
