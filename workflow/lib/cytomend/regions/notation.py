"""What an annotated object says of itself: its kind and its class, in the notations that programs write.

QuPath kept the kind in ``id`` (0.2: ``PathCellObject``), then in ``object_type`` (0.3) and ``objectType`` (0.4 on). It
writes the class as an object with ``name`` or ``names``. geopandas turns such objects into JSON or Python text and
moves ``id`` to the properties. Scripts and people write ``class``, ``label``, ``category``, ``type`` or ``name``.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

ANNOTATION = "annotation"
UNDRAWN = {"cell", "detection", "tile", "TMA core", "root"}
"""Kinds of objects that nobody drew as damage: programs make them, by the thousand or as a frame."""

_KINDS = {"annotation": ANNOTATION, "tmacore": "TMA core", "nucleus": "cell", "nuclei": "cell"} | {
    kind: kind for kind in UNDRAWN if kind != "TMA core"
}
_KIND_KEYS = ("objecttype", "pathobjecttype", "objectkind", "kind", "type", "id")
_CLASS_KEYS = (
    *("classification", "classificationname", "classificationnames", "classificationlabel", "class", "classname"),
    *("pathclass", "pathclassname", "label", "category", "categoryname", "type"),
)
_NAMES_IN_CLASS = ("name", "names", "class", "classname", "label", "value", "displayname")
_COLOURS_IN_CLASS = {"color", "colour", "colorrgb", "colourrgb", "rgb", "id", "uuid", "ishidden", "isvalid"}
_NO_CLASS = {"", "none", "null", "nan", "<na>", "n/a", "unclassified"}

LONGEST_TEXT = 2000
"""Longer text is no class, with its colour."""
DEEPEST = 8
"""A class inside of lists inside of objects is no class any more."""


class NotationError(ValueError):
    """A class is written in a notation that we do not know."""


@lru_cache(maxsize=4096)
def plain_key(key: str) -> str:
    """Return the name of an entry without capitals, blanks and signs.

    >>> plain_key("object_type") == plain_key("objectType") == plain_key("Object type")
    True
    """
    return "".join(filter(str.isalnum, key)).lower()


@lru_cache(maxsize=4096)
def same_class(name: str) -> str:
    """Return what names of one class have in common, whatever their capitals and blanks.

    >>> same_class("Cell: Positive") == same_class(" cell :positive ")
    True
    """
    return re.sub(r" ?: ?", ": ", " ".join(unicodedata.normalize("NFC", name).split())).casefold()


@lru_cache(maxsize=4096)
def kind_word(text: str) -> str | None:
    """Return the kind that a word means, or None.

    >>> [kind_word(word) for word in ("PathCellObject", "tma_core", "qupath.lib.objects.PathRootObject", "fold")]
    ['cell', 'TMA core', 'root', None]
    """
    word = plain_key(text.rsplit(".", 1)[-1])
    word = word.removeprefix("path").removesuffix("object") if word.endswith("object") else word
    return _KINDS.get(word) or _KINDS.get(word.removesuffix("s"))


def entries_of(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a feature says beside its geometry, by plain names; its properties count before the rest.

    Raises
    ------
    NotationError
        If its properties are neither an object nor the text of one.
    """
    properties = feature.get("properties")
    if isinstance(properties, str):
        properties = _read_text(properties, limit=1 << 20)
    if properties is not None and not isinstance(properties, dict):
        raise NotationError(f"properties as an object, found {type(properties).__name__} {repr(properties)[:40]}")
    own = {plain_key(k): v for k, v in feature.items() if k not in {"type", "geometry", "properties"}}
    return own | {plain_key(k): v for k, v in (properties or {}).items()}


def kind_of(entries: Mapping[str, Any], class_name: str | None) -> str:
    """Return the kind of an object: `ANNOTATION`, one of `UNDRAWN`, or the word that is written and not known.

    Parameters
    ----------
    entries : what the feature says, by plain names
    class_name : its class; one that is called as a kind is one, where nothing else tells the kind
    """
    words = {key: word.strip() for key in _KIND_KEYS if isinstance(word := entries.get(key), str) and word.strip()}
    if known := next((kind for word in words.values() if (kind := kind_word(word))), None):
        return known
    if entries.get("nucleusgeometry") or _measures_cells(entries.get("measurements")):
        return "cell"
    # `type`, `kind` and `id` of other programs may be anything; what is called an object type is meant as one.
    if strange := words.get("objecttype") or words.get("pathobjecttype"):
        return strange
    return kind_word(class_name.split(":")[0]) or ANNOTATION if class_name else ANNOTATION


def class_of(entries: Mapping[str, Any]) -> str | None:
    """Return the class of an object, or else its name; None where it has neither.

    Raises
    ------
    NotationError
        If a class is written in a way that is not known.
    """
    for key in _CLASS_KEYS:
        value = entries.get(key)
        if key == "type" and (not isinstance(value, str) or kind_word(value)):
            continue
        if (name := _class_name(value)) is not None:
            return name
    # Hand-written, or an annotation that nobody classified.
    named = [entries.get("name"), None if kind_word(str(entries.get("objecttype"))) else entries.get("objecttype")]
    return next((" ".join(n.split()) for n in named if isinstance(n, str) and same_class(n) not in _NO_CLASS), None)


def _class_name(value: object, depth: int = 0) -> str | None:
    """Return the class that a value means: a name, a list of names, an object with either, or the text of these."""
    if depth > DEEPEST:
        raise NotationError(f"a class, found lists or objects nested more than {DEEPEST} deep")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        text = value.strip()
        if text[:1] and text[0] in "{[(\"'" and (read := _read_text(text)) != text:
            return _class_name(read, depth + 1)
        return None if text.lower() in _NO_CLASS else " ".join(text.split())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        names = [name for part in value if (name := _class_name(part, depth + 1)) is not None]
        return ": ".join(names) or None
    if isinstance(value, dict):
        return _named_in(value, depth)
    raise NotationError(f"the name of a class, found {type(value).__name__} {repr(value)[:60]}")


def _named_in(value: Mapping[Any, Any], depth: int) -> str | None:
    """Return the class that an object names; None where it holds only a colour, or nothing."""
    entries = {plain_key(str(key)): part for key, part in value.items()}
    for key in _NAMES_IN_CLASS:
        if (name := _class_name(entries.get(key), depth + 1)) is not None:
            return name
    if strange := sorted(set(entries) - _COLOURS_IN_CLASS - set(_NAMES_IN_CLASS)):
        raise NotationError(f"a class with a name, found an object with {', '.join(strange)[:60]}")
    return None


def _read_text(text: str, limit: int = LONGEST_TEXT) -> object:
    """Return what JSON or Python text of an object, a list or a quoted word means; other text as it is.

    Raises
    ------
    NotationError
        If text that begins as an object or a list is too long or neither JSON nor plain Python.
    """
    if len(text) <= limit:
        for read in (json.loads, ast.literal_eval) if limit == LONGEST_TEXT else (json.loads,):
            try:
                found: object = read(text)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
            return found
    if text[0] in "{[" or len(text) > limit:
        raise NotationError(
            f"a name, or an object with a name, also as JSON or Python text of at most {limit} letters, found"
            f" {len(text)} letters that begin with {text[:40]!r}"
        )
    return text


def _measures_cells(measurements: object) -> bool:
    """Whether measurements are those of a cell: QuPath names them after its nucleus and its outline."""
    return any(name.startswith(("Nucleus: ", "Cell: ", "Cytoplasm: ")) for name in _measured(measurements))


def _measured(measurements: object) -> Iterator[str]:
    if isinstance(measurements, dict):
        yield from (name for name in measurements if isinstance(name, str))
    elif isinstance(measurements, list):
        named = (one.get("name") for one in measurements if isinstance(one, dict))
        yield from (name for name in named if isinstance(name, str))
    elif isinstance(measurements, str):  # flattened
        yield from re.findall(r"['\"]((?:Nucleus|Cell|Cytoplasm): [^'\"]*)['\"]", measurements[:LONGEST_TEXT])
