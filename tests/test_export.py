"""What goes out as TIFF is the corrected section, level by level, and never passes for a scan; scans stored anew."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from conftest import plan_settings

from cytomend.cli import main
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.annotation import open_mask
from cytomend.stages import convert as convert_stage
from cytomend.stages import export as export_stage
from cytomend.stages.convert import convert
from cytomend.stages.export import CLASS, export
from cytomend.stages.plan_section import plan_section
from cytomend.storage import tiff, tiff_pyramid
from cytomend.storage.images import open_image
from cytomend.storage.publish import locked, manifest_of, publish
from cytomend.storage.pyramid import Grid, Pyramid, halve_by_maximum, halve_by_mean, multiscales

SHAPE = (701, 1203)


def tissue(channels=1, dtype=np.uint8, shape=SHAPE):
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(1).integers(0, top, (channels, *shape), dtype=dtype, endpoint=True)
    return pixels if channels > 1 else pixels[0]


@pytest.fixture
def corrected(tmp_path):
    """Return a function that writes a store such as blending does, with three regions in its label."""

    def make(channels=1, dtype=np.uint8):
        work, place = tmp_path / "work", tmp_path / "corrected.ome.zarr"
        group = zarr.open_group(work, mode="w", zarr_format=3)
        pixels, label = tissue(channels, dtype), np.zeros(SHAPE, np.uint32)
        label[100:180, 300:420], label[140:160, 330:340], label[600:, 1100:], label[5, 7] = 1, 0, 2, 3
        lead = channels if channels > 1 else None
        grid, marked = Grid(128, 256), group.create_group("labels/mended")
        levels = Pyramid.create(group, lead, SHAPE, np.dtype(dtype), grid, halve_by_mean).fill(
            lambda box: pixels[(..., *box.slices)]
        )
        labels = Pyramid.create(marked, None, SHAPE, label.dtype, grid, halve_by_maximum).fill(
            lambda box: label[box.slices]
        )
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscales("s", levels, 0.5, "mean")]}
        group["labels/mended"].attrs["ome"] = {"version": "0.5", "multiscales": [multiscales("m", labels, 0.5, "max")]}
        group.attrs["cytomend"] = {"model": "tiny", "seed": 3, "checkpoint_sha256": "ab" * 32}
        pixels_of_levels = [np.asarray(level) for level in levels]
        publish(work, place, {"section": "s"})
        return place, pixels_of_levels, label

    return make


def channels_last(level):
    return np.moveaxis(level, 0, -1) if level.ndim == 3 else level


VIPS = """
import json, sys, numpy as np, pyvips
levels = [pyvips.Image.new_from_file(sys.argv[1], **place).numpy() for place in json.loads(sys.argv[2])]
np.savez(sys.argv[3], *levels)
"""


def read_by_vips(path, places, passing):
    """Read levels in a process of its own: libraries of one process may get hold of each other's libtiff."""
    subprocess.run([sys.executable, "-c", VIPS, path, json.dumps(places), passing], check=True)
    with np.load(passing) as levels:
        return list(levels.values())


KINDS = [(1, np.uint8), (3, np.uint8), (1, np.uint16), (3, np.uint16)]


@pytest.mark.parametrize(("channels", "dtype"), KINDS, ids=str)
@pytest.mark.parametrize("kind", tiff_pyramid.KINDS)
def test_every_level_is_read_back_pixel_for_pixel(corrected, tmp_path, kind, channels, dtype):
    store, levels, _ = corrected(channels, dtype)
    out = export(store, tmp_path / "out.tif", tmp_path / "out.geojson", kind)
    with tifffile.TiffFile(out) as file:
        series = file.series[0]
        assert (len(file.series), len(series.levels), file.is_bigtiff) == (1, len(levels), True)
        for level, expected in zip(series.levels, levels, strict=True):
            np.testing.assert_array_equal(level.asarray(), channels_last(expected))
        if kind == "ome":
            assert 'PhysicalSizeX="0.5"' in file.ome_metadata
        description = file.ome_metadata if kind == "ome" else file.pages.first.description
        assert "synthetic" in description
        assert "ab" * 32 in description
    places = [
        {"subifd": n - 1} if kind == "ome" and n else {"page": n if kind == "classic" else 0}
        for n in range(len(levels))
    ]
    for second, expected in zip(read_by_vips(out, places, tmp_path / "vips.npz"), levels, strict=True):
        np.testing.assert_array_equal(second, channels_last(expected))


@pytest.mark.parametrize("channels", [1, 3])
def test_openslide_reads_a_classic_pyramid_with_all_levels(corrected, tmp_path, channels):
    store, levels, _ = corrected(channels)
    out = export(store, tmp_path / "out.tif", tmp_path / "out.geojson", "classic")
    with openslide.OpenSlide(out) as slide:
        assert slide.level_dimensions == tuple(level.shape[:-3:-1] for level in levels)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-6)
        for number, level in enumerate(levels):
            seen = np.asarray(slide.read_region((0, 0), number, slide.level_dimensions[number]))[..., :3]
            expected = channels_last(level) if channels == 3 else np.repeat(level[..., None], 3, axis=-1)
            np.testing.assert_array_equal(seen, expected)


def test_the_outlines_enclose_exactly_what_is_synthetic(corrected, tmp_path, monkeypatch):
    monkeypatch.setattr("cytomend.stages.export.TILE_PX", 128)
    store, _, label = corrected()
    export(store, tmp_path / "out.tif", tmp_path / "out.geojson", "ome")
    drawn = open_mask(tmp_path / "out.geojson", SHAPE, include_classes=[CLASS]).read(Box(0, 0, *SHAPE))
    np.testing.assert_array_equal(drawn, label > 0)
    features = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert [feature["properties"]["name"] for feature in features] == ["region 1", "region 2", "region 3"]


def test_an_exported_section_is_no_scan(corrected, tmp_path, capsys):
    store, *_ = corrected()
    assert main(["export", str(store), "--out", str(tmp_path / "scan.tif"), "--kind", "classic"]) == 0
    with pytest.raises(InputError, match="is a mended section, whose synthetic pixels would pass for measured ones"):
        plan_section(tmp_path / "scan.tif", tmp_path / "scan.geojson", plan_settings(), tmp_path / "plan")
    capsys.readouterr()
    assert main(["export", str(store), "--out", str(tmp_path / "scan.tif")]) == 2
    assert "scan.tif: exists already" in capsys.readouterr().err


def test_an_interrupted_export_leaves_nothing(corrected, tmp_path, monkeypatch):
    store, *_ = corrected()

    def fail(*_):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(tiff_pyramid, "_tiles", fail)
    assert main(["export", str(store), "--out", str(tmp_path / "out.tif")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrected.manifest.json", "corrected.ome.zarr"]


def test_what_a_killed_export_left_is_removed_by_the_next_and_only_one_writes_at_a_time(corrected, tmp_path, capsys):
    store, *_ = corrected()
    (tmp_path / ".out.tif.4711.tif").write_bytes(b"half")
    (tmp_path / ".out2.tif.4711.tif").write_bytes(b"of another")
    (tmp_path / ".out.tif.notes.tif").write_bytes(b"mine")
    with locked(tmp_path / "out.tif"):
        assert main(["export", str(store), "--out", str(tmp_path / "out.tif")]) == 1
    assert "another process is writing it" in capsys.readouterr().err
    assert (tmp_path / ".out.tif.4711.tif").exists()
    assert main(["export", str(store), "--out", str(tmp_path / "out.tif")]) == 0
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".out.tif.notes.tif", ".out2.tif.4711.tif"]


def test_outlines_never_stand_beside_the_tiff_of_another_section(corrected, tmp_path, monkeypatch):
    store, *_ = corrected()
    out, outlines = tmp_path / "out.tif", tmp_path / "out.geojson"
    export(store, out, outlines, "ome")
    first = outlines.read_bytes()
    real = export_stage.write_whole

    def killed(path, write):
        if path == outlines:
            assert not out.exists()  # from here on there is no finished export
            raise KeyboardInterrupt
        real(path, write)

    monkeypatch.setattr(export_stage, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        export(store, out, outlines, "ome", overwrite=True)
    assert outlines.read_bytes() == first
    assert not out.exists()


def test_an_unfinished_section_is_not_exported(corrected, tmp_path, capsys):
    store, *_ = corrected()
    manifest_of(store).unlink()
    assert main(["export", str(store), "--out", str(tmp_path / "out.tif")]) == 2
    assert "expected the manifest of a finished result" in capsys.readouterr().err


# --- scans stored anew ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "dtype"), KINDS, ids=str)
def test_a_scan_in_strips_is_stored_anew_with_the_same_pixels(tmp_path, channels, dtype):
    pixels = channels_last(tissue(channels, dtype))
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    how = {"rowsperstrip": 37, "compression": "lzw", "photometric": "rgb" if channels == 3 else "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **how, **resolution)
    convert(tmp_path / "a.tif", tmp_path / "a.ome.zarr")
    with open_image(tmp_path / "a.ome.zarr") as image:
        assert (image.shape, image.channels, image.dtype, image.pixel_size_um) == (SHAPE, channels, dtype, 0.5)
        np.testing.assert_array_equal(channels_last(image.read(Box(0, 0, *SHAPE))).squeeze(), pixels)
    array = zarr.open_array(tmp_path / "a.ome.zarr" / "0")
    assert array.chunks[-2:] == (512, 512)


def test_each_strip_is_decoded_once(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", tissue(), rowsperstrip=100, compression="zlib")
    decoded = []
    real = tiff.TiffImage._bytes
    monkeypatch.setattr(tiff.TiffImage, "_bytes", lambda self, at, count: decoded.append(at) or real(self, at, count))
    convert(tmp_path / "a.tif", tmp_path / "a.ome.zarr", 1.0)
    assert len(decoded) == len(set(decoded)) == 8


def test_an_interrupted_conversion_leaves_nothing_that_looks_finished(tmp_path, monkeypatch, capsys):
    tifffile.imwrite(tmp_path / "a.tif", tissue(), rowsperstrip=100, compression="zlib")
    words = ["convert", str(tmp_path / "a.tif"), "--pixel-size-um", "1", "--out", str(tmp_path / "a.ome.zarr")]
    with monkeypatch.context() as broken:
        broken.setattr(convert_stage, "multiscales", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(words)
    assert not (tmp_path / "a.ome.zarr").exists()
    assert not manifest_of(tmp_path / "a.ome.zarr").exists()
    assert main(words) == 0
    capsys.readouterr()
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_large_scan_in_strips_is_warned_of_and_a_tiled_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "LARGE_BYTES", 1 << 16)
    tifffile.imwrite(tmp_path / "strips.tif", tissue(), rowsperstrip=100, compression="zlib")
    tifffile.imwrite(tmp_path / "plain.tif", tissue(), rowsperstrip=100)
    tifffile.imwrite(tmp_path / "tiles.tif", tissue(), tile=(256, 256), compression="zlib")
    told = {}
    for name in ("strips", "plain", "tiles"):
        with open_image(tmp_path / f"{name}.tif") as image:
            told[name] = image.warnings
    assert "stored in compressed strips of 100 rows across" in told["strips"][0]
    assert "by `cytomend convert`" in told["strips"][0]
    assert told["plain"] == told["tiles"] == []


# What must not be lost or laundered


def test_a_corrected_section_is_not_converted_into_a_scan(corrected, tmp_path, capsys):
    store, _, _ = corrected()
    out = export(store, tmp_path / "s.ome.tif", tmp_path / "s.geojson", "ome")
    renamed = out.rename(tmp_path / "s.svs")
    for scan in (store, renamed):
        assert main(["convert", str(scan), "--out", str(tmp_path / "new.ome.zarr")]) == 2
        assert "is a mended section" in capsys.readouterr().err
    assert tiff_pyramid.is_mended_tiff(renamed)
    assert not (tmp_path / "new.ome.zarr").exists()


def test_what_cannot_be_converted_is_named(tmp_path, capsys):
    whole, cut = tmp_path / "whole.tif", tmp_path / "cut.tif"
    tifffile.imwrite(whole, tissue(), tile=(64, 64))
    cut.write_bytes(whole.read_bytes()[:6])
    for scan in (cut, tmp_path / "none.tif"):
        assert main(["convert", str(scan), "--out", str(tmp_path / "new.ome.zarr")]) == 2
        assert f"{scan}: expected" in capsys.readouterr().err
    assert not tiff_pyramid.is_mended_tiff(cut)


def test_a_damaged_store_is_not_exported(corrected, tmp_path):
    store, _, _ = corrected()
    next(path for path in (store / "0").rglob("c/*/*") if path.is_file()).unlink()
    with pytest.raises(InputError, match="is missing or was altered"):
        export(store, tmp_path / "out.tif", tmp_path / "out.geojson", "ome")
    assert not (tmp_path / "out.tif").exists()


def test_overwriting_replaces_exports_and_nothing_else(corrected, tmp_path, capsys):
    store, _, _ = corrected()
    mine, outlines = tmp_path / "tears.tif", tmp_path / "tears.geojson"
    tifffile.imwrite(mine, np.zeros((9, 9), np.uint8))
    command = ["export", str(store), "--out", str(mine), "--overwrite"]
    assert main(command) == 2
    assert "was not exported by cytomend" in capsys.readouterr().err
    mine.unlink()
    outlines.write_text('{"type": "FeatureCollection", "features": [{"properties": {}}]}')
    assert main(command) == 2
    assert f"{outlines}: exists and was not exported by cytomend" in capsys.readouterr().err
    outlines.unlink()
    assert main(command) == main(command) == 0
    assert main(["export", str(store), "--out", str(mine), "--outlines", str(mine), "--overwrite"]) == 2
    assert main(["export", str(store), "--out", str(store / "0" / "x.tif")]) == 2
    assert "another file than the TIFF" in (said := capsys.readouterr().err)
    assert "would replace or change" in said


def test_a_section_with_a_dot_in_its_name_has_outlines_of_its_own(corrected, tmp_path):
    store, _, _ = corrected()
    for name in ("a.left.ome.tif", "a.right.tif"):
        assert main(["export", str(store), "--out", str(tmp_path / name)]) == 0
    assert {path.name for path in tmp_path.glob("*.geojson")} == {"a.left.geojson", "a.right.geojson"}
