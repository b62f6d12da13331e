"""What an evaluation is put together from, by name: checked and identified before any job, without loading torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from cytomend.errors import InputError
from cytomend.grafts.settings import GRAFT
from cytomend.places import MODELS
from cytomend.plugins import is_plugin, source_hash
from cytomend.settings import Record
from cytomend.sheet import STEPS

BUNDLED = {"cpn": MODELS / "cells" / "model.safetensors", "layers": MODELS / "layers" / "model.safetensors"}
CELLDETECTION = "celldetection:"
BUILT_IN = {
    "segmenters": ("cpn", "classical"),
    "classifier": ("layers",),
    "fillers": ("biharmonic", "nearest tissue", "local mean"),
    "samplers": (*STEPS, GRAFT),
}
TAKES_FILES = ("segmenters", "classifier")


def identities(evaluate: Record, parts: Iterable[str] = BUILT_IN, block: str = "evaluate") -> dict[str, str]:
    """Return the identity of every checkpoint and plug-in that an evaluation uses, by name.

    Parameters
    ----------
    evaluate : the block ``evaluate`` of the configuration
    parts : its entries to look at
    block : name of the block, for errors

    Raises
    ------
    InputError
        If a name is unknown, or a file or module is missing.
    """
    return {
        name: identity
        for part in parts
        for name in _names(evaluate, part)
        if (identity := _identity(part, name, block))
    }


def _names(evaluate: Record, part: str) -> Iterator[str]:
    named = evaluate[part]
    yield from [named] if isinstance(named, str) else named or []


def _identity(part: str, name: str, block: str) -> str:
    """Return the hash of what a name stands for; empty for what is part of the code."""
    if name in BUNDLED:
        return _hash(BUNDLED[name])
    if name in BUILT_IN[part] or (part == "samplers" and name.partition(":")[0] in BUILT_IN[part]):
        return ""
    file = Path(name.removeprefix(CELLDETECTION))
    if part in TAKES_FILES and (file.is_file() or name.startswith(CELLDETECTION)):
        return _hash(file)
    if is_plugin(name):
        return source_hash(name)
    files = ", the path of a checkpoint" if part in TAKES_FILES else ""
    raise InputError(
        f"{block}.{part}: {name!r} is none of {', '.join(BUILT_IN[part])}{files}, or package.module:name of your own"
    )


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a checkpoint") from error
