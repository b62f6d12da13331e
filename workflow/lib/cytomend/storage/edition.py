"""Which state of a file a result is made from, told without reading gigapixels while the workflow is read.

A file's *edition* is a name for what it holds: its size and time when it was first planned. The job that plans a
section reads its files once and keeps, in the plan's manifest, edition, stamp (size and time) and content hash of each.
While the stamp stays, so does the edition; of a file with another stamp the content is read, and only other content
makes a new edition. So a first run reads nothing on the login node, and a touched file costs one reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cytomend.errors import InputError
from cytomend.storage.identity import Stamp, image_identity, is_young, stamp, told_of


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder as it was read; ``stamp`` is None if it was too young to be told by its time."""

    edition: str
    stamp: Stamp | None
    identity: str

    def record(self) -> dict[str, Any]:
        """Return it as plain values, for a manifest."""
        return asdict(self)


def annotation_roles(annotations: Sequence[Path]) -> dict[str, Path]:
    """Return the annotations of a section by the names under which a plan knows them.

    >>> annotation_roles([Path("a.roi"), Path("b.png")])
    {'annotation': PosixPath('a.roi'), 'annotation 2': PosixPath('b.png')}
    """
    return {f"annotation {number}" if number > 1 else "annotation": path for number, path in enumerate(annotations, 1)}


def sources_in(manifest: Path) -> dict[str, Source]:
    """Return the sources that a plan's manifest names, by their role; of a missing one none.

    Raises
    ------
    InputError
        If it is damaged: what follows it could not be made, nor would it be planned again.
    """
    try:
        record = json.loads(manifest.read_bytes())
        return {role: Source(**source) for role, source in record.get("sources", {}).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{manifest}: expected the manifest of a plan ({error}); delete it and run again") from error


def read_source(path: Path, edition: str | None = None) -> Source:
    """Read a file or folder through and return what to keep of it.

    Parameters
    ----------
    path : the file
    edition : its name, as the workflow gave it; by default that of a file seen for the first time

    Raises
    ------
    InputError
        If it cannot be read, or is written to meanwhile.
    """
    with told_of(path):
        before, young = stamp(path), is_young(path)
        identity = image_identity(path)
        if stamp(path) != before:
            raise InputError(f"{path}: was changed while it was read; wait until it is whole, and run again")
    return Source(edition or _name(before), None if young else before, identity)


def require_planned(path: Path, plan_manifest: Path, role: str = "image") -> None:
    """Refuse a file that does not hold what it held when it was planned.

    Raises
    ------
    InputError
        If it does not, or there is no such plan.
    """
    if (source := sources_in(plan_manifest).get(role)) is None:
        raise InputError(f"{plan_manifest}: expected a plan that names its {role}; plan again")
    with told_of(path):
        same = stamp(path) == source.stamp or image_identity(path) == source.identity
    if not same:
        raise InputError(f"{path}: was changed since {plan_manifest} was written; plan again")


Known = Mapping[str, Source]


def editions(
    sections: Mapping[str, tuple[Mapping[str, Path], Known]],
    identities: Callable[[list[Path]], Mapping[Path, str]],
) -> dict[str, dict[str, str]]:
    """Return the editions of the files of each section, by their role.

    Parameters
    ----------
    sections : of each section its files by role, and its sources as they were planned
    identities : returns content hashes; asked once, for the files whose stamp says nothing

    Raises
    ------
    InputError
        If a file is missing or may not be read.
    """
    stamps = {path: _stamp(path) for paths, _ in sections.values() for path in paths.values()}
    unsure = [
        path
        for paths, known in sections.values()
        for role, path in paths.items()
        if role in known and known[role].stamp != stamps[path]
    ]
    content = identities(list(dict.fromkeys(unsure))) if unsure else {}

    def edition(path: Path, source: Source | None) -> str:
        name = _name(stamps[path])
        if source is None:
            return name
        if source.stamp == stamps[path] or content[path] == source.identity:
            return source.edition
        # A name may be taken by other content: that of a file that was replaced before it could be planned.
        return name if name != source.edition else f"{name}-{content[path][:16]}"

    return {
        name: {role: edition(path, known.get(role)) for role, path in paths.items()}
        for name, (paths, known) in sections.items()
    }


def _stamp(path: Path) -> Stamp:
    with told_of(path):
        return stamp(path)


def _name(seen: Stamp) -> str:
    return "-".join(map(str, seen))
