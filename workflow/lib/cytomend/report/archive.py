"""What the archive of a run (``snakemake --report``) takes from results: captions, which are reStructuredText there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cytomend.report.evaluation_shown import CAPTIONS, TITLES

MARKUP = re.compile(r"([^\w\s.,;:()%]|_)")


def write_rst_captions(figures: Path) -> None:
    """Write ``NAME.rst`` for each figure of an evaluation: its title and the caption that the page shows.

    Parameters
    ----------
    figures : folder of the figures, with their captions
    """
    captions: dict[str, str] = json.loads((figures / CAPTIONS).read_text(encoding="utf-8"))
    for name, caption in captions.items():
        text = f"**{rst(TITLES.get(name, name))}.** {rst(caption)}\n"
        (figures / f"{name}.rst").write_text(text, encoding="utf-8")


def rst(text: str) -> str:
    r"""Return text of which no character is markup.

    >>> print(rst("*floor*, of `cpn`_"))
    \*floor\*, of \`cpn\`\_
    """
    return MARKUP.sub(r"\\\1", text)
