"""What is absent is not black: tiles, strips, chunks and shards that were never written are ground or damage."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile
import zarr
from test_images import write_omezarr

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.stages.convert import convert
from cytomend.storage.images import open_image, open_labels

SIDE, CHUNK = 192, 32
ABSENT = ((0, 0), (2, 3), (5, 5))
"""Places of chunks and tiles that are left out: no row of them is."""


def tissue(dtype="uint8", top=250, low=120):
    return np.random.default_rng(3).integers(low, top, (SIDE, SIDE)).astype(dtype)


def expected(pixels, ground, absent=ABSENT):
    shown = pixels.copy()
    for y, x in absent:
        shown[..., y * CHUNK : (y + 1) * CHUNK, x * CHUNK : (x + 1) * CHUNK] = ground
    return shown


def read(image):
    return image.read(Box(0, 0, *image.shape))


def chunk(store, y, x, level="0"):
    """The file of a chunk, whatever the store calls it."""
    key = zarr.open_group(store, mode="r")[level].metadata.encode_chunk_key((y, x))
    return store / level / key


def without(store, absent=ABSENT):
    for place in absent:
        chunk(store, *place).unlink()
    return store


def store_of(path, pixels, version="0.5", *, fill=0, levels=1, separator="/"):
    """Write a store whose chunks are all there, with coarser levels on request."""
    three = version == "0.5"
    group = zarr.open_group(path, mode="w", zarr_format=3 if three else 2)
    for level in range(levels):
        shown = pixels[:: 2**level, :: 2**level]
        group.create_array(
            str(level),
            shape=shown.shape,
            chunks=(CHUNK, CHUNK),
            dtype=shown.dtype,
            fill_value=fill,
            config={"write_empty_chunks": True},
            chunk_key_encoding={"name": "default" if three else "v2", "separator": separator},
        )[:] = shown
    multiscale = {
        "axes": [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"],
        "datasets": [
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [2.0**level] * 2}]}
            for level in range(levels)
        ],
    }
    if three:
        group.attrs["ome"] = {"version": version, "multiscales": [multiscale]}
    else:
        group.attrs["multiscales"] = [{**multiscale, "version": version}]
    return path


BOTH = pytest.mark.parametrize(
    ("version", "separator"), [("0.4", "/"), ("0.4", "."), ("0.5", "/"), ("0.5", ".")], ids=str
)


# OME-Zarr ------------------------------------------------------------------------------------------------------------


@BOTH
def test_a_whole_store_is_read_without_a_word(tmp_path, version, separator):
    store = store_of(tmp_path / "s.zarr", tissue(), version, separator=separator)
    with open_image(store) as image:
        assert image.warnings == []
        np.testing.assert_array_equal(read(image)[0], tissue())


@BOTH
@pytest.mark.parametrize(("fill", "ground"), [(0, 255), (230, 230), (None, 255)])
def test_absent_chunks_of_a_scan_are_glass_and_counted(tmp_path, version, separator, fill, ground):
    if fill is None and version == "0.5":
        pytest.skip("Zarr v3 demands a fill value")
    store = without(store_of(tmp_path / "s.zarr", tissue(), version, fill=fill, separator=separator))
    with open_image(store) as image:
        assert image.warnings == [
            f"{store}: 3 of 36 chunks of level 0 are absent, and read as ground of the value {ground}"
        ]
        np.testing.assert_array_equal(read(image)[0], expected(tissue(), ground))
        np.testing.assert_array_equal(image.read(Box(10, 20, 90, 130))[0], expected(tissue(), ground)[10:90, 20:130])


def test_glass_of_16_bit_is_white_of_as_many_bits_as_the_camera_gave(tmp_path):
    pixels = tissue("uint16", top=4000, low=2000)
    with open_image(without(store_of(tmp_path / "s.zarr", pixels))) as image:
        np.testing.assert_array_equal(read(image)[0], expected(pixels, 4095))


def test_absent_chunks_of_a_dark_scan_stay_dark(tmp_path):
    pixels = tissue(top=20, low=0)
    pixels[3, 3] = 255
    with open_image(without(store_of(tmp_path / "s.zarr", pixels), ABSENT[1:])) as image:
        np.testing.assert_array_equal(read(image)[0], expected(pixels, 0, ABSENT[1:]))
        assert "2 of 36 chunks" in image.warnings[0]


@BOTH
def test_a_store_without_any_chunk_is_refused(tmp_path, version, separator):
    store = store_of(tmp_path / "s.zarr", tissue(), version, separator=separator)
    for path in (store / "0").iterdir():
        if path.name not in {".zarray", ".zattrs", "zarr.json"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="expected the 36 chunks of level 0, found none of them"):
        open_image(store)


@pytest.mark.parametrize("stored", ["/", "."])
@pytest.mark.parametrize("labels", [False, True])
def test_another_separator_is_refused_with_a_cure_that_cures(tmp_path, stored, labels):
    store, opener = (
        store_of(tmp_path / "s.zarr", tissue(), "0.4", separator=stored),
        open_labels if labels else open_image,
    )
    described = json.loads((store / "0" / ".zarray").read_text())
    said = "." if stored == "/" else "/"
    (store / "0" / ".zarray").write_text(json.dumps({**described, "dimension_separator": said}))
    with pytest.raises(InputError, match="found 36 with other names") as caught:
        opener(store)
    assert f'write "dimension_separator": "{stored}" in {store / "0" / ".zarray"}' in str(caught.value)
    (store / "0" / ".zarray").write_text(json.dumps({**described, "dimension_separator": stored}))
    np.testing.assert_array_equal(read(opener(store))[0], tissue())


def test_a_separator_that_is_not_named_is_a_dot(tmp_path):
    store = store_of(tmp_path / "s.zarr", tissue(), "0.4")
    described = json.loads((store / "0" / ".zarray").read_text())
    described.pop("dimension_separator")
    (store / "0" / ".zarray").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"named like '0\.0'"):
        open_image(store)


def test_chunks_of_the_other_zarr_format_are_refused(tmp_path):
    store = store_of(tmp_path / "s.zarr", tissue())
    for path in (store / "0" / "c").iterdir():
        path.rename(store / "0" / path.name)
    with pytest.raises(InputError, match="named like 'c/0/0', found 36 with other names"):
        open_image(store)


@BOTH
def test_a_copy_that_stopped_is_refused_unless_glass_was_declared(tmp_path, version, separator):
    rows = [(y, x) for y in (3, 4, 5) for x in range(6)]
    store = without(store_of(tmp_path / "s.zarr", tissue(), version, separator=separator), rows)
    with pytest.raises(InputError, match="found 18, and none of the rows 3, 4, 5 of chunks, as of a copy that stopped"):
        open_image(store)
    metadata = store / "0" / (".zarray" if version == "0.4" else "zarr.json")
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "fill_value": 240}))  # the cure
    np.testing.assert_array_equal(read(open_image(store))[0], expected(tissue(), 240, rows))


@pytest.mark.parametrize("fill", [0, 240])
def test_tissue_in_a_coarser_level_tells_that_level_0_is_not_whole(tmp_path, fill):
    store = without(store_of(tmp_path / "s.zarr", tissue(), levels=3, fill=fill))
    with pytest.raises(InputError, match="a coarser level is not empty where 3 of the others should be"):
        open_image(store)


def test_glass_in_a_coarser_level_agrees_with_absent_chunks(tmp_path):
    pixels = expected(tissue(), 255)
    with open_image(without(store_of(tmp_path / "s.zarr", pixels, levels=3))) as image:
        np.testing.assert_array_equal(read(image)[0], pixels)


def test_a_colour_of_which_no_chunk_is_there_is_refused(tmp_path):
    store = write_omezarr(tmp_path / "s.zarr", np.stack([tissue()] * 3), axes="cyx")
    shutil.rmtree(store / "0" / "c" / "2")
    with pytest.raises(InputError, match="found no chunk of channel 2"):
        open_image(store)


@pytest.mark.parametrize("shards", [1, 2])
def test_chunks_that_a_shard_left_out_are_glass_and_counted(tmp_path, shards):
    pixels = tissue()
    group = zarr.open_group(tmp_path / "s.zarr", mode="w")
    array = group.create_array(
        "0",
        shape=(SIDE - 20, SIDE - 20),
        chunks=(CHUNK, CHUNK),
        shards=(CHUNK * 3 * shards,) * 2,
        dtype="u1",
        fill_value=0,
    )
    dropped = expected(pixels, 0)[: SIDE - 20, : SIDE - 20]
    array[:] = dropped
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    with open_image(tmp_path / "s.zarr") as image:
        np.testing.assert_array_equal(read(image)[0], expected(pixels, 255)[: SIDE - 20, : SIDE - 20])
        assert "3 of 36 chunks in shards of level 0 are absent" in image.warnings[0]


def test_black_that_is_converted_stays_black(tmp_path):
    pixels = expected(tissue(), 0, [(y, x) for y in (0, 1) for x in range(6)])
    resolution = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", np.kron(pixels, np.ones((8, 8), np.uint8)), tile=(64, 64), **resolution)
    convert(tmp_path / "a.tif", tmp_path / "a.ome.zarr")
    with open_image(tmp_path / "a.ome.zarr") as image:
        assert image.warnings == []
        np.testing.assert_array_equal(read(image)[0, ::8, ::8], pixels)
    shutil.rmtree(tmp_path / "a.ome.zarr" / "0" / "c" / "2")
    with pytest.raises(InputError, match="expected all files that were converted, found 0/c/2/0 missing"):
        open_image(tmp_path / "a.ome.zarr")


@BOTH
def test_absent_chunks_of_a_mask_mark_nothing(tmp_path, version, separator):
    mask = expected(np.ones((SIDE, SIDE), np.uint8), 0)
    store = without(store_of(tmp_path / "m.zarr", mask, version, separator=separator, levels=2))
    image = open_labels(store)
    np.testing.assert_array_equal(read(image)[0], mask)
    assert image.warnings == []
    for place in np.ndindex(6, 6):
        chunk(store, *place).unlink(missing_ok=True)
    shutil.rmtree(store / "1")
    assert open_labels(store).warnings == [f"{store}: none of its 36 chunks was written; it marks nothing"]


def test_marks_in_a_coarser_level_tell_that_a_mask_is_not_whole(tmp_path):
    store = without(store_of(tmp_path / "m.zarr", np.ones((SIDE, SIDE), np.uint8), levels=2))
    with pytest.raises(InputError, match="a coarser level is not empty where 3 of the others should be"):
        open_labels(store)


# TIFF ----------------------------------------------------------------------------------------------------------------


def write_sparse(path, pixels, absent, *, strips=False, nodata=None, **options):
    """Write a TIFF of which some tiles (or strips) have neither place nor length, as GDAL and scanners do."""
    layout = {"rowsperstrip": CHUNK} if strips else {"tile": (CHUNK, CHUNK)}
    extra = [(42113, 2, len(str(nodata)) + 1, str(nodata), True)] if nodata is not None else []
    tifffile.imwrite(path, pixels, **layout, metadata=None, extratags=extra, **options)
    across = 1 if strips else SIDE // CHUNK
    with tifffile.TiffFile(path) as tif:
        names = ("StripOffsets", "StripByteCounts") if strips else ("TileOffsets", "TileByteCounts")
        tags = [tif.pages.first.tags[name] for name in names]
        places = [(tag.valueoffset, {"SHORT": 2, "LONG": 4, "LONG8": 8}[tag.dtype.name]) for tag in tags]
    with path.open("r+b") as file:
        for start, size in places:
            for y, x in absent:
                file.seek(start + (y * across + x) * size)
                file.write(bytes(size))
    return path


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True}], ids=str)
@pytest.mark.parametrize(("nodata", "ground"), [(None, 255), (0, 255), (230, 230)])
def test_tiles_that_were_never_written_are_glass_and_counted(tmp_path, options, nodata, ground):
    path = write_sparse(tmp_path / "a.tif", tissue(), ABSENT, nodata=nodata, **options)
    with open_image(path) as image:
        np.testing.assert_array_equal(read(image)[0], expected(tissue(), ground))
        assert image.warnings == [
            f"{path}: 3 of 36 tiles were never written, and are read as ground of the value {ground}"
        ]


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_tiles_that_were_never_written_are_glass(tmp_path, planar):
    pixels = np.dstack([tissue()] * 3)
    stored = np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
    places = [(plane * 6 + y, x) for plane in range(3) for y, x in ABSENT] if planar == "separate" else ABSENT
    path = write_sparse(tmp_path / "a.tif", stored, places, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read(open_image(path)), expected(np.moveaxis(pixels, -1, 0), 255))


def test_strips_without_place_and_length_are_glass_and_counted(tmp_path):
    path = write_sparse(tmp_path / "a.tif", tissue(), [(1, 0), (4, 0)], strips=True)
    with open_image(path) as image:
        np.testing.assert_array_equal(
            read(image)[0], expected(tissue(), 255, [(y, x) for y in (1, 4) for x in range(6)])
        )
        assert "2 of 6 strips were never written" in image.warnings[0]


@pytest.mark.parametrize("strips", [False, True])
def test_a_tiff_of_which_nothing_was_written_is_refused(tmp_path, strips):
    everything = [(y, x) for y in range(6) for x in range(1 if strips else 6)]
    path = write_sparse(tmp_path / "a.tif", tissue(), everything, strips=strips)
    with pytest.raises(InputError, match="expected pixels, found none of"):
        open_image(path)


def test_a_dark_scan_keeps_a_dark_ground(tmp_path):
    pixels = tissue(top=20, low=0)
    np.testing.assert_array_equal(
        read(open_image(write_sparse(tmp_path / "a.tif", pixels, ABSENT)))[0], expected(pixels, 0)
    )


def test_tiles_of_a_mask_that_were_never_written_mark_nothing_and_are_counted(tmp_path):
    mask = np.ones((SIDE, SIDE), np.uint8)
    path = write_sparse(tmp_path / "m.tif", mask, ABSENT)
    image = open_labels(path)
    np.testing.assert_array_equal(read(image)[0], expected(mask, 0))
    assert image.warnings == [f"{path}: 3 of 36 tiles were never written, and are read as 0"]
