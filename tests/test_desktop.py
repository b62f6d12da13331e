"""What desktops and file systems leave in folders changes no identity and no verdict."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from conftest import blobs, mend_by_stages

from cytomend.decisions import read_decisions
from cytomend.stages.verify_section import verify_section
from cytomend.storage.desktop import is_left_behind
from cytomend.storage.edition import require_planned
from cytomend.storage.identity import image_identity, stamp
from cytomend.storage.publish import manifest_of, require_intact, require_replaceable

LEFT_BEHIND = [
    *(".DS_Store", "._zarr.json", "._.zattrs", "._1.dcm", ".fseventsd", "__MACOSX", ".Spotlight-V100", "Icon\r"),
    *("Thumbs.db", "thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "$RECYCLE.BIN", "~$sheet.xlsx"),
    *("0:Zone.Identifier", ".directory", ".Trash-1000", ".~lock.a.tsv#", ".zattrs.swp", "zarr.json~"),
    *(".nfs000000000a1b2c3d00000001", ".fuse_hidden0000a1", ".smbdeleteAAA1", "@eaDir", "#recycle", "@Recycle"),
    *(".@__thumb", ".dropbox.attr", ".stfolder", "lost+found", ".snapshot"),
]
OF_IMAGES = [
    *(".zattrs", ".zarray", ".zgroup", ".zmetadata", "zarr.json", "0", "0.0", "c", "labels", "checksums.tsv"),
    *("Data0000.dat", "Index.dat", "Slidedat.ini", "1.dcm", "DICOMDIR", "frame_t.ets", "scan.tif", "a.db", "nfs1"),
]


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_a_desktop_leaves_is_known(name):
    assert is_left_behind(name)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_what_belongs_to_an_image_is_not_taken_for_it(name):
    assert not is_left_behind(name)


def litter(folder):
    """Leave files of every kind, and a folder with a file in it."""
    for name in LEFT_BEHIND:
        if name in {"@eaDir", ".fseventsd"}:
            (folder / name).mkdir()
            (folder / name / "anything").write_bytes(b"x")
        else:
            (folder / name).write_bytes(b"x")


def test_the_identity_of_a_store_is_that_of_its_own_files(tmp_path):
    store = zarr.create_array(tmp_path / "s.zarr", shape=(64, 64), dtype="uint8", chunks=(32, 32))
    store[:] = 7
    before = image_identity(tmp_path / "s.zarr"), stamp(tmp_path / "s.zarr")
    litter(tmp_path / "s.zarr")
    litter(tmp_path / "s.zarr" / "c" / "0")
    assert (image_identity(tmp_path / "s.zarr"), stamp(tmp_path / "s.zarr")) == before
    store[:32, :32] = 8
    assert image_identity(tmp_path / "s.zarr") != before[0]


@pytest.mark.parametrize("name", ["s.mrxs", "s.dcm"])
def test_the_identity_of_a_slide_is_that_of_its_own_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"1")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "Data0000.dat").write_bytes(b"1")
    before = image_identity(tmp_path / name), stamp(tmp_path / name)
    litter(tmp_path)
    litter(tmp_path / "s")
    assert (image_identity(tmp_path / name), stamp(tmp_path / name)) == before


def test_a_result_that_the_finder_looked_at_still_holds(make_section, tiny_model, tmp_path):
    section = make_section(blobs((96, 96), (30, 30, 50, 50)))
    corrected = mend_by_stages(section, tiny_model(), tmp_path)
    for folder in (corrected, corrected / "0", tmp_path / "plan"):
        litter(folder)
    verdict = verify_section(section.image, tmp_path / "plan", corrected)
    assert verdict.holds, verdict.wrong
    require_intact(corrected)
    require_planned(section.image, manifest_of(tmp_path / "plan"))
    (corrected / "0" / "left").write_bytes(b"x")
    assert any(
        "found also: 0/left" in sentence
        for sentence in verify_section(section.image, tmp_path / "plan", corrected).wrong
    )


def test_a_folder_in_which_only_a_desktop_wrote_is_empty(tmp_path):
    litter(tmp_path)
    require_replaceable(tmp_path)


def test_a_lock_of_an_office_program_is_no_table_of_decisions(tmp_path):
    (tmp_path / "~$decided.tsv").write_bytes(np.arange(9, dtype=np.uint8).tobytes())
    assert read_decisions(tmp_path, None) == {}
