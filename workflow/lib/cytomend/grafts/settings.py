"""How grafts are chosen and joined."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from cytomend.errors import InputError

GRAFT = "graft"
"""Name of the filler among samplers, also with settings: ``graft:block_um=128,joint_um=0``."""


@dataclass(frozen=True, slots=True)
class GraftSettings:
    """Lengths in µm, so that one setting serves every pixel size.

    Attributes
    ----------
    block_um : side of a block; about six to ten cells
    step_um : distance of the places that blocks are laid on; neighbouring blocks overlap by the difference
    search_um : how far from the region tissue is copied; twice and four times as far where too little is intact
    joint_um : what the network draws on either side of a cut, and inside the region's outline
    narrow_um : regions that are nowhere wider are drawn by the network alone
    context_weight : what disagreement with the context map counts beside difference on the overlap
    apart_um : how far the centre of a source is from that of its target, at least, while there is other tissue
    """

    block_um: float = 96.0
    step_um: float = 64.0
    search_um: float = 1000.0
    joint_um: float = 3.0
    narrow_um: float = 20.0
    context_weight: float = 1.0
    apart_um: float = 160.0

    def __post_init__(self) -> None:
        if not 0 < self.step_um < self.block_um:
            raise InputError(
                f"step_um is {self.step_um:g}, block_um {self.block_um:g}: expected a step below the block's side, so"
                " that blocks overlap"
            )

    def px(self, length_um: float, pixel_size_um: float) -> int:
        """Return a length in pixels, at least 1."""
        return max(round(length_um / pixel_size_um), 1)


def is_graft(name: str) -> bool:
    """Whether a filler's name means grafts."""
    return name.partition(":")[0] == GRAFT


def parse_grafts(name: str, default: GraftSettings) -> GraftSettings:
    """Return the settings that are meant by ``graft`` or ``graft:setting=value,...``.

    >>> parse_grafts("graft:joint_um=0", GraftSettings()).joint_um
    0.0

    Raises
    ------
    InputError
        If there is no such setting, or it is no number.
    """
    given = dict(part.partition("=")[::2] for part in name.partition(":")[2].split(",") if part)
    known = [field.name for field in fields(GraftSettings)]
    if unknown := given.keys() - set(known):
        raise InputError(f"{name}: expected settings out of {', '.join(known)}, found {', '.join(sorted(unknown))}")
    try:
        return replace(default, **{key: float(value) for key, value in given.items()})
    except ValueError as error:
        raise InputError(f"{name}: expected numbers, found: {error}") from error
