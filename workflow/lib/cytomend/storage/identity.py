"""What a file or folder holds, as one hash, so that a touched file reruns nothing and a changed one does.

Called while the Snakefile is read, on a login node: only the standard library, and unchanged files are not read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cytomend.errors import InputError

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32
# A file may change twice within one tick of a coarse clock; like git, we do not trust one this young.
_SETTLED_NS = 2_000_000_000
_CACHE_VERSION = 1

_Stamp = list[int | str]
_Entries = dict[str, dict[str, Any]]

# The cache file as last read by this process, with what stat said of it: thousands of sections ask in one go.
_read_caches: dict[Path, tuple[tuple[int, int, int], _Entries]] = {}


def image_identity(path: Path) -> str:
    """Hash the contents of a file, or of a folder with the relative paths of all files in it.

    Parameters
    ----------
    path : Path
        A file or a folder such as an OME-Zarr store.

    Returns
    -------
    str
        64 hexadecimal digits (BLAKE2b). Times, permissions and the name of the path itself do not matter.

    Raises
    ------
    InputError
        The path is missing or may not be read.
    """
    with _blamed_on(path):
        return _folder_digest(path) if path.is_dir() else _file_digest(path).hex()


def cached_identity(path: Path, cache_file: Path) -> str:
    """Return `image_identity`, from a cache when size and modification time are those of the last time.

    Parameters
    ----------
    path : Path
        A file or a folder; of a folder, all relative paths, sizes and times count.
    cache_file : Path
        JSON, replaced in one step; a missing or damaged one counts as empty. When two processes write at once, one
        of them may forget what the other added, which costs a second reading and no more.
    """
    key = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links, and two links may come to differ
    with _blamed_on(path):
        before = stamp(path)
    entry = _load(cache_file).get(key)
    if entry is not None and entry.get("stamp") == before and isinstance(entry.get("identity"), str):
        return str(entry["identity"])
    identity = image_identity(path)
    with _blamed_on(path):
        if stamp(path) == before and not _is_young(path):
            _store(cache_file, key, {"stamp": before, "identity": identity})
    return identity


@contextlib.contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: expected a file or folder, found nothing at {error.filename}; check the path"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: expected a file or folder that may be read, found: {error.strerror} ({error.filename});"
            " check its permissions"
        ) from error


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()


def _folder_digest(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"folder")
    for relative in sorted(_files(folder)):
        name = os.fsencode(relative)
        digest.update(len(name).to_bytes(8, "little") + name)
        digest.update(_file_digest(folder / relative))
    return digest.hexdigest()


def _files(folder: Path, inside: str = "", ancestors: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Yield the paths of all files below a folder, relative to it, following links but no circles of them."""
    here = folder.stat()
    if (here.st_dev, here.st_ino) in ancestors:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(Path(entry.path), f"{inside}{entry.name}/", (*ancestors, (here.st_dev, here.st_ino)))
            else:
                yield inside + entry.name


def stamp(path: Path) -> _Stamp:
    """Return what changes, without reading a file, when its contents do: sizes and times."""
    if not path.is_dir():
        facts = path.stat()
        return [facts.st_size, facts.st_mtime_ns]
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for relative in sorted(_files(path)):
        facts = (path / relative).stat()
        digest.update(f"{os.fsencode(relative)!r} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return [digest.hexdigest()]


def _is_young(path: Path) -> bool:
    files = _files(path) if path.is_dir() else iter([""])
    now = time.time_ns()
    # A time that lies ahead is a wrong clock, not youth.
    return any(0 <= now - (path / relative).stat().st_mtime_ns < _SETTLED_NS for relative in files)


def _load(cache_file: Path) -> _Entries:
    try:
        seen = _seen(cache_file)
        known = _read_caches.get(cache_file)
        if known is not None and known[0] == seen:
            return known[1]
        entries = _entries(cache_file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be used and is started afresh: %s", cache_file, error)
        return {}
    _read_caches[cache_file] = (seen, entries)
    return entries


def _seen(cache_file: Path) -> tuple[int, int, int]:
    facts = cache_file.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _entries(data: bytes) -> _Entries:
    cache = json.loads(data)
    entries = cache.get("entries") if isinstance(cache, dict) and cache.get("version") == _CACHE_VERSION else None
    if not isinstance(entries, dict):
        raise ValueError("it is no cache of this version")  # noqa: TRY004 - JSON of another form is a bad value
    return {key: entry for key, entry in entries.items() if isinstance(entry, dict)}


def _store(cache_file: Path, key: str, entry: dict[str, Any]) -> None:
    """Add one entry to what the cache holds now, and put the new cache in its place in one step."""
    entries = {**_load(cache_file), key: entry}
    text = json.dumps({"version": _CACHE_VERSION, "entries": entries})
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=f".{cache_file.name}.", dir=cache_file.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - it is a descriptor, not a path
                file.write(text)
            seen = _seen(Path(beside))  # what stat will say of the cache, unless another process replaces it again
            os.replace(beside, cache_file)  # noqa: PTH105 - as said above
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
        _read_caches[cache_file] = (seen, entries)
    except OSError as error:
        log.warning("%s cannot be written, so files will be read again next time: %s", cache_file, error)
