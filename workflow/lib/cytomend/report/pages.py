"""Pages: a template of ``workflow/report`` filled in and written as one file.

Everything that is filled in is escaped: a name made of HTML stays text.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import jinja2

from cytomend.places import TEMPLATES
from cytomend.storage.publish import write_whole

THIN = "\N{NARROW NO-BREAK SPACE}"
MM2_UM2 = 1e6
SMALLEST_IN_MM2 = 0.01


def write_page(template: str, out: Path, **content: object) -> None:
    """Fill a template and write the page, piece by piece: pictures given by a generator are never all in memory."""
    page = _environment().get_template(template)
    write_whole(out, lambda path: page.stream(**content).dump(str(path), encoding="utf-8"))


def link(target: Path, page: Path) -> str:
    """Return the relative address of a file as a page's link: the folder of results may be moved as a whole."""
    return quote(Path(os.path.relpath(target, page.parent)).as_posix())


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(grouped=grouped, decimals=decimals, percent=percent, area=area, listed=listed)
    return environment


def grouped(number: float) -> str:
    """Return a whole number in groups of three digits.

    >>> grouped(1234567.4).split(THIN)
    ['1', '234', '567']
    """
    return f"{number:,.0f}".replace(",", THIN)


def decimals(number: float, places: int) -> str:
    """Return a number with this many decimals, in groups of three digits before the point."""
    return f"{number:,.{places}f}".replace(",", THIN)


def percent(share: float) -> str:
    """Return a share in per cent, with two digits that say something.

    >>> percent(0.0981), percent(0.000034), percent(0)
    ('9.8 %', '0.0034 %', '0 %')
    """
    value = share * 100
    if not value:
        return "0 %"
    return f"{value:.2g} %" if value < 10 else f"{value:.1f} %"


def area(um2: float) -> str:
    """Return an area in µm², or in mm² where that is easier to read.

    >>> area(640.2), area(124_000)
    ('640 µm²', '0.124 mm²')
    """
    mm2 = um2 / MM2_UM2
    return f"{grouped(um2)} µm²" if mm2 < SMALLEST_IN_MM2 else f"{mm2:.3g} mm²"


def listed(value: object) -> str:
    """Return a value of the provenance as text; the members of a list are parted by commas."""
    if isinstance(value, list | tuple):
        return ", ".join(str(member) for member in value)
    return str(value)
