"""Phantom sections: seeded tissue with known cells, and artefacts with known masks."""

from .areas import AREAS
from .artefacts import Damage, damage
from .tissue import Tissue, render_tissue

__all__ = ["AREAS", "Damage", "Tissue", "damage", "render_tissue"]
