"""Results appear whole or not at all, whatever the moment at which their writer ends."""

from __future__ import annotations

import errno
import multiprocessing
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from cytomend.errors import InputError, ResourceError
from cytomend.storage import publish as publishing
from cytomend.storage.publish import damaged_files, manifest_of, one_writer, publish, read_manifest, write_whole


def fill(work, text):
    (work / "c" / "0").mkdir(parents=True, exist_ok=True)
    (work / "c" / "0" / "1").write_text(text)
    (work / "zarr.json").write_text("{}")


def write(folder, text="first", **facts):
    with one_writer(folder) as work:
        fill(work, text)
        return publish(work, folder, facts)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results" / "7.zarr"


def foreign_folder(folder):
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years")


def foreign_file(folder):
    folder.parent.mkdir(parents=True)
    folder.write_text("years")


def link(folder):
    foreign_folder(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


@pytest.mark.parametrize("place", [foreign_folder, foreign_file, link])
def test_nothing_but_a_result_is_replaced(folder, place):
    place(folder)
    before = sorted(path for path in folder.parent.rglob("*"))
    with pytest.raises(InputError, match="expected nothing or an earlier result that may be replaced"):
        write(folder)
    assert sorted(path for path in folder.parent.rglob("*")) == before


def test_what_appears_while_a_result_is_made_is_kept(folder):
    def meanwhile():
        with one_writer(folder) as work:
            fill(work, "first")
            foreign_folder(folder)
            publish(work, folder, {})

    with pytest.raises(InputError, match="expected nothing or an earlier result"):
        meanwhile()
    assert (folder / "thesis.txt").read_text() == "years"


def test_an_empty_folder_and_an_earlier_result_are_replaced(folder):
    folder.mkdir(parents=True)
    (folder / ".snakemake_timestamp").touch()
    write(folder)
    manifest_of(folder).unlink()
    write(folder, "second")
    assert (folder / "c" / "0" / "1").read_text() == "second"


@pytest.mark.parametrize(
    ("folder", "manifest"),
    [
        ("plan", "plan.manifest.json"),
        ("7.zarr", "7.manifest.json"),
        ("corrected.ome.zarr", "corrected.manifest.json"),
        ("scan.v2.ome.zarr", "scan.v2.manifest.json"),
        ("Schnitt.7", "Schnitt.7.manifest.json"),
    ],
)
def test_a_manifest_stands_beside_its_folder(folder, manifest):
    assert manifest_of(Path("results") / folder) == Path("results") / manifest


def test_a_published_result_is_whole_and_says_what_it_is(folder):
    manifest = write(folder, section="s1", regions=3)
    record = read_manifest(manifest)
    assert record == {"files": 2, "section": "s1", "regions": 3, "sha256": record["sha256"]}
    assert damaged_files(folder) == []
    assert sorted(path.name for path in folder.parent.iterdir()) == ["7.manifest.json", "7.zarr"]


def test_the_same_result_has_the_same_manifest_wherever_it_stands(folder, tmp_path):
    here, there = write(folder), write(tmp_path / "elsewhere" / "8.zarr")
    assert here.read_text() == there.read_text()
    assert write(folder, "second").read_text() != there.read_text()


def test_a_result_replaces_the_one_before_with_all_its_files(folder):
    with one_writer(folder) as work:
        fill(work, "first")
        (work / "stale").write_text("of the first")
        publish(work, folder, {})
    write(folder, "second")
    assert (folder / "c" / "0" / "1").read_text() == "second"
    assert not (folder / "stale").exists()
    assert damaged_files(folder) == []


class Killed(BaseException):
    """Ends a process like a signal: nothing catches it."""


STEPS = ["_sha256", "shutil.rmtree", "Path.rename", "Path.unlink", "Path.write_text", "Path.replace", "os.getpid"]


@pytest.mark.parametrize("occasion", range(1, 4))
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("replaces", [False, True])
def test_a_writer_killed_at_any_step_leaves_nothing_that_looks_finished_but_is_not(
    folder, monkeypatch, step, occasion, replaces
):
    if replaces:
        write(folder, "first")
    owner = {"Path": Path, "shutil": shutil, "os": publishing.os}.get(step.split(".")[0], publishing)
    real, calls = getattr(owner, step.split(".")[-1]), []

    def killed_in_time(*args, **kwargs):
        calls.append(args)
        if len(calls) == occasion:
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, step.split(".")[-1], killed_in_time)
        with suppress(Killed):
            write(folder, "second")

    def require_whole(*texts):
        if manifest_of(folder).exists():
            assert damaged_files(folder) == []
            listing = (folder / publishing.CHECKSUMS).read_bytes()
            assert read_manifest(manifest_of(folder))["sha256"] == publishing.hashlib.sha256(listing).hexdigest()
            assert (folder / "c" / "0" / "1").read_text() in texts

    require_whole("first", "second")
    write(folder, "third")
    require_whole("third")
    assert manifest_of(folder).exists()
    assert sorted(path.name for path in folder.parent.iterdir() if path.name.endswith((".work", ".old"))) == []


def test_what_a_killed_writer_left_is_there_for_the_next(folder):
    with suppress(Killed), one_writer(folder) as work:
        (work / "half").write_text("done")
        raise Killed
    assert not folder.exists()
    with one_writer(folder) as work:
        assert (work / "half").read_text() == "done"


def hold(folder, ready, release):
    with one_writer(folder):
        ready.set()
        release.wait(30)


def test_a_second_writer_is_refused_while_the_first_is_at_work(folder):
    with (
        one_writer(folder),
        pytest.raises(ResourceError, match=r"7\.zarr: another process is writing it"),
        one_writer(folder),
    ):
        pass
    with one_writer(folder) as work:  # and free again
        assert work.is_dir()


def test_a_second_process_is_refused_too(folder):
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(folder, ready, release))
    process.start()
    assert ready.wait(30)
    with pytest.raises(ResourceError, match="another process is writing it"), one_writer(folder):
        pass
    release.set()
    process.join()


@pytest.mark.parametrize("change", ["altered", "missing", "emptied"])
def test_damage_after_writing_is_found(folder, change):
    write(folder)
    chunk = folder / "c" / "0" / "1"
    {"altered": lambda: chunk.write_text("fIrst"), "missing": chunk.unlink, "emptied": lambda: chunk.write_text("")}[
        change
    ]()
    assert damaged_files(folder) == ["c/0/1"]


def test_the_timestamp_that_snakemake_leaves_is_no_damage(folder):
    write(folder)
    (folder / ".snakemake_timestamp").touch()
    assert damaged_files(folder) == []


@pytest.mark.parametrize("content", [None, "", "{", "\xff"])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, content):
    manifest = tmp_path / "7.manifest.json"
    if content is not None:
        manifest.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"7\.manifest\.json: expected the manifest of a finished result"):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EROFS, "cannot be written")],
)
def test_what_the_disk_refuses_is_told_with_the_place(folder, number, sentence):
    with pytest.raises(ResourceError, match=sentence) as told, one_writer(folder):
        raise OSError(number, "as the system says")
    assert str(folder) in str(told.value)
    assert not manifest_of(folder).exists()


def test_a_file_is_written_whole_or_not(tmp_path):
    path = tmp_path / "new" / "regions.npz"
    write_whole(path, lambda beside: beside.write_text("first"))

    def half(beside):
        beside.write_text("half")
        raise Killed

    with pytest.raises(Killed):
        write_whole(path, half)
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["regions.npz"]


@pytest.mark.parametrize("content", ["[]", "null", "5", '"x"', "[" * 100_000, "{"])
def test_a_manifest_that_is_none_is_refused(folder, content):
    manifest = write(folder)
    manifest.write_text(content)
    with pytest.raises(InputError, match="expected the manifest of a finished result"):
        read_manifest(manifest)
