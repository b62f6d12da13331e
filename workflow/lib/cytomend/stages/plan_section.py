"""Plan the mending of one section.

Reads the annotation, and the image once through for its hash, and writes into the folder of the plan:

| file | what |
|---|---|
| ``section.json`` | facts: shape (px), channels, dtype, pixel size (µm), value range, lattice, samples, warnings |
| ``regions.parquet`` | one row a region, see below |
| ``windows.parquet`` | one row a window of a region: ``region``, and ``row``, ``column`` on the section's lattice |
| ``labels.zarr`` | (y, x) uint32, the region number of each pixel of the grown mask, 0 elsewhere |
| ``tissue.wkb`` | where the annotation outlines tissue, holes filled: a MultiPolygon in px, x before y; else absent |

Columns of ``regions.parquet``: ``region`` number, ``shard``, box ``y0_px x0_px y1_px x1_px`` (half open), centre
``y_um x_um``, ``area_px``, ``area_um2``, ``windows`` (count), ``touches_border`` (of the section), ``draw`` (how often
reviewers had it drawn again).

A region that a reviewer leaves as scanned is in ``labels.zarr``, for it is damage still, and under ``left`` in
``section.json`` with number, box, ``area_px``, ``y_um``, ``x_um``; it is in no table and not in ``masked_px``.

The manifest also says what later jobs will need (`cytomend.needs`), and which editions of image and annotation were
read (`cytomend.storage.edition`).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import ZstdCodec

from cytomend.errors import InputError
from cytomend.needs import Needs
from cytomend.regions.annotation import ArtefactMask, GrownMask, WithinTissue, open_mask
from cytomend.regions.classes import TISSUE_CLASSES
from cytomend.regions.covering import MOST_COVERED, check_covering, coverage
from cytomend.regions.decided import Decided, apply_decisions
from cytomend.regions.find import TILE_PX, find_regions
from cytomend.regions.lattice import Lattice
from cytomend.regions.plan import LeftRegion, Plan, SectionFacts, tables
from cytomend.regions.value_range import value_range
from cytomend.storage.edition import annotation_roles, read_source
from cytomend.storage.encoder import encoder, errors_of_the_system
from cytomend.storage.images import SectionImage, open_image
from cytomend.storage.mended import refuse_mended
from cytomend.storage.publish import add_key_arguments, keyed, one_writer, publish, refuse_over
from cytomend.values import ValueRange

log = logging.getLogger(__name__)

KNOWN = {1: ", such as tiny,", 3: ", such as nissl,"}
"""Bundled models, by the channels of a scan."""

UNSEEN = (
    "The artefacts of this section were proposed by screening, and nobody has looked at them: damage may be missing,"
    " and natural gaps may be among them"
)


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a plan depends on besides image and annotation; see ``workflow/schemas`` for each entry.

    ``screened`` says that the annotation is what `cytomend screen-section` proposes; then its classes are all damage.
    ``decisions`` are those of `cytomend.decisions.changes`. ``max_covered`` is the share of the tissue that the
    annotation may cover.
    """

    section: str
    pixel_size_um: float
    stain: str
    value_range: ValueRange | None
    grow_px: int
    include_classes: list[str]
    shards: int
    stride_px: int
    window_px: int
    model_channels: int
    samples: int = 1
    fill: str = "draw"
    screened: bool = False
    exclude_classes: list[str] = field(default_factory=list)
    tissue_classes: list[str] = field(default_factory=lambda: list(TISSUE_CLASSES))
    decisions: list[dict[str, Any]] = field(default_factory=list)
    max_covered: float = MOST_COVERED


def plan_section(
    image_path: Path,
    annotations: Path | Sequence[Path],
    settings: PlanSettings,
    out: Path,
    editions: Mapping[str, str] | None = None,
) -> Path:
    """Write the plan of a section into ``out`` and return its manifest.

    Parameters
    ----------
    image_path, annotations : scan and artefact masks, which are united
    settings : see `PlanSettings`
    out : folder of the plan
    editions : of ``image``, ``annotation``, ``annotation 2``, ..., by these names; by default those of files seen for
        the first time

    Raises
    ------
    InputError
        If image, annotation and settings do not fit each other, or nothing intact is left to mend from.
    """
    lattice, editions = _lattice(settings), editions or {}
    with open_image(image_path) as image, one_writer(out) as work:
        _check_fit(image, settings)
        paths = [annotations] if isinstance(annotations, Path) else list(annotations)
        annotation = ", ".join(map(str, paths))
        read = {"image": image_path, **annotation_roles(paths)}
        sources = {role: read_source(path, editions.get(role)) for role, path in read.items()}
        declared = _declared(paths, image.shape, settings)
        mask = GrownMask(declared, settings.grow_px)
        doubts = _covering_warnings(image, declared, annotation, settings)
        log.info(
            "section %s: %s px, %d channels, %s; annotation %s",
            settings.section,
            image.shape,
            image.channels,
            image.dtype,
            annotation,
        )
        with encoder():
            labels = zarr.create_array(
                work / "labels.zarr",
                shape=image.shape,
                dtype="uint32",
                chunks=(TILE_PX, TILE_PX),
                compressors=ZstdCodec(level=1),
                fill_value=0,
                overwrite=True,
            )
        masked = blake2b(digest_size=16)
        with errors_of_the_system():
            regions = find_regions(mask, labels, lattice.cell_px, masked)
        damaged_px = sum(region.area_px for region in regions)
        if damaged_px == image.shape[0] * image.shape[1]:
            raise InputError(
                f"section {settings.section!r}: {annotation} (grown by {settings.grow_px} px) covers all"
                f" of {image_path}; nothing intact is left to mend from"
            )
        applied = apply_decisions(regions, map(Decided.of, settings.decisions))
        left = tuple(LeftRegion.of(region, settings.pixel_size_um) for region in applied.left)
        masked_px = sum(region.area_px for region in applied.mended)
        tissue = declared.tissue.area if isinstance(declared, WithinTissue) else None
        facts = SectionFacts(
            section=settings.section,
            shape=image.shape,
            channels=image.channels,
            dtype=str(image.dtype),
            pixel_size_um=settings.pixel_size_um,
            stain=settings.stain,
            value_range=settings.value_range or value_range(image, mask),
            grow_px=settings.grow_px,
            window_px=settings.window_px,
            stride_px=settings.stride_px,
            shards=settings.shards,
            masked_px=masked_px,
            source_blake2b=sources["image"].identity,
            mask_blake2b=_mask_hash(masked.digest(), [region.number for region in left]),
            samples=settings.samples,
            warnings=(
                *image.warnings,
                *mask.warnings,
                *_pixel_size_warnings(image, settings),
                *doubts,
                *_damage_warnings(annotation, damaged_px / (image.shape[0] * image.shape[1])),
                *([UNSEEN] if settings.screened else []),
                *applied.warnings,
            ),
            left=left,
            tissue_outlined=tissue is not None,
        )
        plan = Plan(facts, *tables(applied.mended, facts, applied.draws), labels, tissue)
        plan.write_facts(work)
        for warning in facts.warnings:
            log.warning("section %s: %s", settings.section, warning)
        log.info(
            "section %s: %d regions, %d px to mend, %d samples; %d left as scanned, %d drawn again",
            settings.section,
            len(applied.mended),
            masked_px,
            settings.samples,
            len(left),
            len(applied.draws),
        )
        return publish(
            work,
            out,
            {
                "section": settings.section,
                "regions": len(applied.mended),
                "needs": asdict(Needs.of(plan)),
                "sources": {role: source.record() for role, source in sources.items()},
            },
        )


def _declared(annotations: Sequence[Path], shape: tuple[int, int], settings: PlanSettings) -> ArtefactMask:
    if settings.screened:
        return open_mask(annotations, shape)
    return open_mask(
        annotations,
        shape,
        include_classes=settings.include_classes or None,
        exclude_classes=settings.exclude_classes,
        tissue_classes=settings.tissue_classes,
    )


def _lattice(settings: PlanSettings) -> Lattice:
    try:
        return Lattice(settings.window_px, settings.stride_px)
    except ValueError as error:
        raise InputError(
            f"section {settings.section!r}: mend.stride_px: {error}; the model's window is {settings.window_px} px"
        ) from error


def _check_fit(image: SectionImage, settings: PlanSettings) -> None:
    """Refuse an image that the model cannot mend."""
    where = f"section {settings.section!r}: {image.path}"
    refuse_mended(image.path, where)
    if settings.fill == "draw" and image.channels != settings.model_channels:
        raise InputError(
            f"{where} has {image.channels} channels, the model was trained on {settings.model_channels}; "
            f"choose a model for it{KNOWN.get(image.channels, '')}, train one (network.channels of the training file),"
            " or let mend.fill be graft"
        )


def _pixel_size_warnings(image: SectionImage, settings: PlanSettings) -> list[str]:
    found = image.pixel_size_um
    if found is None or abs(found / settings.pixel_size_um - 1) < 0.02:
        return []
    return [
        f"{image.path}: its metadata give {found:g} µm a pixel, {settings.pixel_size_um:g} µm were given;"
        " those were followed"
    ]


def _covering_warnings(image: SectionImage, mask: ArtefactMask, annotation: str, settings: PlanSettings) -> list[str]:
    """Refuse a mask of the tissue or of the glass, and say where one may be meant."""
    values = settings.value_range or value_range(image, None)
    where = f"section {settings.section!r}: {annotation}"
    return check_covering(where, coverage(image, mask, values), settings.max_covered)


def _damage_warnings(annotation: str, share: float) -> list[str]:
    """Say what is probably a mistake."""
    if share == 0:
        return [f"{annotation}: no damage in it; the result is a copy of the scan"]
    if share > 0.5:
        return [f"{annotation}: {share:.0%} of the section is damage; is the mask inverted?"]
    return []


def _mask_hash(masked: bytes, left: Sequence[int]) -> str:
    """Return the identity of what is mended: of the masked pixels, and of the regions among them that are left."""
    return blake2b(masked + repr(sorted(left)).encode(), digest_size=16).hexdigest()


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
    entries = ", ".join(field.name for field in fields(PlanSettings))
    parser.add_argument("--settings", required=True, help=f"JSON object with {entries}")
    parser.add_argument("--editions", default="{}", help="JSON object: the workflow's names for image and annotation")
    parser.add_argument("--out", type=Path, required=True, help="folder of the plan")
    add_key_arguments(parser, after="")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    refuse_over(args.out, [args.image, *args.annotation])
    record = json.loads(args.settings)
    if record["value_range"] is not None:
        record["value_range"] = tuple(record["value_range"])
    manifest = plan_section(args.image, args.annotation, PlanSettings(**record), args.out, json.loads(args.editions))
    print(keyed(manifest, args.key))
