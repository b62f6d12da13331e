"""Which frame of a file is read, and how a name says it: ``slide.mrxs#canvas``, ``scan.czi#scene2``.

A frame is the rectangle from whose corner coordinates count. A file often has several: a slide has the canvas that the
stage can reach and the bounds of what was scanned, a CZI file has scenes, a photo has an orientation tag. An annotation
fits the frame in which it was drawn, and no other.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from cytomend.errors import InputError

BOUNDS, CANVAS, STORED, UPRIGHT = "bounds", "canvas", "stored", "upright"
MARK = "#"
HELP = (
    "frame of the scan in which the annotation was drawn: bounds (scanned part of a slide, default) or canvas (all of"
    " it), sceneN of a CZI file, stored (default) or upright of a picture with an orientation tag"
)
_NAMED = re.compile(r"(bounds|canvas|stored|upright|scene *=? *[1-9][0-9]*)", re.IGNORECASE)
_SCENE = re.compile(r"scene([1-9][0-9]*)")


def file_and_frame(path: Path) -> tuple[Path, str]:
    """Return the file that a name means, and the frame that it asks for, or an empty one.

    >>> file_and_frame(Path("brain/scan.czi#Scene 2"))
    (PosixPath('brain/scan.czi'), 'scene2')
    >>> file_and_frame(Path("scan#7.tif"))
    (PosixPath('scan#7.tif'), '')
    """
    name, _, frame = path.name.rpartition(MARK)
    if not name or not _NAMED.fullmatch(frame) or os.path.lexists(path):
        return path, ""
    return path.with_name(name), normal(frame)


def file_of(path: Path) -> Path:
    """Return the file that a name means, without the frame."""
    return file_and_frame(path)[0]


def mark_of(path: Path) -> str:
    """Return what a name says of the frame, to be put behind the name of the file.

    >>> mark_of(Path("scan.czi#Scene 2")), mark_of(Path("scan.czi"))
    ('#scene2', '')
    """
    frame = file_and_frame(path)[1]
    return f"{MARK}{frame}" if frame else ""


def framed(path: Path, frame: str | None) -> Path:
    """Return the name of a frame of a file.

    >>> framed(Path("scan.czi"), "scene 2"), framed(Path("scan.tif"), None)
    (PosixPath('scan.czi#scene2'), PosixPath('scan.tif'))

    Raises
    ------
    InputError
        If no frame is called so, or the name asks for another one.
    """
    if not frame:
        return path
    file, named = file_and_frame(path)
    if not _NAMED.fullmatch(frame):
        raise InputError(f"{path}: expected a frame called bounds, canvas, stored, upright or sceneN, found {frame!r}")
    if named not in ("", normal(frame)):
        raise InputError(f"{path}: expected one frame, found {frame!r} beside it; name it once")
    return file.with_name(f"{file.name}{MARK}{normal(frame)}")


def normal(frame: str) -> str:
    """Return a frame's name in its one spelling."""
    return re.sub(r"[ =]", "", frame).lower()


def scene_in(frame: str) -> int | None:
    """Return the number of a scene, from 1, or None if the frame is no scene."""
    scene = _SCENE.fullmatch(frame)
    return int(scene.group(1)) if scene else None


def require_frame(path: Path, frame: str, *known: str) -> None:
    """Refuse a frame that a file does not have.

    Raises
    ------
    InputError
        If it is none of those that are known.
    """
    if frame and frame not in known:
        has = f"of the frames {' and '.join(known)}" if known else "that has one frame"
        raise InputError(f"{path}: expected a file with the frame {frame!r}, found one {has}; correct the frame")


def add_frame_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names the frame of a scan."""
    parser.add_argument("--frame", help=HELP)
