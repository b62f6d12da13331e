"""Settings: read, checked against their JSON schema, completed with its defaults."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from cytomend.errors import InputError
from cytomend.places import SCHEMAS

Record = dict[str, Any]


def _is_number(_: object, value: object) -> bool:
    """Whether a value is a number one can reckon with; NaN would pass every bound."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("number", _is_number),
)


@cache
def schema(name: str) -> Record:
    """Return a schema of ``workflow/schemas`` by its short name."""
    loaded: Record = yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text(encoding="utf-8"))
    return loaded


@cache
def _validator(schema_name: str) -> Any:  # noqa: ANN401 - jsonschema tells no type
    return Validator(schema(schema_name))


def checked(record: object, schema_name: str, where: str) -> Record:
    """Return the record with defaults filled in.

    Parameters
    ----------
    record : what the user wrote
    schema_name : short name of the schema
    where : file or row, for the error

    Raises
    ------
    InputError
        If an entry is unknown, missing, of the wrong type or out of bounds; the sentence names it and says what it is
        for.
    """
    completed = _with_defaults(deepcopy(record), schema(schema_name))
    errors = sorted(_validator(schema_name).iter_errors(completed), key=lambda e: list(map(str, e.path)))
    if errors:
        raise InputError(f"{where}: " + "; ".join(sentence(error) for error in errors))
    assert isinstance(completed, dict)
    return completed


def check_pyramid(record: Record, where: str = "", block: str = "") -> None:
    """Refuse shards that no whole number of chunks fills.

    Parameters
    ----------
    record : entries ``chunk_px`` and ``shard_px``
    where, block : what messages put before the sentence, and before the names of the entries
    """
    chunk_px, shard_px = record["chunk_px"], record["shard_px"]
    if shard_px % chunk_px:
        raise InputError(f"{where}{block}shard_px is {shard_px}, expected a multiple of {block}chunk_px, {chunk_px}")


def read_yaml(path: Path, schema_name: str) -> Record:
    """Read and check a settings file.

    Raises
    ------
    InputError
        If the file is missing, is not YAML, or breaks its schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a YAML file of settings") from error
    try:
        return checked(yaml.safe_load(text), schema_name, str(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({error})") from error


def one_line(record: Record) -> str:
    """Return the record as the one string by which a rule depends on it: same settings, same string."""
    return json.dumps(record, sort_keys=True)


def key(**parts: object) -> str:
    """Return a short name of all that reaches a result: other parts, another key."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=20).hexdigest()


def _with_defaults(value: Any, rules: Record) -> Any:  # noqa: ANN401 - YAML holds anything
    """Fill in what is absent, block by block, and write whole numbers such as a spreadsheet's 2.0 as such."""
    if value is None and rules.get("type") == "object":
        value = {}
    if isinstance(value, float) and value.is_integer() and "integer" in rules.get("type", ()):
        return int(value)
    if isinstance(value, dict):
        for key, rule in rules.get("properties", {}).items():
            if key not in value and "default" in rule:
                value[key] = deepcopy(rule["default"])
            if key in value:
                value[key] = _with_defaults(value[key], rule)
    return value


def sentence(error: jsonschema.ValidationError) -> str:
    """Say in one sentence which entry is wrong, what was expected, and what the entry means."""
    entry = ".".join(map(str, error.path)) or "(top level)"
    meaning = error.schema.get("description", "") if isinstance(error.schema, dict) else ""
    if error.validator == "additionalProperties" and isinstance(error.schema, dict):
        known = ", ".join(error.schema.get("properties", {}))
        return f"{entry}: {error.message}; known entries are {known}"
    return f"{entry}: {error.message}" + (f" ({meaning})" if meaning else "")
