"""What is proved of a corrected section: the verdict that `cytomend.stages.verify_section` writes and a page shows.

Entries of ``verdict.json``:

| entry | unit | what |
|---|---|---|
| ``section`` | | its name |
| ``holds`` | | whether nothing is wrong |
| ``wrong`` | | sentences: which file, what was expected, what was found |
| ``advice`` | | sentences: what to do about it |
| ``checks`` | | in order, each with ``check`` (its name), ``what`` (is proved), ``holds``, ``wrong`` (sentences) |
| ``pixels`` | px | of the section |
| ``compared_px`` | px | outside the mask, compared with the scan |
| ``altered_px``, ``first_altered`` | px | of these, not those of the scan; (y, x) of the first that were met |
| ``mended_px`` | px | that the result says are mended |
| ``mislabelled_px``, ``first_mislabelled`` | px | whose label is not the plan's |
| ``levels`` | | of each pyramid |
| ``checksum`` | | ``scan`` and ``result``: of all pixels outside the mask; null where some could not be read; ``how`` |
| ``scan``, ``scan_blake2b``, ``plan_sha256``, ``corrected_sha256`` | | what was read: path and hash of the scan, the\
 identities in the manifests of plan and result |
| ``versions`` | | of cytomend, zarr, numpy, the validator, OME-Zarr |
| ``key`` | | the workflow's name for all that the verdict is made from, or null |

The checks:

| check | what |
|---|---|
| ``scan`` | the file holds what it held when it was planned |
| ``plan`` | files of the plan against their checksums |
| ``files`` | files of the result against their checksums; files that no list names; its manifest against the plan |
| ``metadata`` | OME-Zarr by a validator; version, axes, scales, places, labels; shape, type, axes of every array |
| ``provenance`` | what the result says of its origin against the plan |
| ``untouched`` | law 1: every pixel with label 0 equals the scan, bit for bit |
| ``labels`` | every label equals the plan's; their number |
| ``levels`` | every level is made of the one below |
| ``uncertainty`` | with samples: none outside the mask; the mean that the result tells |
| ``grafts`` | law 9: every mended pixel is marked as drawn or copied; copies equal their intact source, bit for bit |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cytomend.errors import InputError
from cytomend.storage.publish import manifest_of, write_whole

CHECKS = {
    "scan": "the scan is the one that was planned",
    "plan": "the plan's files are as they were written",
    "files": "the result's files are as they were written, and no others are among them",
    "metadata": "the metadata are OME-Zarr, and give every level its size and place",
    "provenance": "the result tells its origin as the plan does",
    "untouched": "every pixel outside the mask equals the scan, bit for bit",
    "labels": "the label marks exactly what was to be mended",
    "levels": "every level of the pyramids is made of the one below",
    "uncertainty": "uncertainty is told of mended pixels alone",
    "grafts": "every mended pixel is marked as drawn or copied, and every copy equals its intact source, bit for bit",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: its name, what is proved if nothing is wrong, and sentences about what is."""

    check: str
    what: str
    holds: bool
    wrong: list[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is proved of a corrected section; entries in the docstring of the module."""

    section: str
    holds: bool
    wrong: list[str]
    advice: list[str]
    checks: list[Check]
    pixels: int
    compared_px: int
    altered_px: int
    first_altered: list[tuple[int, int]]
    mended_px: int
    mislabelled_px: int
    first_mislabelled: list[tuple[int, int]]
    levels: int
    checksum: dict[str, str | None]
    scan: str
    scan_blake2b: str
    plan_sha256: str
    corrected_sha256: str
    versions: dict[str, str]
    key: str | None = None

    def write(self, path: Path) -> Path:
        """Write it as JSON, whole or not at all, and return its path."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))
        return path

    @classmethod
    def read(cls, path: Path, key: str | None = None) -> Verdict:
        """Read it back; with a key, only that which was made from what the key stands for.

        Raises
        ------
        InputError
            If it is missing, damaged, or has another key.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            verdict = cls(**{**record, "checks": [Check(**check) for check in record["checks"]]})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: expected the verdict on a section ({error}); delete it and run again") from error
        if key and verdict.key != key:
            raise InputError(
                f"{path}: expected a verdict on the section as it is now (key {key[:12]}), found one with key"
                f" {(verdict.key or 'none')[:12]}; delete it and run again"
            )
        return verdict


def advice(failed: list[str], image: Path, plan_folder: Path, corrected: Path) -> Iterator[str]:
    """Yield what to do, causes first."""
    if "scan" in failed:
        yield f"Put back the scan that was planned as {image}, or run `snakemake`, which plans the section again."
    if "plan" in failed:
        yield f"Delete {manifest_of(plan_folder)} and run again: the plan cannot be trusted, nor what was made from it."
        return
    # Pixels that differ from another scan say nothing against the result.
    wrong_result = [name for name in failed if name != "scan" and not ("scan" in failed and name == "untouched")]
    if wrong_result:
        yield f"Do not use {corrected}. Delete {manifest_of(corrected)} and run again."
    if wrong_result and "files" not in failed:
        yield (
            "Its files are as they were written, so they were written wrong: if the next is wrong too, keep it and"
            " report it as a bug of cytomend."
        )
