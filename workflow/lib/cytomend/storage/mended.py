"""A corrected section is no scan: whatever is made of it as if it were one takes synthetic pixels for measured ones."""

from __future__ import annotations

from pathlib import Path

from cytomend.errors import InputError
from cytomend.storage.frames import file_of
from cytomend.storage.omezarr import attributes_of
from cytomend.storage.tiff_pyramid import is_mended_tiff


def refuse_mended(scan: Path, where: str) -> None:
    """Refuse what cytomend wrote: a corrected section, or a TIFF that was exported from one.

    Raises
    ------
    InputError
        If it is one; ``where`` begins the sentence.
    """
    file = file_of(scan)
    if "cytomend" in attributes_of(file) or is_mended_tiff(file):
        raise InputError(
            f"{where} is a mended section, whose synthetic pixels would pass for measured ones; give the scan it was"
            " made from, and all artefacts in one annotation"
        )
