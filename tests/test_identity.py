"""Identities: contents count, times and names do not, and unchanged files are not read twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cytomend.errors import InputError
from cytomend.storage import identity
from cytomend.storage.identity import cached_identities, cached_identity, image_identity

LONG_AGO = 1_600_000_000


def settled(path, content=b"pixels", at=LONG_AGO):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (at, at))
    return path


@pytest.fixture
def readings(monkeypatch):
    """Paths whose contents were read."""
    paths = []
    original = identity._file_digest
    monkeypatch.setattr(identity, "_file_digest", lambda path: paths.append(path) or original(path))
    return paths


@given(st.binary(max_size=200), st.binary(max_size=200))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_are_alike_when_their_contents_are(tmp_path, one, other):
    first, second = image_identity(settled(tmp_path / "a", one)), image_identity(settled(tmp_path / "b", other, at=0))
    assert (first == second) == (one == other)
    assert len(first) == 64


trees = st.dictionaries(
    st.sampled_from([".zattrs", "0/.zarray", "0/0/0", "0/0/1", "0/1", "a", "ab"]),
    st.binary(min_size=1, max_size=3),
    max_size=5,
)


@given(trees, trees)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_folders_are_alike_when_relative_paths_and_contents_are(tmp_path_factory, one, other):
    folders = [tmp_path_factory.mktemp("tree") for _ in range(2)]
    for folder, tree in zip(folders, (one, other), strict=True):
        for name, content in tree.items():
            settled(folder / name, content)
    assert (image_identity(folders[0]) == image_identity(folders[1])) == (one == other)


def test_contents_do_not_slip_from_one_file_into_the_next(tmp_path):
    settled(tmp_path / "one" / "a", b"xy")
    settled(tmp_path / "one" / "b", b"")
    settled(tmp_path / "two" / "a", b"x")
    settled(tmp_path / "two" / "b", b"y")
    assert image_identity(tmp_path / "one") != image_identity(tmp_path / "two")


def test_links_in_a_folder_are_followed_but_not_in_circles(tmp_path):
    settled(tmp_path / "elsewhere" / "chunk", b"1")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "0").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "store")
    before = image_identity(tmp_path / "store")
    settled(tmp_path / "elsewhere" / "chunk", b"2")
    assert image_identity(tmp_path / "store") != before


def test_a_missing_path_is_refused(tmp_path):
    for ask in (image_identity, lambda path: cached_identity(path, tmp_path / "cache.json")):
        with pytest.raises(InputError, match=r"absent\.tif: expected a file or folder, found nothing at"):
            ask(tmp_path / "absent.tif")


def test_a_path_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = settled(tmp_path / "a.tif")

    def deny(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(InputError, match=r"a\.tif: expected .* found: Permission denied"):
        image_identity(path)


def test_an_unchanged_file_is_not_read_again(tmp_path, readings):
    path, cache = settled(tmp_path / "a.tif"), tmp_path / "made" / "here" / "cache.json"
    expected = image_identity(path)
    readings.clear()
    assert [cached_identity(path, cache) for _ in range(3)] == [expected] * 3
    assert readings == [path]


def test_an_unchanged_folder_is_not_read_again(tmp_path, readings):
    settled(tmp_path / "a.zarr" / "0" / "0")
    settled(tmp_path / "a.zarr" / ".zattrs")
    identities = {cached_identity(tmp_path / "a.zarr", tmp_path / "cache.json") for _ in range(3)}
    assert identities == {image_identity(tmp_path / "a.zarr")}
    assert len(readings) == 2 + 2


def test_a_touched_file_is_read_again_and_found_the_same(tmp_path, readings):
    path, cache = settled(tmp_path / "a.tif"), tmp_path / "cache.json"
    before = cached_identity(path, cache)
    os.utime(path, (LONG_AGO + 5, LONG_AGO + 5))
    assert cached_identity(path, cache) == before
    assert len(readings) == 2


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_changed_contents_of_the_same_size_are_noticed(tmp_path, name):
    inside = tmp_path / name / "0" if name.endswith("zarr") else tmp_path / name
    settled(inside, b"old")
    before = cached_identity(tmp_path / name, tmp_path / "cache.json")
    settled(inside, b"new", at=LONG_AGO + 1)
    assert cached_identity(tmp_path / name, tmp_path / "cache.json") != before


@pytest.mark.parametrize("change", ["rename", "add", "remove"])
def test_another_file_in_a_folder_is_noticed(tmp_path, change):
    store = tmp_path / "a.zarr"
    settled(store / "0")
    settled(store / "1")
    before = cached_identity(store, tmp_path / "cache.json")
    if change == "rename":
        (store / "1").rename(store / "2")
    elif change == "add":
        settled(store / "2")
    else:
        (store / "1").unlink()
    assert cached_identity(store, tmp_path / "cache.json") != before


def test_a_file_changed_a_moment_ago_is_not_trusted(tmp_path, readings):
    path, cache = settled(tmp_path / "a.tif", at=time.time()), tmp_path / "cache.json"
    for _ in range(2):
        cached_identity(path, cache)
    assert len(readings) == 2


def test_a_file_from_the_future_is_cached_all_the_same(tmp_path, readings):
    path, cache = settled(tmp_path / "a.tif", at=time.time() + 1e6), tmp_path / "cache.json"
    for _ in range(2):
        cached_identity(path, cache)
    assert len(readings) == 1


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version": 99, "entries": {}}',
        b'{"version": 1, "entries": []}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_cache_counts_as_empty_and_is_replaced(tmp_path, damaged):
    path, cache = settled(tmp_path / "a.tif"), tmp_path / "cache.json"
    cache.write_bytes(damaged)
    assert cached_identity(path, cache) == image_identity(path)
    assert list(json.loads(cache.read_text())["entries"]) == [str(path)]


@pytest.mark.parametrize("entry", [None, 3, {}, {"stamp": [6, LONG_AGO * 10**9]}, {"identity": "x"}])
def test_a_damaged_entry_is_not_believed(tmp_path, entry):
    path, cache = settled(tmp_path / "a.tif"), tmp_path / "cache.json"
    cache.write_text(json.dumps({"version": 1, "entries": {str(path): entry}}))
    assert cached_identity(path, cache) == image_identity(path)


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, readings, caplog):
    path = settled(tmp_path / "a.tif")
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache.json"
    for _ in range(2):
        cached_identity(path, cache)
    assert len(readings) == 2
    assert "cannot be written" in caplog.text


def test_nothing_is_left_beside_the_cache(tmp_path):
    cached_identity(settled(tmp_path / "a.tif"), tmp_path / "cache" / "cache.json")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["cache.json"]


def test_a_cache_written_by_another_process_is_seen(tmp_path, readings):
    path, cache = settled(tmp_path / "a.tif"), tmp_path / "cache.json"
    cached_identity(path, cache)
    entries = json.loads(cache.read_text())["entries"]
    other = settled(tmp_path / "b.tif", b"others")
    entries[str(other)] = {"stamp": identity.stamp(other), "identity": "written elsewhere"}
    cache.write_text(json.dumps({"version": 1, "entries": entries}))
    assert cached_identity(other, cache) == "written elsewhere"
    assert readings == [path]


def _ask(folder, start):
    for number in range(start, start + 12):
        cached_identity(folder / f"{number % 16}.tif", folder / "cache.json")


def test_concurrent_writers_leave_a_valid_cache(tmp_path):
    for number in range(16):
        settled(tmp_path / f"{number}.tif", bytes([number]))
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_ask, args=(tmp_path, start)) for start in (0, 4, 8, 12)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    entries = json.loads((tmp_path / "cache.json").read_text())["entries"]
    assert entries
    for path, entry in entries.items():
        assert entry["identity"] == image_identity(Path(path))


def test_only_the_standard_library_is_needed():
    program = (
        "import sys; before = set(sys.modules); import cytomend.storage.identity;"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(loaded - sys.stdlib_module_names - {'cytomend'}))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_several_files_are_read_once_and_the_cache_is_written_once(tmp_path, readings, monkeypatch):
    written, store = [], identity._store
    monkeypatch.setattr(identity, "_store", lambda file, new: written.append(len(new)) or store(file, new))
    paths = [settled(tmp_path / f"{i}.tif", bytes([i])) for i in range(9)]
    found = cached_identities(paths, tmp_path / "cache.json")
    assert found == {path: image_identity(path) for path in paths}
    readings.clear()
    assert cached_identities(paths, tmp_path / "cache.json") == found
    assert readings == []
    assert written == [9]


def test_more_than_the_limit_is_not_read(tmp_path, readings):
    paths = [settled(tmp_path / name, b"x" * 600) for name in ("a.tif", "b.tif")]
    with pytest.raises(InputError, match=r"2 files, .*a\.tif.*cytomend identify"):
        cached_identities(paths, tmp_path / "cache.json", limit_bytes=1000)
    assert readings == []
    cached_identities(paths[:1], tmp_path / "cache.json", limit_bytes=1000)
    # What is known does not count.
    assert len(cached_identities(paths, tmp_path / "cache.json", limit_bytes=1000)) == 2


def test_what_was_read_before_a_failure_is_kept(tmp_path, readings, monkeypatch):
    paths = [settled(tmp_path / f"{i}.tif") for i in range(4)]

    def interrupted(path):
        if path == paths[-1]:
            raise KeyboardInterrupt
        return image_identity(path)

    with monkeypatch.context() as patch:
        patch.setattr(identity, "image_identity", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cached_identities(paths, tmp_path / "cache.json")
    readings.clear()
    cached_identities(paths, tmp_path / "cache.json")
    assert readings == paths[-1:]
