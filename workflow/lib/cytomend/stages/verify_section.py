"""Prove that a corrected section is the scan it was made from, but for the pixels it marks as mended.

Reads scan, plan and result through once and writes a verdict. A wrong result is no error of this stage: the verdict is
written, says what is wrong, and the page of the section shows it.

The verdict's entries and checks are listed in `cytomend.verdict`.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cytomend import __version__
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.grafts.proof import wrong_grafts
from cytomend.grafts.record import ORIGIN as ORIGIN_NAME
from cytomend.heat import UNCERTAINTY as UNCERTAINTY_NAME
from cytomend.progress import Progress
from cytomend.regions.plan import Plan, SectionFacts
from cytomend.storage.desktop import lies_in_left_behind
from cytomend.storage.identity import image_identity
from cytomend.storage.images import SectionImage, open_image
from cytomend.storage.ome_metadata import invalid, misplaced, unlisted_labels, validator
from cytomend.storage.omezarr import attributes_of
from cytomend.storage.proof import (
    CHECKSUM,
    IMAGE,
    MENDED,
    ORIGIN,
    PLAN,
    SCAN,
    TILE_PX,
    UNCERTAINTY,
    Findings,
    Layer,
    Proof,
)
from cytomend.storage.publish import (
    BOOKKEEPING,
    add_key_arguments,
    checksums,
    manifest_of,
    read_manifest,
    refuse_over,
    require_key,
)
from cytomend.storage.pyramid import VERSION, halve_by_maximum, halve_by_mean, halve_by_pooling, level_shapes
from cytomend.storage.raster import first_line
from cytomend.verdict import CHECKS, Check, Verdict, advice
from cytomend.verification import damage

log = logging.getLogger(__name__)

HALVE = {IMAGE: halve_by_mean, MENDED: halve_by_maximum, UNCERTAINTY: halve_by_pooling, ORIGIN: halve_by_maximum}
TOLD = {
    "model": r".+",
    "fill": r"graft|draw",
    "checkpoint_sha256": r"[0-9a-f]{64}",
    "sampler": r".+",
    "seed": r"\d+",
    "cytomend": r".+",
}
"""What a result must tell of how it was made (law 1), each as a pattern."""
NAMED_FILES = 5


def verify_section(
    image_path: Path, plan_folder: Path, corrected: Path, key: str | None = None, tile_px: int = TILE_PX
) -> Verdict:
    """Read scan, plan and corrected section and return the verdict.

    Parameters
    ----------
    image_path : the scan
    plan_folder, corrected : what `plan_section` and `blend_section` made of it
    key : the workflow's name for all that the verdict is made from
    tile_px : side of what is read at a time; a part of the checksum's definition

    Raises
    ------
    InputError
        If scan or plan cannot be opened, or there is no corrected section: then there is nothing to be proved.
    ResourceError
        If the validator is not installed.
    """
    versions = _versions()
    for folder in (plan_folder, corrected):
        if not folder.is_dir():
            raise InputError(f"{folder}: expected a finished result, found no such folder; make it first")
        read_manifest(manifest_of(folder))  # without one it is unfinished
    plan = Plan.read(plan_folder)
    facts, wrong = plan.facts, dict[str, list[str]]()
    identity = image_identity(image_path)
    wrong["plan"] = list(_wrong_files(plan_folder))
    wrong["files"] = [*_wrong_files(corrected), *_wrong_manifest(corrected, plan_folder, facts)]
    count = _level_count(corrected, facts)
    labels = _labels_of(corrected, facts)
    arrays = _Arrays(corrected, facts, count, labels)
    wrong["metadata"] = [*invalid(corrected), *_wrong_metadata(corrected, facts, count, labels), *arrays.wrong]
    wrong["provenance"] = list(_wrong_provenance(corrected, plan))
    pixels = facts.shape[0] * facts.shape[1]
    with open_image(image_path) as image, Progress(f"verify {facts.section}", pixels, "pixel") as progress:
        unlike = list(_unlike(image, facts))
        wrong["scan"] = [*_another_scan(image_path, identity, facts), *unlike]
        scan = _refused(unlike[0]) if unlike else image.read
        mended = _told_of(plan_folder, plan.mended)
        found = Proof(facts.shape, scan, mended, arrays.layers, progress.update, tile_px).run()
        if ORIGIN_NAME in labels:
            barred = plan.not_intact().read
            wrong["grafts"] = [
                *_wrong_origin(found, corrected),
                *wrong_grafts(corrected, scan, barred, mended, facts.shape),
            ]
    wrong["untouched"] = list(_wrong_untouched(found, corrected))
    wrong["labels"] = list(_wrong_labels(found, facts, corrected))
    wrong["levels"] = [*_wrong_levels(found, corrected), *_missing_levels(arrays.layers, count, corrected)]
    if facts.samples > 1:
        wrong["uncertainty"] = list(_wrong_uncertainty(found, facts, corrected))
    checks = [Check(name, what, not wrong[name], wrong[name]) for name, what in CHECKS.items() if name in wrong]
    failed = [check.check for check in checks if not check.holds]
    log.info("section %s: %s", facts.section, f"wrong: {', '.join(failed)}" if failed else "everything holds")
    return Verdict(
        section=facts.section,
        holds=not failed,
        wrong=[sentence for check in checks for sentence in check.wrong],
        advice=list(advice(failed, image_path, plan_folder, corrected)),
        checks=checks,
        pixels=pixels,
        compared_px=found.compared_px,
        altered_px=found.altered.count,
        first_altered=found.altered.first,
        mended_px=found.mended_px,
        mislabelled_px=found.mislabelled.count,
        first_mislabelled=found.mislabelled.first,
        levels=count,
        checksum={
            "scan": found.scan_sha256 or None,
            "result": found.result_sha256 or None,
            "how": CHECKSUM.format(tile_px=tile_px),
        },
        scan=str(image_path),
        scan_blake2b=identity,
        plan_sha256=_identity(plan_folder),
        corrected_sha256=_identity(corrected),
        versions=versions,
        key=key,
    )


def _versions() -> dict[str, str]:
    return {
        "cytomend": __version__,
        "zarr": zarr.__version__,
        "numpy": np.__version__,
        "validator": validator(),
        "ome_zarr": VERSION,
    }


class _Arrays:
    """The arrays of a result: of each pyramid those up to the first that is not as it should be, and what is wrong."""

    def __init__(self, corrected: Path, facts: SectionFacts, count: int, labels: list[str]) -> None:
        self.wrong: list[str] = []
        lead = (facts.channels,) if facts.channels > 1 else ()
        names = [IMAGE, *(f"labels/{label}" for label in labels)]
        self.layers = {
            name: Layer(list(self._sound(corrected, name, facts, count, lead if name == IMAGE else ())), HALVE[name])
            for name in names
        }

    def _sound(
        self, corrected: Path, name: str, facts: SectionFacts, count: int, lead: tuple[int, ...]
    ) -> Iterator[zarr.Array[Any]]:
        folder, dtype = (
            corrected / ("" if name == IMAGE else name),
            "uint32" if name in {MENDED, ORIGIN} else facts.dtype,
        )
        axes = ("c", "y", "x")[-2 - len(lead) :]
        for level, shape in enumerate(_halved(facts.shape, count)):
            try:
                array = zarr.open_array(folder / str(level), mode="r")
            except Exception as error:  # a missing folder, damaged metadata
                self.wrong.append(
                    f"{folder / str(level)}: expected an array, found none that can be read ({first_line(error)})"
                )
                return
            named = tuple(getattr(array.metadata, "dimension_names", None) or ())
            if named != axes:
                self.wrong.append(f"{folder / str(level)}: expected the axes {axes}, found {named}")
            if (array.shape, str(array.dtype)) != (lead + shape, dtype):
                self.wrong.append(
                    f"{folder / str(level)}: expected {lead + shape} {dtype}, found {array.shape} {array.dtype}"
                )
                return
            yield array


def _halved(shape: tuple[int, int], count: int) -> list[tuple[int, int]]:
    return [(-(-shape[0] // 2**level), -(-shape[1] // 2**level)) for level in range(count)]


def _level_count(corrected: Path, facts: SectionFacts) -> int:
    """Return how many levels there should be: halved until they fit a chunk, or as many as the manifest tells."""
    try:
        array = zarr.open_array(corrected / "0", mode="r")
        return len(level_shapes(*facts.shape, array.chunks[-1]))
    except Exception:  # told of when the array is opened to be read
        levels = _manifest(corrected).get("levels")
        return levels if isinstance(levels, int) and 0 < levels < 64 else 1


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_manifest(manifest_of(folder)))
    except (InputError, TypeError, ValueError):
        return {}


def _identity(folder: Path) -> str:
    return str(_manifest(folder).get("sha256", ""))


def _wrong_files(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the files of a published folder."""
    found = damage(folder, lambda _: None)
    names = found.files if found else []
    if missing := [name for name in names if not (folder / name).exists() and name != manifest_of(folder).name]:
        yield f"{folder}: expected all files that were written, found missing: {_named(missing)}"
    if altered := [name for name in names if name not in missing]:
        yield f"{folder}: expected files as they were written, found altered or damaged: {_named(altered)}"
    try:
        listed = checksums(folder)
    except InputError:
        return  # told of above
    there = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    names = [str(path.relative_to(folder)) for path in there if not lies_in_left_behind(path.relative_to(folder))]
    if unlisted := [name for name in names if name not in listed and name not in BOOKKEEPING]:
        yield f"{folder}: expected only files that were written with it, found also: {_named(unlisted)}"


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_FILES:,} more" if len(names) > NAMED_FILES else ""
    return ", ".join(names[:NAMED_FILES]) + more


def _wrong_manifest(corrected: Path, plan_folder: Path, facts: SectionFacts) -> Iterator[str]:
    """Yield where the manifest of the result speaks of something else than the plan."""
    said = _manifest(corrected)
    wanted = {"section": facts.section, "masked_px": facts.masked_px, "plan": _identity(plan_folder)}
    yield from _unequal(f"{manifest_of(corrected)}", wanted, said)


def _unequal(where: str, wanted: Mapping[str, Any], said: Mapping[str, Any]) -> Iterator[str]:
    for name, value in wanted.items():
        if name not in said:
            yield f"{where}: expected {name} {value}, found no such entry"
        elif said[name] != value:
            yield f"{where}: expected {name} {value}, found {said[name]}"


def _labels_of(corrected: Path, facts: SectionFacts) -> list[str]:
    """Return the labels that the result should have."""
    said = attributes_of(corrected).get("cytomend")
    grafted = isinstance(said, dict) and said.get("fill") == "graft"
    return ["mended", *([UNCERTAINTY_NAME] if facts.samples > 1 else []), *([ORIGIN_NAME] if grafted else [])]


def _wrong_metadata(corrected: Path, facts: SectionFacts, count: int, labels: list[str]) -> Iterator[str]:
    """Yield what is wrong with versions, axes, scales and lists of labels."""
    size = facts.pixel_size_um
    yield from misplaced(corrected, name=IMAGE, levels=count, channels=facts.channels, pixel_size_um=size)
    for label in labels:
        place = corrected / "labels" / label
        yield from misplaced(place, name=f"labels/{label}", levels=count, channels=1, pixel_size_um=size)
    yield from unlisted_labels(corrected, labels)


def _wrong_provenance(corrected: Path, plan: Plan) -> Iterator[str]:
    """Yield where the result tells another origin than the plan does, or none."""
    said, facts, where = attributes_of(corrected).get("cytomend"), plan.facts, f"{corrected / 'zarr.json'}, cytomend"
    if not isinstance(said, dict):
        yield f"{where}: expected how the section was mended, found nothing that can be read"
        return
    drawn = zip(plan.regions["region"], plan.regions["draw"], strict=True)
    wanted = {
        "source_blake2b": facts.source_blake2b,
        "mask_blake2b": facts.mask_blake2b,
        "grow_px": facts.grow_px,
        "window_px": facts.window_px,
        "stride_px": facts.stride_px,
        "value_range": list(facts.value_range),
        "samples": facts.samples,
        "regions": len(plan.regions),
        "mended_px": facts.masked_px,
        "left_regions": [region.number for region in facts.left],
        "redrawn": {str(number): int(draw) for number, draw in drawn if draw},
    }
    yield from _unequal(where, wanted, said)
    for name, pattern in TOLD.items():
        if not re.fullmatch(pattern, str(said.get(name, ""))):
            yield f"{where}: expected {name}, which tells how the section was mended, found {said.get(name)!r}"


def _another_scan(image: Path, identity: str, facts: SectionFacts) -> Iterator[str]:
    if identity != facts.source_blake2b:
        yield (
            f"{image}: expected the scan that was planned (BLAKE2b {facts.source_blake2b[:16]}...), found another"
            f" content ({identity[:16]}...)"
        )


def _unlike(image: SectionImage, facts: SectionFacts) -> Iterator[str]:
    """Yield what makes a scan one that cannot be compared."""
    wanted = (facts.shape, facts.channels, facts.dtype)
    if (found := (image.shape, image.channels, str(image.dtype))) != wanted:
        yield (
            f"{image.path}: expected {wanted[0]} px, {wanted[1]} channels, {wanted[2]}, as planned; found"
            f" {found[0]} px, {found[1]} channels, {found[2]}"
        )


def _refused(sentence: str) -> Callable[[Box], NDArray[Any]]:
    """Return a scan of which no pixel can be compared, for the reason given."""

    def read(_: Box) -> NDArray[Any]:
        raise InputError(sentence)

    return read


def _told_of(plan_folder: Path, mended: Callable[[Box], NDArray[np.uint32]]) -> Callable[[Box], NDArray[np.uint32]]:
    """Return what the plan has mended, with a sentence where it cannot be read."""

    def read(box: Box) -> NDArray[np.uint32]:
        try:
            return mended(box)
        except Exception as error:  # codecs raise whatever they like on damaged data
            raise InputError(
                f"{plan_folder / 'labels.zarr'}: expected readable numbers at y {box.y0}-{box.y1}, x {box.x0}-{box.x1},"
                f" found damaged data ({first_line(error)})"
            ) from error

    return read


def _unreadable(found: Findings, *places: tuple[str, int]) -> Iterator[str]:
    """Yield sentences about tiles that could not be decoded, not too many."""
    sentences = [sentence for place in places for sentence in found.unreadable.get(place, [])]
    yield from sentences[:NAMED_FILES]
    if len(sentences) > NAMED_FILES:
        yield f"{len(sentences) - NAMED_FILES:,} more tiles cannot be read"


def _wrong_untouched(found: Findings, corrected: Path) -> Iterator[str]:
    """Yield what speaks against law 1."""
    yield from _unreadable(found, (SCAN, 0), (IMAGE, 0))
    if found.altered.count:
        yield (
            f"{corrected / '0'}: expected the scan's pixels outside the mask, found {found.altered.count:,} px altered,"
            f" first at {found.altered.said()}"
        )
    if found.compared_px != found.unmended_px:
        yield (
            f"{corrected / '0'}: expected {found.unmended_px:,} px outside the mask to compare with the scan, could"
            f" compare {found.compared_px:,} only"
        )


def _wrong_labels(found: Findings, facts: SectionFacts, corrected: Path) -> Iterator[str]:
    """Yield what is wrong with the label of mended pixels."""
    yield from _unreadable(found, (PLAN, 0), (MENDED, 0))
    if found.mislabelled.count:
        yield (
            f"{corrected / MENDED / '0'}: expected the region numbers of the plan, found {found.mislabelled.count:,} px"
            f" with others, first at {found.mislabelled.said()}"
        )
    if found.mended_px != facts.masked_px:
        where = " in what can be read" if (MENDED, 0) in found.unreadable else ""
        yield (
            f"{corrected / MENDED / '0'}: expected {facts.masked_px:,} px marked as mended, found"
            f" {found.mended_px:,}{where}"
        )


def _wrong_levels(found: Findings, corrected: Path) -> Iterator[str]:
    """Yield which levels are not made of the ones below."""
    yield from _unreadable(found, *(place for place in sorted(found.unreadable) if place[1] > 0))
    for name in (IMAGE, MENDED, UNCERTAINTY, ORIGIN):
        if (name, 0) in found.unreadable:
            yield f"{_array_of(corrected, name, 0)}: cannot be read in places, so that no level was compared there"
    for (name, level), places in sorted(found.levels.items()):
        if places.count:
            yield (
                f"{_array_of(corrected, name, level)}: expected pixels made of those of level {level - 1}, found"
                f" {places.count:,} others, first at {places.said()} (px of that level)"
            )


def _missing_levels(layers: Mapping[str, Layer], count: int, corrected: Path) -> Iterator[str]:
    """Yield which pyramids could not be compared to their top."""
    for name, layer in layers.items():
        if (there := len(layer.levels)) < count:
            yield f"{_array_of(corrected, name, there)}: expected a sound level, so that {count} can be compared"


def _array_of(corrected: Path, name: str, level: int) -> Path:
    return corrected / ("" if name == IMAGE else name) / str(level)


def _wrong_uncertainty(found: Findings, facts: SectionFacts, corrected: Path) -> Iterator[str]:
    """Yield what is wrong with the uncertainty."""
    place = corrected / UNCERTAINTY
    yield from _unreadable(found, (UNCERTAINTY, 0))
    if found.doubted.count:
        yield (
            f"{place / '0'}: expected 0 outside the mask, found {found.doubted.count:,} px with a deviation, first at"
            f" {found.doubted.said()}"
        )
    said = attributes_of(place).get("cytomend")
    told, mean = said.get("mean") if isinstance(said, dict) else None, found.deviation_sum / max(facts.masked_px, 1)
    if not isinstance(told, int | float) or not math.isclose(told, mean, rel_tol=1e-6, abs_tol=1e-9):
        yield f"{place / 'zarr.json'}, cytomend: expected the mean of all mended pixels, {mean:.6g}, found {told}"


def _wrong_origin(found: Findings, corrected: Path) -> Iterator[str]:
    """Yield where the label of origins and that of mended pixels do not mark the same."""
    yield from _unreadable(found, (ORIGIN, 0))
    if found.misplaced.count:
        yield (
            f"{corrected / ORIGIN / '0'}: expected an origin of every mended pixel and of no other, found"
            f" {found.misplaced.count:,} px, first at {found.misplaced.said()}"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--image", type=Path, required=True, help="scan of the section")
    parser.add_argument("--plan", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--corrected", type=Path, required=True, help="corrected section (OME-Zarr)")
    parser.add_argument("--out", type=Path, required=True, help="the verdict (JSON)")
    add_key_arguments(parser, after="a corrected section")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    refuse_over(args.out, [args.image, args.plan, args.corrected])
    require_key(args.corrected, args.after)
    verdict = verify_section(args.image, args.plan, args.corrected, args.key)
    for sentence in verdict.wrong:
        log.error("%s", sentence)
    print(verdict.write(args.out))
