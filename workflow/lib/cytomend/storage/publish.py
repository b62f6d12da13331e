"""Results appear whole or not at all: written beside their place, renamed into it, guarded by a manifest of checksums.

A folder ``plan`` has its manifest beside it, ``plan.manifest.json``; ``7.zarr`` has ``7.manifest.json``. The manifest
is written last, so that a result without one is unfinished, and it is small, so that the workflow compares it by
content. The checksum of every file stands in ``checksums.tsv`` inside the folder.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cytomend.errors import InputError, ResourceError
from cytomend.storage.desktop import lies_in_left_behind, without_left_behind
from cytomend.storage.frames import file_of

CHECKSUMS = "checksums.tsv"
READERS = 4
BOOKKEEPING = {CHECKSUMS, ".snakemake_timestamp"}
"""Files in a published folder that are not part of the result."""


def manifest_of(folder: Path) -> Path:
    """Return where the manifest of a published folder stands."""
    return folder.with_name(folder.name.removesuffix(".zarr").removesuffix(".ome") + ".manifest.json")


@contextmanager
def one_writer(folder: Path) -> Iterator[Path]:
    """Yield the work folder of a result, held by this process alone until it is published.

    What an earlier, killed writer left in it is still there.

    Raises
    ------
    InputError
        If something else than an earlier result stands there.
    ResourceError
        If another process is writing the same result, or the disk is full.
    """
    work = folder.with_name(f".{folder.name}.work")
    with told_if_disk_is_full(folder), locked(folder):
        require_replaceable(folder)
        work.mkdir(exist_ok=True)
        try:
            yield work
        except InputError:
            shutil.rmtree(work)  # what was made from it is worth nothing
            raise


def require_replaceable(folder: Path) -> None:
    """Refuse to replace what is neither an earlier result nor empty.

    Raises
    ------
    InputError
        If it is a file, a link, or a folder with content and without the checksums of a result.
    """
    if not os.path.lexists(folder) or (
        folder.is_dir()
        and not folder.is_symlink()
        and ((folder / CHECKSUMS).is_file() or not _names(folder) - BOOKKEEPING)
    ):
        return
    raise InputError(
        f"{folder}: expected nothing or an earlier result that may be replaced, found something else; give another"
        " place, or move it away"
    )


@contextmanager
def locked(result: Path) -> Iterator[None]:
    """Hold a result for this process alone.

    Raises
    ------
    ResourceError
        If another process holds it.
    """
    place = result.with_name(f".{result.name}.lock")
    try:
        with told_if_disk_is_full(result):
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = place.open("w")
    except OSError as error:
        raise InputError(f"{result}: cannot be a place for results ({error.strerror}: {error.filename})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError(f"{result}: another process is writing it; wait for it to end, or stop it") from error
        if not place.exists() or place.stat().st_ino != os.fstat(lock.fileno()).st_ino:
            raise ResourceError(f"{result}: another process wrote it just now; run again")
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


def keep_only(work: Path, made_from: str) -> None:
    """Throw away what an earlier writer left in a work folder, unless it was made from the very same."""
    note = work / "made-from"
    if note.exists() and note.read_text() == made_from:
        return
    for path in work.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    note.write_text(made_from)


def publish(work: Path, folder: Path, facts: dict[str, Any]) -> Path:
    """Rename a finished work folder into its place and write its manifest, which is returned.

    Parameters
    ----------
    work : the finished folder, on the same file system
    folder : its place; what stood there is replaced
    facts : what the manifest says besides the checksums; builtins only
    """
    manifest = manifest_of(folder)
    names = [str(path.relative_to(work)) for path in sorted(_files(work))]
    digests = dict(zip(names, _sha256_of_all(work, names), strict=True))
    listing = "".join(f"{digest}\t{name}\n" for name, digest in digests.items())
    (work / CHECKSUMS).write_text(listing, encoding="utf-8")
    record = {"sha256": hashlib.sha256(listing.encode()).hexdigest(), "files": len(digests), **facts}
    manifest.unlink(missing_ok=True)  # from here until the new one is written, the result counts as unfinished
    replaced = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(replaced, ignore_errors=True)
    require_replaceable(folder)
    for left in manifest.parent.glob(f".{glob.escape(manifest.name)}.*"):  # by writers that were killed
        left.unlink(missing_ok=True)
    if folder.exists():
        folder.rename(replaced)
    work.rename(folder)
    _write_manifest(manifest, record)
    shutil.rmtree(replaced, ignore_errors=True)
    return manifest


def amend_manifest(manifest: Path, facts: dict[str, Any]) -> Path:
    """Let a manifest say something else of the same result, and return it."""
    _write_manifest(manifest, {**read_manifest(manifest), **facts})
    return manifest


def keyed(manifest: Path, key: str | None) -> Path:
    """Let a manifest say by which key the workflow knows all that the result was made from, and return it."""
    return amend_manifest(manifest, {"key": key}) if key else manifest


def require_key(folder: Path, key: str | None) -> None:
    """Refuse a published folder that was made from something else than the workflow now asks for.

    A job that ends after its Snakemake was killed leaves a whole result of which Snakemake does not know the settings.

    Raises
    ------
    InputError
        If it is unfinished, or its key is another. Nothing is asked if ``key`` is None, as when called by hand.
    """
    if key and read_manifest(manifest_of(folder)).get("key") != key:
        raise InputError(
            f"{folder}: was made from other files, settings or code than are asked for now; delete"
            f" {manifest_of(folder)} and run again"
        )


def add_key_arguments(parser: argparse.ArgumentParser, after: str) -> None:
    """Declare by which keys a workflow knows what a result is made from; ``after`` says what it follows."""
    parser.add_argument("--key", help="the workflow's name for all that the result is made from, kept in its manifest")
    if after:
        parser.add_argument("--after", metavar="KEY", help=f"refuse {after} that was made from something else")


def _write_manifest(manifest: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    write_whole(manifest, lambda path: path.write_text(text, encoding="utf-8"))


def read_manifest(manifest: Path) -> dict[str, Any]:
    """Return the record of a manifest.

    Raises
    ------
    InputError
        If it is missing, damaged, or its folder is gone.
    """
    try:
        record: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise TypeError(f"found {type(record).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{manifest}: expected the manifest of a finished result ({error}); make it again") from error
    return record


def damaged_files(folder: Path) -> list[str]:
    """Return the files of a published folder that are missing or altered since it was written, by their checksums."""
    expected = checksums(folder)
    there = [name for name in expected if (folder / name).is_file()]
    found = dict(zip(there, _sha256_of_all(folder, there), strict=True))
    return [name for name, digest in expected.items() if found.get(name) != digest]


def checksums(folder: Path) -> dict[str, str]:
    """Return the checksum of every file of a published folder, by its relative path.

    Raises
    ------
    InputError
        If the list of them is missing, damaged, or not the one that the manifest speaks of.
    """
    place, manifest = folder / CHECKSUMS, manifest_of(folder)
    try:
        listing = place.read_bytes()
        if manifest.exists() and read_manifest(manifest)["sha256"] != hashlib.sha256(listing).hexdigest():
            raise ValueError(f"found others than {manifest} speaks of")
        lines = listing.decode("utf-8").splitlines()
        return {name: digest for digest, name in (line.split("\t", 1) for line in lines)}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{place}: expected the checksums of a finished result ({error}); make it again") from error


def require_intact(folder: Path) -> None:
    """Read a published folder through and compare it with its checksums.

    Raises
    ------
    InputError
        If it is unfinished, or a file of it is missing or altered.
    """
    read_manifest(manifest_of(folder))
    if damaged := damaged_files(folder):
        raise InputError(f"{folder}: {damaged[0]} is missing or was altered since it was written; make it again")


def refuse_over(out: Path, sources: Iterable[Path | None]) -> None:
    """Refuse a result in the place of what it is made from.

    Raises
    ------
    InputError
        If it is, holds, or lies in one of the sources, or has no name.
    """
    if not out.name:
        raise InputError(f"--out {out}: expected the name of a new file or folder")
    place = out.resolve()
    for source in (source and file_of(source) for source in sources):
        if source and (place.is_relative_to(source.resolve()) or source.resolve().is_relative_to(place)):
            raise InputError(f"--out {out}: would replace or change {source}, which is to be read; choose another")


def lost_files(folder: Path) -> list[str]:
    """Return the files of a published folder that are missing or empty; reads none of them."""
    try:
        sizes = [(name, folder / name) for name in checksums(folder)]
    except InputError:
        return [CHECKSUMS]
    return [name for name, path in sizes if not path.is_file() or not path.stat().st_size]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside its place, then rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        with told_if_disk_is_full(path):
            write(beside)
            with beside.open("rb") as file:
                os.fsync(file.fileno())  # or a power cut may leave the name without the content
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def told_if_disk_is_full(path: Path) -> Iterator[None]:
    """Turn a full disk, a quota or a read-only place into a sentence about this path."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            free = shutil.disk_usage(_existing(path)).free
            raise ResourceError(
                f"{path}: the disk is full ({free / 1e6:.0f} MB free at"
                f" {_existing(path)}); free some space and run again, what is finished is kept"
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise ResourceError(
                f"{path}: cannot be written ({error.strerror}); check the permissions of {_existing(path)}"
            ) from error
        raise


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _files(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in BOOKKEEPING and not lies_in_left_behind(path.relative_to(folder))
    )


def _names(folder: Path) -> set[str]:
    return {path.name for path in without_left_behind(folder.iterdir())}


def _sha256_of_all(folder: Path, names: list[str]) -> Iterator[str]:
    """Yield the checksums of files, of which several are read at a time."""
    with ThreadPoolExecutor(READERS) as readers:
        yield from readers.map(_sha256, (folder / name for name in names))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
