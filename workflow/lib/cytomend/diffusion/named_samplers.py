"""Samplers by name, as a configuration or a command line writes them."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

from cytomend.diffusion.samplers import SAMPLERS, Draws, Sampler
from cytomend.errors import InputError
from cytomend.plugins import is_plugin, plugin


def open_sampler(text: str) -> Draws:
    """Return the sampler that is meant by ``NAME``, ``NAME:setting=value,...`` or ``package.module:attribute``.

    Raises
    ------
    InputError
        If there is no such sampler or setting.
    """
    if text.partition(":")[0] not in SAMPLERS and is_plugin(text):
        own: Draws = plugin(text, "sampler", ("calls", "run"))
        return own
    return parse_sampler(text)


def parse_sampler(text: str) -> Sampler:
    """Return the built-in sampler that is meant by ``NAME`` or ``NAME:setting=value,...``.

    Raises
    ------
    InputError
        If there is no such sampler or setting.
    """
    name, _, rest = text.partition(":")
    if name not in SAMPLERS:
        raise InputError(f"sampler {text}: expected a name out of {', '.join(SAMPLERS)}, found {name!r}")
    kinds = {field.name: type(getattr(SAMPLERS[name], field.name)) for field in fields(Sampler) if field.name != "name"}
    settings = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    if unknown := settings.keys() - kinds.keys():
        raise InputError(f"sampler {text}: expected settings out of {', '.join(kinds)}, found {', '.join(unknown)}")
    try:
        return replace(SAMPLERS[name], **{key: kinds[key](value) for key, value in settings.items()})
    except ValueError as error:
        raise InputError(f"sampler {text}: expected numbers, found: {error}") from error


def label_of(sampler: Sampler) -> str:
    """Return the shortest text that `parse_sampler` understands as this sampler."""
    default, mine = asdict(SAMPLERS[sampler.name]), asdict(sampler)
    changed = ",".join(f"{key}={value:g}" for key, value in mine.items() if value != default[key])
    return f"{sampler.name}:{changed}" if changed else sampler.name
