"""Fetch what ``packages.json`` lists from the npm registry, check it, and copy the files named there beside it.

Usage: ``python workflow/report/vendor/fetch.py [packages.json]``; needs ``npm``. Any table of this form may be given.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGES = Path(__file__).with_name("packages.json")


def fetch(package: str, version: str, folder: Path) -> Path:
    """Return the package's archive, as npm fetches it into a folder."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{package}@{version}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.tgz"))


def require_integrity(archive: Path, integrity: str) -> None:
    """Compare an archive with its checksum, written ``sha512-BASE64`` as npm writes it.

    Raises
    ------
    SystemExit
        If it is another.
    """
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode("ascii")
    if found != integrity:
        raise SystemExit(f"{archive.name}: expected {integrity}, found {found}; nothing was copied")


def unpack(archive: Path, files: dict[str, str], folder: Path) -> None:
    """Write files of an archive, by their new names, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as members:
        for name, inside in files.items():
            member = members.extractfile(f"package/{inside}")
            if member is None:
                raise SystemExit(f"{archive.name}: expected a file {inside}")
            (folder / name).write_bytes(member.read())


def main(table: Path) -> None:
    """Fetch all packages of a table."""
    for entry in json.loads(table.read_text(encoding="utf-8")):
        with tempfile.TemporaryDirectory() as work:
            archive = fetch(entry["package"], entry["version"], Path(work))
            require_integrity(archive, entry["integrity"])
            unpack(archive, entry["files"], table.parent / entry["package"])
        print(f"{entry['package']} {entry['version']}: {', '.join(entry['files'])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGES)
