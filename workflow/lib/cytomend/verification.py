"""Whether results still hold what was written, and what becomes of those that do not.

Snakemake looks at a folder's time only, so that a file lost or altered inside goes unnoticed. A damaged result loses
its manifest, without which it counts as unfinished.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cytomend.errors import InputError, ResourceError
from cytomend.storage.publish import CHECKSUMS, checksums, locked, manifest_of, read_manifest

BRAIN = Path("brain/evaluation")
READ_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Damage:
    """A result of which files are missing or altered."""

    folder: Path
    files: list[str]


def published(section: Path) -> list[Path]:
    """Return the finished results of a section's folder, in the order in which they are made."""
    shards = sorted(section.glob("mended/*.manifest.json"), key=lambda path: (len(path.name), path.name))
    places = [
        section / "plan",
        *(path.with_name(path.name.removesuffix(".manifest.json") + ".zarr") for path in shards),
        section / "corrected.ome.zarr",
        section / "trials.zarr",
        section / "evaluation",
    ]
    return [place for place in places if manifest_of(place).is_file()]


def size_bytes(folder: Path) -> int:
    """Return how many bytes are to be read to verify a result, as far as its files are there."""
    try:
        places = [folder / name for name in checksums(folder)]
    except InputError:
        return 0
    return sum(place.stat().st_size for place in places if place.is_file())


def is_being_written(folder: Path) -> bool:
    """Whether a process holds a result."""
    if not folder.with_name(f".{folder.name}.lock").exists():
        return False
    try:
        with locked(folder):  # or it was left behind by a killed process
            return False
    except (InputError, ResourceError):
        return True


def damage(folder: Path, read: Callable[[int], object]) -> Damage | None:
    """Read a result through and return what is wrong with it.

    Parameters
    ----------
    folder : a result with a manifest
    read : told how many bytes were read, again and again
    """
    if not folder.is_dir():
        return Damage(folder, ["the whole folder"])
    try:
        told = read_manifest(manifest_of(folder))["sha256"]
    except (InputError, KeyError, TypeError):
        return Damage(folder, [manifest_of(folder).name])
    try:
        expected = checksums(folder)
    except InputError:
        return Damage(folder, [CHECKSUMS])
    if _digest(folder / CHECKSUMS, read) != told:
        return Damage(folder, [CHECKSUMS])
    wrong = [name for name, digest in expected.items() if _digest(folder / name, read) != digest]
    return Damage(folder, wrong) if wrong else None


def set_aside(found: Damage, written: bytes) -> bool:
    """Let a damaged result count as unfinished; return whether it was still the one that was read.

    Parameters
    ----------
    found : what is wrong
    written : its manifest, as it was before the result was read
    """
    manifest = manifest_of(found.folder)
    try:
        with locked(found.folder):
            if manifest.read_bytes() != written:
                return False
            manifest.unlink()
    except (FileNotFoundError, ResourceError):  # written anew meanwhile
        return False
    return True


def what_follows(folder: Path) -> str:
    """Return what becomes of a result that was set aside, in words.

    The results of which later ones are made come before those, so ask when all of a section are set aside.
    """
    section = folder.parent.parent if folder.parent.name == "mended" else folder.parent
    made_of_it = {
        "plan": ("corrected.ome.zarr", "evaluation"),
        "trials.zarr": ("evaluation",),
    }.get(folder.name, ("corrected.ome.zarr",) if folder.parent.name == "mended" else ())
    later = [section / name for name in made_of_it if (section / name).exists()]
    if later and all(manifest_of(place).is_file() for place in later):
        names = " and ".join(place.name for place in later)
        return f"what was made from it ({names}) is unharmed, so it is made again only when a later stage needs it"
    return "the next `snakemake` makes it again, and what follows from it"


def _digest(path: Path, read: Callable[[int], object]) -> str:
    """Return the checksum of a file; of one that is missing or cannot be read nothing."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
                read(len(block))
    except OSError:
        return ""
    return digest.hexdigest()


def verify(folders: list[Path], read: Callable[[int], object]) -> Iterator[tuple[Path, Damage | str | None]]:
    """Yield results with what is wrong with each, a word about why it was left alone, or nothing.

    Those that are damaged are set aside.
    """
    for folder in folders:
        manifest = manifest_of(folder)
        if is_being_written(folder):
            yield folder, "is being written: left alone"
            continue
        try:
            before = manifest.read_bytes()
        except OSError:
            yield folder, "is being made again: left alone"
            continue
        found = damage(folder, read)
        if found and not set_aside(found, before):
            yield folder, "was written anew meanwhile: left alone"
        else:
            yield folder, found
