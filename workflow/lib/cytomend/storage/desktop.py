"""Files that desktops, file systems and synchronisers leave in folders; no program that writes images makes them.

They come and go without anybody's doing, so they belong to no scan and to no result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath

LEFT_BEHIND = (
    # macOS: settings of the Finder, and beside NAME its AppleDouble file ._NAME
    r"\.DS_Store",
    r"\._.*",
    r"\.(?:AppleDouble|AppleDB|AppleDesktop|LSOverride|Spotlight-V100|Trashes|fseventsd|TemporaryItems|apdisk)",
    r"\.(?:DocumentRevisions-V100|PKInstallSandboxManager.*|VolumeIcon\.icns|com\.apple\..*)",
    r"__MACOSX|Icon\r|Network Trash Folder|Temporary Items",
    # Windows and Office
    r"(?:ehthumbs|ehthumbs_vista|thumbs)\.db(?::encryptable)?",
    r"desktop\.ini|\$RECYCLE\.BIN|System Volume Information|RECYCLER",
    r"~\$.*|.*:Zone\.Identifier|\.?picasa\.ini",
    # Linux desktops and editors
    r"\.directory|\.Trash(?:-\d+)?|\.thumbnails|\.hidden|\.goutputstream-.*|\.~lock\..*#|\..*\.sw[op]|.*~",
    # Network file systems keep open files under such names after they were deleted
    r"\.nfs[0-9a-f]+|\.fuse_hidden.*|\.smbdelete.*|\.cifs[0-9a-f]+|lost\+found|\.snapshots?|~snapshot|\.zfs",
    # Network drives (Synology, QNAP) and synchronisers
    r"@eaDir|@SynoResource|@SynoEAStream|.*@SynoEAStream|.*@SynoResource|#recycle|@Recycle|\.?@__thumb|@tmp|#snapshot",
    r"\.dropbox|\.dropbox\.(?:attr|cache)|\.stfolder|\.stversions|\.stignore|\.sync|\.?_sync_.*\.db.*|\.owncloudsync.*",
)
_LEFT_BEHIND = re.compile("|".join(f"(?:{pattern})" for pattern in LEFT_BEHIND), re.IGNORECASE | re.DOTALL)


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of this name was left by a desktop, a file system or a synchroniser.

    >>> [is_left_behind(name) for name in (".DS_Store", "._zarr.json", "THUMBS.DB", "@eaDir", ".nfs0000a1")]
    [True, True, True, True, True]
    >>> [is_left_behind(name) for name in (".zattrs", ".zarray", "zarr.json", "0", "c", "Data0000.dat")]
    [False, False, False, False, False, False]
    """
    return _LEFT_BEHIND.fullmatch(name) is not None


def lies_in_left_behind(relative: PurePath) -> bool:
    """Whether a path below a folder is, or lies in, something of that kind."""
    return any(map(is_left_behind, relative.parts))


def without_left_behind(paths: Iterable[Path]) -> list[Path]:
    """Return the paths whose names are not of that kind."""
    return [path for path in paths if not is_left_behind(path.name)]
