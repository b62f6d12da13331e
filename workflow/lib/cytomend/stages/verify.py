"""Say in plain words whether corrected sections can be trusted: run it in the folder where Snakemake runs.

Finds plan and result of a section by its name and its scan in the sheet, as ``cytomend status`` does, proves what
``cytomend verify-section`` proves, and writes nothing. Ends with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from cytomend.errors import InputError
from cytomend.settings import read_yaml
from cytomend.sheet import image_of, named_rows
from cytomend.stages.verify_section import verify_section
from cytomend.verdict import Verdict


def scan_of(section: str, configfile: Path) -> Path:
    """Return the scan of a section, as the sheet names it.

    Raises
    ------
    InputError
        If the sheet does not have the section, or names no scan of it.
    """
    sheet = Path(read_yaml(configfile, "config")["sections"])
    rows = named_rows(sheet)
    if section not in rows:
        raise InputError(f"section {section!r}: not in {sheet}, which has {len(rows)} sections; give --image")
    if not rows[section].get("image"):
        raise InputError(f"section {section!r}: {sheet} names no image of it; give --image")
    return image_of(rows[section], str(sheet))


def told(verdict: Verdict, corrected: Path) -> Iterator[str]:
    """Yield the lines of a verdict in plain words."""
    yield f"{verdict.section}: {corrected} {'can be trusted' if verdict.holds else 'IS WRONG'}"
    for check in verdict.checks:
        yield f"  {'yes' if check.holds else 'NO '}  {check.what}"
        yield from (f"         {sentence}" for sentence in check.wrong)
    yield (
        f"  {verdict.compared_px:,} of {verdict.pixels:,} px were compared with the scan, {verdict.altered_px:,} of"
        f" them differ; {verdict.mended_px:,} px are marked as synthetic; {verdict.levels} levels"
    )
    yield f"  checksum of the scan's pixels:   {verdict.checksum['scan'] or 'some could not be read'}"
    yield f"  checksum of the result's pixels: {verdict.checksum['result'] or 'some could not be read'}"
    yield from (f"  {sentence}" for sentence in verdict.advice)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sections", nargs="+", metavar="SECTION", help="sections to prove")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder (default: results)")
    parser.add_argument("--configfile", type=Path, default=Path("config/config.yaml"), help="as for Snakemake")
    parser.add_argument("--image", type=Path, help="scan of the one section, by default the one in the sheet")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    if args.image and len(args.sections) > 1:
        raise InputError(f"--image {args.image}: expected one section with it, found {len(args.sections)}")
    wrong = False
    for section in args.sections:
        folder = args.results / section
        if not folder.is_dir():
            raise InputError(f"{folder}: expected the results of section {section!r}, found none; check --results")
        corrected = folder / "corrected.ome.zarr"
        verdict = verify_section(args.image or scan_of(section, args.configfile), folder / "plan", corrected)
        print("\n".join(told(verdict, corrected)))
        wrong = wrong or not verdict.holds
    if wrong:
        sys.exit(1)
