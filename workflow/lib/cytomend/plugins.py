"""A developer's own sampler, filler, segmenter or classifier, named as ``package.module:attribute``.

The module is imported as any other: it is code that whoever types its name vouches for, and has to be installed or on
``PYTHONPATH``. Nothing that comes in a data file or a checkpoint is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cytomend.errors import InputError, ResourceError

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_plugin(name: str) -> bool:
    """Whether a name has the form of a plug-in's."""
    return NAME.fullmatch(name) is not None


def plugin(name: str, what: str, wanted: Sequence[str] = ()) -> Any:  # noqa: ANN401 - whatever it is
    """Import a plug-in.

    Parameters
    ----------
    name : ``package.module:attribute``
    what : what it is to be, for errors
    wanted : attributes that it must have

    Raises
    ------
    InputError
        If it cannot be imported, or lacks an attribute.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # it may fail in any way while it is imported
        raise InputError(
            f"{what} {name!r}: cannot be imported ({error}); expected package.module:attribute, installed or on"
            " PYTHONPATH"
        ) from error
    if missing := [entry for entry in wanted if not hasattr(found, entry)]:
        raise InputError(
            f"{what} {name!r}: expected an object with {', '.join(wanted)}, found none of {', '.join(missing)}"
        )
    return found


@contextmanager
def blamed_on(what: str, name: str) -> Iterator[None]:
    """Turn whatever goes wrong in a plug-in into a sentence that names it; our own parts keep their errors."""
    try:
        yield
    except (InputError, ResourceError) as error:
        raise type(error)(f"{what} {name!r}: {error}") from error
    except Exception as error:
        if not is_plugin(name):
            raise
        raise InputError(f"{what} {name!r}: failed with {type(error).__name__}: {error}") from error


def source_hash(name: str) -> str:
    """Return the SHA-256 of the file of a plug-in's module, by which results depend on it.

    Raises
    ------
    InputError
        If there is no such module.
    """
    module = name.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise InputError(f"{name}: there is no module {module!r}; expected one that is installed or on PYTHONPATH")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
