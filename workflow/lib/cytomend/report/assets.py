"""Scripts and styles that stand in a page, and the hashes by which its security policy lets them run, and no others."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Self

from markupsafe import Markup

from cytomend.places import TEMPLATES

SOURCE_MAP = re.compile(r"\n?//# sourceMappingURL=\S+\s*$")


@dataclass(frozen=True, slots=True)
class Asset:
    """A script or style as it stands between its tags, byte for byte; ours, so that nothing in it is escaped."""

    text: Markup

    @classmethod
    def of(cls, *names: str) -> Self:
        """Return files of ``workflow/report``, one after the other."""
        texts = (SOURCE_MAP.sub("", (TEMPLATES / name).read_text(encoding="utf-8")) for name in names)
        return cls(Markup("\n".join(texts)))

    @classmethod
    def licensed(cls, name: str, licence: str) -> Self:
        """Return somebody else's script with its licence before it."""
        terms = (TEMPLATES / licence).read_text(encoding="utf-8").replace("*/", "* /")
        return cls(Markup(f"/*!\n{terms}*/\n{cls.of(name).text}"))

    @property
    def csp(self) -> str:
        """The source expression of a Content-Security-Policy that allows it."""
        digest = hashlib.sha256(self.text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
