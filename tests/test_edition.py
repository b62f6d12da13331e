"""Editions: a first run reads nothing, a touched file keeps its name, other content gets another."""

import json
import os

import pytest

from cytomend.errors import InputError
from cytomend.storage.edition import editions, read_source, require_planned, sources_in
from cytomend.storage.identity import image_identity

LONG_AGO = 1_600_000_000


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.tif"
    path.write_bytes(b"pixels")
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


class Reader:
    """Content hashes, and which files were read for them."""

    def __init__(self):
        self.read = []

    def __call__(self, paths):
        self.read += paths
        return {path: image_identity(path) for path in paths}


def edition_of(path, known, reader):
    return editions({"s1": ({"image": path}, known)}, reader)["s1"]["image"]


def planned(path, edition, folder):
    """What a plan that was written now would keep, by way of its manifest."""
    manifest = folder / "plan.manifest.json"
    manifest.write_text(json.dumps({"sources": {"image": read_source(path, edition).record()}}))
    return sources_in(manifest)


def test_a_file_seen_for_the_first_time_is_not_read(scan):
    reader = Reader()
    first = edition_of(scan, {}, reader)
    assert edition_of(scan, {}, reader) == first
    assert reader.read == []


def test_a_planned_file_keeps_its_edition_unread(scan, tmp_path):
    reader = Reader()
    first = edition_of(scan, {}, reader)
    assert edition_of(scan, planned(scan, first, tmp_path), reader) == first
    assert reader.read == []


def test_a_touched_file_is_read_and_keeps_its_edition(scan, tmp_path):
    reader = Reader()
    first = edition_of(scan, {}, reader)
    known = planned(scan, first, tmp_path)
    os.utime(scan, (LONG_AGO + 9, LONG_AGO + 9))
    assert edition_of(scan, known, reader) == first
    assert reader.read == [scan]
    # Planned again after the touch, it goes by the name that the workflow gave it.
    assert edition_of(scan, planned(scan, first, tmp_path), Reader()) == first


def test_other_content_makes_another_edition_and_going_back_too(scan, tmp_path):
    reader = Reader()
    first = edition_of(scan, {}, reader)
    known = planned(scan, first, tmp_path)
    scan.write_bytes(b"others")
    os.utime(scan, (LONG_AGO + 9, LONG_AGO + 9))
    second = edition_of(scan, known, reader)
    assert second != first
    known = planned(scan, second, tmp_path)
    scan.write_bytes(b"pixels")
    os.utime(scan, (LONG_AGO, LONG_AGO))
    assert edition_of(scan, known, reader) == first != second


def test_a_file_that_was_too_young_when_planned_is_told_by_its_content(scan, tmp_path):
    os.utime(scan)
    reader = Reader()
    first = edition_of(scan, {}, reader)
    known = planned(scan, first, tmp_path)
    assert known["image"].stamp is None
    assert edition_of(scan, known, reader) == first
    assert reader.read == [scan]


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"sources": {"image": {"edition": 3}}}', '{"sources": 5}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "plan.manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"plan\.manifest\.json: expected the manifest of a plan.*delete it"):
        sources_in(tmp_path / "plan.manifest.json")


def test_content_that_took_the_name_of_another_does_not_pass_for_it(scan, tmp_path):
    first = edition_of(scan, {}, Reader())
    scan.write_bytes(b"others")  # replaced after it got its name, before it was planned
    os.utime(scan, (LONG_AGO + 9, LONG_AGO + 9))
    known = planned(scan, first, tmp_path)
    assert edition_of(scan, known, Reader()) == first
    scan.write_bytes(b"pixels")  # and put back
    os.utime(scan, (LONG_AGO, LONG_AGO))
    assert edition_of(scan, known, Reader()) != first


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.tif"):
        edition_of(tmp_path / "gone.tif", {}, Reader())


def test_a_changed_file_does_not_pass_for_the_planned_one(scan, tmp_path):
    planned(scan, None, tmp_path)
    manifest = tmp_path / "plan.manifest.json"
    os.utime(scan, (5, 5))
    require_planned(scan, manifest)
    scan.write_bytes(b"others")
    with pytest.raises(InputError, match="was changed since"):
        require_planned(scan, manifest)
    with pytest.raises(InputError, match="expected a plan that names its truth"):
        require_planned(scan, manifest, "truth")
