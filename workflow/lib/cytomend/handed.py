"""What a stage is handed on its command line, checked before it begins: settings as JSON, and what earlier stages made.

The workflow checks its configuration while it is read. A stage that is called by hand gets the same sentences, from the
same schemas: each entry of a settings record is looked up in the blocks that it comes from, and its Python type counts
too.
"""

from __future__ import annotations

import argparse
import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import jsonschema

from cytomend.errors import InputError
from cytomend.settings import Record, Validator, check_pyramid, schema, sentence

Block = tuple[str, ...]
"""A schema by its short name, and the names of the blocks in it that lead to the entries."""

_EDITIONS = "editions"

_SHOWN = 60
_LISTED = 5


class Settings(NamedTuple):
    """Where the entries of a settings record are described.

    ``record`` is the name of the dataclass in the stage's module. The first of the ``blocks`` that has an entry tells
    its bounds. ``other`` are entries of which no block tells them.
    """

    record: str
    blocks: tuple[Block, ...]
    other: Mapping[str, Record] = {}


class Made(NamedTuple):
    """A result of an earlier stage: what it is, the stage, and a file that is always in it (of a folder)."""

    what: str
    stage: str
    holds: str | None


_DECISION: Record = {
    "description": "Regions that are left as scanned or drawn again.",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["region", "box", "area_px", "decision", "draw"],
        "properties": {
            "region": {"type": "integer", "minimum": 1},
            "box": {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
            "area_px": {"type": "integer", "minimum": 1},
            "decision": {"enum": ["leave", "redraw"]},
            "draw": {"type": "integer", "minimum": 0},
        },
    },
}
_WINDOW: Record = {"description": "Side of the model's windows in px.", "minimum": 1}
_STRIDE: Record = {"description": "Distance of windows in px.", "minimum": 1}
_SEED: Record = {"description": "Seed of the masks.", "minimum": 0}
_MEND = Settings("MendSettings", (("config", "mend"),))

SETTINGS: dict[str, dict[str, Settings]] = {
    "plan-section": {
        "settings": Settings(
            "PlanSettings",
            (("config", "mask"), ("sections",), ("config", "mend")),
            {"decisions": _DECISION, "window_px": _WINDOW, "stride_px": _STRIDE, "model_channels": {"enum": [1, 3]}},
        )
    },
    "mend-shard": {"settings": _MEND},
    "blend-section": {"settings": Settings("BlendSettings", (("config", "pyramid"),))},
    "mend-trials": {
        "mend": _MEND,
        "settings": Settings("TrialSettings", (("config", "evaluate"),), {"seed": _SEED}),
    },
    "evaluate-section": {"settings": Settings("EvaluateSettings", (("config", "evaluate"),))},
    "report-section": {"settings": Settings("ReportSettings", (("config", "report"),))},
    "summarise-brain": {"settings": Settings("BrainSettings", (("config", "brain"),))},
    "gather-patches": {
        "settings": Settings("GatherSettings", (("train", "$defs", "sheet"), ("config", "mask"), ("sections",)))
    },
}
"""The options of each stage that hold settings; `cytomend.screening.settings` checks its own."""

MADE: dict[str, Made] = {
    "plan": Made("the folder of a plan", "plan-section", "section.json"),
    "shards": Made("the Zarr store of a shard", "mend-shard", "zarr.json"),
    "corrected": Made("a corrected section (OME-Zarr)", "blend-section", "zarr.json"),
    "trials": Made("the Zarr store of mended trials", "mend-trials", "zarr.json"),
    "evaluation": Made("the folder of an evaluation", "evaluate-section", "evaluation.json"),
    "verdict": Made("the verdict of a section (JSON)", "verify-section", None),
    "model": Made("a checkpoint (.safetensors)", "train", None),
}
_BY_WORKFLOW = ("mend-shard", "blend-section", "mend-trials", "evaluate-section", "verify-section", "report-section")
INPUTS: dict[str, tuple[str, ...]] = dict.fromkeys(_BY_WORKFLOW, tuple(MADE))
"""Stages whose inputs of these names are looked at here; the others look themselves."""
FILES = ("image", "truth", "cells")
FOLDERS = {"summarise-brain": ("results",)}


def check_handed(stage: str, module: ModuleType, args: argparse.Namespace) -> None:
    """Refuse settings and inputs that a stage cannot use.

    Parameters
    ----------
    stage : name of the stage
    module : its module, which has the records of its settings
    args : its arguments

    Raises
    ------
    InputError
        The sentence names the option, what was expected and what was found.
    """
    for option, settings in SETTINGS.get(stage, {}).items():
        found = read_settings(f"--{option}", getattr(args, option), getattr(module, settings.record), settings)
        if settings.record == "BlendSettings":
            check_pyramid(found, f"--{option}: ")
    if getattr(args, _EDITIONS, None) is not None:
        _read_editions(getattr(args, _EDITIONS))
    for option in INPUTS.get(stage, ()):
        given = getattr(args, option, None)
        for path in given if isinstance(given, list) else [given]:
            if isinstance(path, Path):
                _require_made(option, path, MADE[option])
    for option in FILES if stage in INPUTS else ():
        path = getattr(args, option, None)
        if isinstance(path, Path) and not path.exists():
            raise InputError(f"--{option} {path}: expected a file, found nothing at this path; check it")
    for option in FOLDERS.get(stage, ()):
        if not (folder := getattr(args, option)).is_dir():
            raise InputError(f"--{option} {folder}: expected a folder, found {_found(folder)}; check the path")


def read_settings(option: str, text: str, record: type, settings: Settings) -> Record:
    """Return the settings that a text holds.

    Parameters
    ----------
    option : named in messages
    text : JSON
    record : the dataclass that they are for; what has no default must be there
    settings : where the entries are described

    Raises
    ------
    InputError
        If it is no JSON object, or an entry is unknown, missing, of the wrong type or out of bounds.
    """
    found = json_object(option, text)
    errors = sorted(_Strict(_schema(record, settings)).iter_errors(found), key=lambda e: list(map(str, e.path)))
    if errors:
        raise InputError(f"{option}: " + "; ".join(dict.fromkeys(sentence(error) for error in errors)))
    return found


def json_object(option: str, text: str) -> Record:
    """Return a JSON object that an option holds.

    Raises
    ------
    InputError
        If it holds something else, or an entry twice.
    """
    shown = repr(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{option}: expected a JSON object, found {shown} ({error}); correct it") from error
    if not isinstance(found, dict):
        raise InputError(f"{option}: expected a JSON object, found {shown}; write {{...}} with its entries")
    return found


def _once(pairs: list[tuple[str, Any]]) -> Record:
    names = [name for name, _ in pairs]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{doubled[0]!r} stands in it twice")
    return dict(pairs)


def _is_whole(_: object, value: object) -> bool:
    """Whether a value is a whole number to Python, which counts with it."""
    return isinstance(value, int) and not isinstance(value, bool)


_Strict = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    Validator, type_checker=Validator.TYPE_CHECKER.redefine("integer", _is_whole)
)


def _schema(record: type, settings: Settings) -> Record:
    """Return the schema of a settings record."""
    hints = get_type_hints(record)
    own = fields(record)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [f.name for f in own if f.default is MISSING and f.default_factory is MISSING],
        "properties": {f.name: {"allOf": [_typed(hints[f.name])], **_rule(f.name, settings)} for f in own},
    }


def _rule(name: str, settings: Settings) -> Record:
    """Return what the schemas say of an entry."""
    if name in settings.other:
        return dict(settings.other[name])
    for short, *path in settings.blocks:
        rules = schema(short)
        for block in path:
            rules = rules[block] if block in rules else rules["properties"][block]
        if name in rules["properties"]:
            return dict(rules["properties"][name])
    return {}


def _typed(hint: Any) -> Record:  # noqa: ANN401 - any type
    """Return the schema of a Python type, of those that settings have."""
    plain = {int: "integer", float: "number", str: "string", bool: "boolean", types.NoneType: "null"}
    if hint in plain:
        return {"type": plain[hint]}
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(parts)}
    if origin is list:
        return {"type": "array", "items": _typed(parts[0])}
    if origin is tuple:
        return {"type": "array", "items": _typed(parts[0]), "minItems": len(parts), "maxItems": len(parts)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _typed(parts[1])}
    if origin in {Union, types.UnionType}:
        options = [_typed(part) for part in parts]
        names = [option["type"] for option in options]
        return {**options[0], "type": names}  # an optional one: its other rules mind no null
    return {}


def _read_editions(text: str) -> None:
    for name, edition in json_object(f"--{_EDITIONS}", text).items():
        if not isinstance(edition, str):
            raise InputError(f"--{_EDITIONS}: {name}: expected a text, found {edition!r}; correct it")


def _require_made(option: str, path: Path, made: Made) -> None:
    """Refuse what is not the result that an option asks for."""
    is_folder = made.holds is not None
    right = (path / made.holds).is_file() if made.holds is not None else path.is_file()
    if right:
        return
    raise InputError(
        f"--{option} {path}: expected {made.what}, as `cytomend {made.stage}` writes it, found {_found(path)}"
        + (f", without {made.holds} in it" if is_folder and path.is_dir() else "")
        + "; check the path, or run that stage first"
    )


def _found(path: Path) -> str:
    """Return what stands at a path, in words."""
    if not path.exists():
        return "nothing at this path"
    if not path.is_dir():
        return "a file"
    names = sorted(child.name for child in path.iterdir())
    more = ", ..." if len(names) > _LISTED else ""
    return f"a folder with {', '.join(names[:_LISTED])}{more}" if names else "an empty folder"
