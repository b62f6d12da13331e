"""What a file or folder holds, as one hash, so that a touched file reruns nothing and a changed one does.

Called while the Snakefile is read, on a login node: only the standard library, and unchanged files are not read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cytomend.errors import InputError
from cytomend.storage.desktop import is_left_behind, without_left_behind
from cytomend.storage.frames import file_and_frame, file_of

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32
# A file may change twice within one tick of a coarse clock; like git, we do not trust one this young.
_SETTLED_NS = 2_000_000_000
_CACHE_VERSION = 1

IDENTITIES = Path(".snakemake") / "cytomend-identities.json"
"""Where the workflow keeps what it read, seen from where it is started."""

READERS = 4
"""Files read at a time: more than one, since a network's file system answers slowly; few, since others log in too."""

READ_HERE_BYTES = 50e9
"""More is not read while a workflow is read: minutes of a login node."""

KEEP_SECONDS = 30.0
SAY_BYTES = 2e9
"""From here on it takes so long that somebody would ask what is being done."""

Stamp = list[int | str]
_Entries = dict[str, dict[str, Any]]

# The cache file as last read by this process, with what stat said of it: thousands of sections ask in one go.
_read_caches: dict[Path, tuple[tuple[int, int, int], _Entries]] = {}


def image_identity(path: Path) -> str:
    """Hash the contents of a file, or of a folder with the relative paths of all files in it; of a slide all its parts.

    Parameters
    ----------
    path : Path
        A file or a folder such as an OME-Zarr store.

    Returns
    -------
    str
        64 hexadecimal digits (BLAKE2b). Times, permissions and the name of the path itself do not matter, but for the
        frame that it asks for: another frame of a file is another scan.

    Raises
    ------
    InputError
        The path is missing or may not be read.
    """
    with told_of(path):
        digests = [*(_digest(part) for part in parts_of(path)), *_frame(path)]
        if len(digests) == 1:
            return digests[0]
        return hashlib.blake2b("".join(digests).encode(), digest_size=_DIGEST_BYTES, person=b"slide").hexdigest()


def cached_identity(path: Path, cache_file: Path) -> str:
    """Return the identity of one file or folder; see `cached_identities`."""
    return cached_identities([path], cache_file)[path]


def cached_identities(paths: Iterable[Path], cache_file: Path, limit_bytes: float = math.inf) -> dict[Path, str]:
    """Return `image_identity` of each, from a cache when size and modification time are those of the last time.

    Parameters
    ----------
    paths : files or folders; of a folder, all relative paths, sizes and times count
    cache_file : JSON, replaced in one step; a missing or damaged one counts as empty. When two processes write at once,
        one of them may forget what the other added, which costs a second reading and no more. Kept now and then, so
        that an interrupted reading goes on where it was.
    limit_bytes : refuse to read more than this

    Raises
    ------
    InputError
        If a path is missing or may not be read, or there is more to read than the limit.
    """
    entries, found, unread = _load(cache_file), dict[Path, str](), dict[Path, tuple[str, Stamp]]()
    for path in paths:
        key = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links, and two links may come to differ
        with told_of(path):
            seen = stamp(path)
        entry = entries.get(key)
        if entry is not None and entry.get("stamp") == seen and isinstance(entry.get("identity"), str):
            found[path] = str(entry["identity"])
        else:
            unread[path] = (key, seen)
    if unread:
        _refuse_beyond(limit_bytes, list(unread))
        found |= _read_all(unread, cache_file)
    return found


def _refuse_beyond(limit_bytes: float, unread: list[Path]) -> None:
    if math.isinf(limit_bytes):
        return
    total = sum(_size(path) for path in unread)
    if total > limit_bytes:
        raise InputError(
            f"{len(unread)} files, {total / 1e9:,.0f} GB, bear other times than when they were read last, for example"
            f" {unread[0]}; reading them here takes too long: run `cytomend identify` in a job (it may be interrupted),"
            " then this again"
        )


def _read_all(unread: dict[Path, tuple[str, Stamp]], cache_file: Path) -> dict[Path, str]:
    """Read files and folders, several at a time, and keep what was found."""
    found, kept, last = dict[Path, str](), _Entries(), time.monotonic()
    if (total := sum(_size(path) for path in unread)) > SAY_BYTES:
        log.warning("reading %d files, %.0f GB, to see whether they changed", len(unread), total / 1e9)

    def read(path: Path) -> tuple[Path, str]:
        return path, image_identity(path)

    with ThreadPoolExecutor(READERS) as readers:
        try:
            for path, identity in readers.map(read, unread):
                key, seen = unread[path]
                found[path] = identity
                with told_of(path):
                    if stamp(path) == seen and not is_young(path):
                        kept[key] = {"stamp": seen, "identity": identity}
                if kept and time.monotonic() - last > KEEP_SECONDS:
                    _store(cache_file, kept)
                    kept, last = {}, time.monotonic()
        finally:
            readers.shutdown(cancel_futures=True)
            if kept:
                _store(cache_file, kept)
    return found


def _size(path: Path) -> int:
    """Return the bytes of all files of a path."""
    with told_of(path):
        return sum((part / name).stat().st_size for part in parts_of(path) for name in _inside(part))


@contextlib.contextmanager
def told_of(path: Path) -> Iterator[None]:
    """Turn what the system says of a path into a sentence."""
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


def parts_of(path: Path) -> list[Path]:
    """Return the file of a path and what belongs to it: the folder of a MIRAX slide, the files beside a DICOM slide.

    A frame in the name (`cytomend.storage.frames`) is left out.

    >>> parts_of(Path("scan.tif"))
    [PosixPath('scan.tif')]
    """
    path = file_of(path)
    if path.suffix.lower() == ".mrxs":
        return [path, path.with_suffix("")]
    if path.suffix.lower() in {".vms", ".vmu"}:
        return [path, *_named_in(path)]
    if path.suffix.lower() == ".dcm":
        return sorted({path, *without_left_behind(path.parent.glob("*.[dD][cC][mM]"))})
    if path.is_file() and _is_dicom(path):
        return [part for part in without_left_behind(sorted(path.parent.iterdir())) if part.is_file()]
    return [path]


def _named_in(index: Path) -> list[Path]:
    """Return the files beside a text file that it names, as a Hamamatsu VMS or VMU does in ``key=name``."""
    names = {
        line.partition("=")[2].strip() for line in index.read_text(encoding="utf-8", errors="replace").splitlines()
    }
    return [part for part in sorted(index.parent.iterdir()) if part.name in names and part.is_file()]


def _is_dicom(path: Path) -> bool:
    """Whether a file without a telling suffix is DICOM."""
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _digest(path: Path) -> str:
    return _folder_digest(path) if path.is_dir() else _file_digest(path).hex()


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()


def _folder_digest(folder: Path) -> str:
    is_store = any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs"))
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"folder")
    for relative in sorted(_files(folder)):
        name = os.fsencode(relative)
        digest.update(len(name).to_bytes(8, "little") + name)
        digest.update(_file_digest(folder / relative))
        if is_store and not Path(relative).name.startswith(".") and not (folder / relative).stat().st_size:
            raise InputError(
                f"{folder}: expected whole chunks, found {relative} empty, which would be read as black; copy it again"
            )
    return digest.hexdigest()


def _inside(path: Path) -> Iterator[str]:
    """Yield the files of a folder, or of a file itself an empty name."""
    return _files(path) if path.is_dir() else iter([""])


def _files(folder: Path, inside: str = "", ancestors: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Yield the paths of all files below a folder, relative to it, following links but no circles of them.

    What desktops and file systems leave there (`cytomend.storage.desktop`) is no part of it.
    """
    here = folder.stat()
    if (here.st_dev, here.st_ino) in ancestors:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_left_behind(entry.name):
                continue
            if entry.is_dir():
                yield from _files(Path(entry.path), f"{inside}{entry.name}/", (*ancestors, (here.st_dev, here.st_ino)))
            else:
                yield inside + entry.name


def stamp(path: Path) -> Stamp:
    """Return what changes, without reading a file, when its contents do: sizes and times."""
    return [*(value for part in parts_of(path) for value in _stamp(part)), *_frame(path)]


def _frame(path: Path) -> list[str]:
    """Return the frame that a name asks for, or nothing."""
    return [frame] if (frame := file_and_frame(path)[1]) else []


def _stamp(path: Path) -> Stamp:
    if not path.is_dir():
        facts = path.stat()
        return [facts.st_size, facts.st_mtime_ns]
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for relative in sorted(_files(path)):
        facts = (path / relative).stat()
        digest.update(f"{os.fsencode(relative)!r} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return [digest.hexdigest()]


def is_young(path: Path) -> bool:
    """Whether a file was written so lately that it may yet change without its time telling so."""
    files = (part / name for part in parts_of(path) for name in _inside(part))
    now = time.time_ns()
    # A time that lies ahead is a wrong clock, not youth.
    return any(0 <= now - file.stat().st_mtime_ns < _SETTLED_NS for file in files)


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


def _store(cache_file: Path, new: _Entries) -> None:
    """Add entries to what the cache holds now, and put the new cache in its place in one step."""
    entries = {**_load(cache_file), **new}
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
