"""Mend one scan without a workflow: the same stages, the same pixels.

Writes OUT.ome.zarr as `cytomend.stages.blend_section` does, and proves it (`cytomend.stages.verify_section`). What is
finished of an interrupted run lies in a hidden folder beside OUT, is used by the next run, and is removed at the end.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from cytomend.errors import InputError, ResourceError
from cytomend.screening.settings import ScreenSettings
from cytomend.settings import Record, checked
from cytomend.sheet import SectionSettings, settings_of
from cytomend.stages.blend_section import BlendSettings, blend_section
from cytomend.stages.mend_shard import Machine, MendSettings, add_machine_arguments, mend_shard
from cytomend.stages.plan_section import PlanSettings, plan_section
from cytomend.stages.screen_section import screen_section
from cytomend.stages.verify_section import verify_section
from cytomend.storage.frames import add_frame_argument, file_of, framed
from cytomend.storage.images import SUPPORTED, open_image
from cytomend.storage.omezarr import attributes_of
from cytomend.storage.publish import locked, manifest_of, require_replaceable

log = logging.getLogger(__name__)

LONGEST_NAME = 200
"""File systems take 255 bytes, and work folders need some of them."""


def mend(section: SectionSettings, config: Record, machine: Machine, out: Path) -> Path:
    """Plan, mend and blend one section; return the corrected OME-Zarr."""
    work = out.with_name(f".{out.name}.mending")
    with locked(work):
        try:
            return _mend_alone(section, config, machine, out, work)
        except InputError:
            shutil.rmtree(work, ignore_errors=True)  # nothing in it can be gone on from
            raise


def _mend_alone(section: SectionSettings, config: Record, machine: Machine, out: Path, work: Path) -> Path:
    plan, shard = work / "plan", work / "0.zarr"
    value_range = section.plan["value_range"]
    plan_section(
        section.image,
        annotations_in(section, work),
        PlanSettings(**{**section.plan, "value_range": value_range and tuple(value_range)}),
        plan,
    )
    mend_shard(section.image, plan, 0, section.model, MendSettings(**section.mend), machine, shard)
    blend_section(section.image, plan, [shard], BlendSettings(**config["pyramid"]), out)
    _prove(section.image, plan, out)
    shutil.rmtree(work)
    return out


def _prove(image: Path, plan: Path, out: Path) -> None:
    """Read scan and result once more; a result that is wrong is removed, for a viewer would open it."""
    verdict = verify_section(image, plan, out)
    if not verdict.holds:
        manifest_of(out).unlink(missing_ok=True)
        shutil.rmtree(out)
        raise ResourceError(
            f"{out}: expected what was written just now, found {'; '.join(verdict.wrong[:3])}; check disk and memory,"
            " and run again"
        )
    log.info(
        "proved: all %s px outside the mask equal the scan, %s px are synthetic; checksum of the first %s",
        f"{verdict.compared_px:,}",
        f"{verdict.mended_px:,}",
        verdict.checksum["result"],
    )


def annotations_in(section: SectionSettings, work: Path) -> Sequence[Path]:
    """Return the annotations of a section; where there are to be none, what screening proposes, in the work folder."""
    if section.annotations:
        return section.annotations
    proposals = work / "proposals.geojson"
    if not proposals.exists():
        work.mkdir(parents=True, exist_ok=True)
        screen_section(section.image, proposals, ScreenSettings.of(section.screen), section.plan["pixel_size_um"])
    return [proposals]


def section_of(args: argparse.Namespace, config: Record) -> SectionSettings:
    """Return the section that a command line describes, as a row of the sheet would."""
    if odd := [path for path in args.mask if ";" in str(path) or str(path) != str(path).strip()]:
        raise InputError(
            f"--mask {str(odd[0])!r}: names with semicolons, or blanks at an end, mean something else in a sheet;"
            " rename the file"
        )
    row = {
        "section": _section_name(args.image),
        "image": str(framed(args.image, getattr(args, "frame", None))),
        "annotation": ";".join(map(str, args.mask)),
        "pixel_size_um": _pixel_size_um(framed(args.image, getattr(args, "frame", None)))
        if args.pixel_size_um is None
        else args.pixel_size_um,
    }
    given = {
        key: getattr(args, key, None)
        for key in ("model", "fill", "sampler", "steps", "seed", "grow_px", "max_covered")
        if getattr(args, key, None) is not None
    }
    for known in ("truth", "cells"):
        if getattr(args, known, None) is not None:
            given[known] = str(getattr(args, known))
    for classes in ("include", "exclude"):
        if named := getattr(args, f"{classes}_class"):
            given[f"{classes}_classes"] = ";".join(named)
    return settings_of(checked({**row, **given}, "sections", "command line"), config, "command line")


def _section_name(image: Path) -> str:
    """Return the scan's name as a sheet would accept it."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in image.name.split(".")[0]).strip("-")[:80]
    return f"section-{plain}".strip("-") if plain in {"", "brain"} else plain


def _pixel_size_um(image: Path) -> float:
    with open_image(image) as opened:
        if opened.pixel_size_um is None:
            raise InputError(f"{image}: its metadata give no plausible pixel size; say it with --pixel-size-um")
        return opened.pixel_size_um


def _check_out(out: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse an output that would replace or change anything but an earlier result."""
    if len(out.name) > LONGEST_NAME:
        raise InputError(f"--out {out.name[:40]}...: a name of {len(out.name)} letters; {LONGEST_NAME} are possible")
    whole = out.absolute()
    for source in (file_of(path).absolute() for path in sources):
        if source.is_relative_to(whole) or whole.is_relative_to(source) or _same(source, whole):
            raise InputError(f"--out {out}: would replace or change {source}, from which it is made; choose another")
    if out.is_symlink():
        raise InputError(f"--out {out}: is a symbolic link; name the place itself")
    if not out.name.endswith(".zarr"):
        raise InputError(f"--out {out}: expected a name that ends in .ome.zarr")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: exists already; choose another name, or give --overwrite")
    if out.exists() and "cytomend" not in attributes_of(out):
        raise InputError(f"--out {out}: exists and was not made by cytomend; it is not overwritten")
    require_replaceable(out)
    if not out.exists() and manifest_of(out).exists():
        raise InputError(f"--out {out}: {manifest_of(out)} exists already; remove it, or choose another name")


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help=f"scan: {SUPPORTED}")
    parser.add_argument(
        "--mask",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        help="artefacts, united: GeoJSON as QuPath exports it, ImageJ outlines (.roi, .zip), mask images; or auto: what"
        " screen-section proposes",
    )
    parser.add_argument("--out", type=Path, required=True, help="corrected image, OUT.ome.zarr")
    parser.add_argument(
        "--pixel-size-um", type=float, help="side of a pixel in µm (default: from the image's metadata)"
    )
    add_frame_argument(parser)
    parser.add_argument("--model", help="bundled model or checkpoint (default: tiny)")
    parser.add_argument(
        "--fill",
        choices=["graft", "draw"],
        help="graft: copy intact tissue into wide regions and draw joints; draw: the network alone (default: graft)",
    )
    parser.add_argument("--sampler", help="repaint, repaint-strided, timemap or langevin (default: timemap)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the sampler's)")
    parser.add_argument("--seed", type=int, help="seed of the noise (default: 0)")
    parser.add_argument("--samples", type=int, help="how often to mend, to show how far fillings differ (default: 1)")
    parser.add_argument("--precision", help="of the network: bfloat16 or float32 (default: bfloat16)")
    parser.add_argument("--grow-px", type=int, help="margin in px that is mended around the mask (default: 3)")
    parser.add_argument(
        "--max-covered",
        type=float,
        help="share of the tissue, 0 to 1, that masks may cover; a mask that covers more is taken for one of the tissue"
        " (default: 0.5)",
    )
    parser.add_argument(
        "--include-class",
        action="append",
        metavar="NAME",
        help="only annotations of this class are damage; may be repeated",
    )
    parser.add_argument(
        "--exclude-class",
        action="append",
        metavar="NAME",
        help="annotations of this class are no damage; may be repeated",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    add_machine_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    _check_out(args.out, [args.image, *args.mask], overwrite=args.overwrite)
    given = {key: getattr(args, key) for key in ("samples", "precision") if getattr(args, key) is not None}
    config = checked({"mend": given}, "config", "command line")
    machine = Machine.of(args.device, args.threads, args.batch_windows)
    print(mend(section_of(args, config), config, machine, args.out))
