"""Section images: every supported format gives the pixels it holds, and every other one is refused with a reason."""

from __future__ import annotations

import json
import os
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.storage.images import is_image, open_image, open_labels

FORMATS = Path(__file__).parents[2] / "shared" / "data" / "formats"
needs_formats = pytest.mark.skipif(not FORMATS.is_dir(), reason="sample files are not beside this checkout")

HEIGHT, WIDTH = 70, 90


def grey(dtype="uint8"):
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH)).astype(dtype)


def colour(dtype="uint8"):
    return np.random.default_rng(2).integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH, 3)).astype(dtype)


def channels_first(image):
    return image[np.newaxis] if image.ndim == 2 else np.moveaxis(image, -1, 0)


def write_omezarr(path, image, *, version="0.5", axes="yx", scale=1.0, unit="micrometer", **extra):
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    chunks = (1,) * (image.ndim - 2) + (32, 32)
    array = group.create_array("0", shape=image.shape, chunks=chunks, dtype=image.dtype)
    array[...] = image
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in described[-2:]:
        axis["unit"] = unit
    transformation = {"type": "scale", "scale": [1.0] * (len(axes) - 2) + [scale, scale]}
    multiscale = {
        "axes": described,
        "datasets": [{"path": "0", "coordinateTransformations": [transformation]}],
        **extra,
    }
    if version == "0.4":
        group.attrs["multiscales"] = [{**multiscale, "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [multiscale]}
    return path


def refusal(path, opener=open_image):
    with pytest.raises(InputError) as caught:
        opener(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert "expected" in sentence
    assert "found" in sentence
    return sentence


TIFF_VARIANTS = {
    "strips": {"rowsperstrip": 7},
    "one raw strip": {"rowsperstrip": HEIGHT},
    "one row a strip": {"rowsperstrip": 1},
    "tiles": {"tile": (32, 16)},
    "big-endian strips": {"byteorder": ">", "rowsperstrip": 9},
    "big-endian lzw": {"byteorder": ">", "compression": "lzw", "predictor": True, "rowsperstrip": 8},
    "bigtiff": {"bigtiff": True, "tile": (16, 32)},
    "bigtiff big-endian": {"bigtiff": True, "byteorder": ">"},
    "lzw": {"compression": "lzw", "tile": (32, 32)},
    "deflate with predictor": {"compression": "zlib", "predictor": True, "tile": (32, 32)},
    "deflate strips": {"compression": "zlib", "rowsperstrip": 13},
    "zstd": {"compression": "zstd", "tile": (16, 16)},
    "lossless jpeg 2000": {"compression": "jpeg2000", "tile": (32, 32)},
    "packbits": {"compression": "packbits", "rowsperstrip": 16},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("layout", ["grey", "contiguous", "planar"])
@pytest.mark.parametrize("variant", TIFF_VARIANTS)
def test_every_kind_of_tiff_gives_the_pixels_that_were_written(tmp_path, variant, layout, dtype):
    image = grey(dtype) if layout == "grey" else colour(dtype)
    stored = np.moveaxis(image, -1, 0) if layout == "planar" else image
    options = (
        {}
        if layout == "grey"
        else {
            "photometric": "rgb",
            "planarconfig": layout.replace("contiguous", "contig").replace("planar", "separate"),
        }
    )
    tifffile.imwrite(tmp_path / "a.tif", stored, **options, **TIFF_VARIANTS[variant])
    with open_image(tmp_path / "a.tif") as section:
        assert (section.shape, section.channels) == ((HEIGHT, WIDTH), 1 if layout == "grey" else 3)
        assert section.dtype == np.dtype(dtype)
        assert section.dtype.isnative
        for box in (Box(0, 0, HEIGHT, WIDTH), Box(5, 11, 6, 12), Box(31, 15, 69, 90), Box(64, 0, 70, 90)):
            pixels = section.read(box)
            assert pixels.dtype == section.dtype
            np.testing.assert_array_equal(pixels, channels_first(image)[(slice(None), *box.slices)])


@pytest.fixture(scope="module")
def opened_sections(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    tifffile.imwrite(folder / "tiles.tif", colour(), photometric="rgb", tile=(32, 16), compression="zstd")
    tifffile.imwrite(folder / "strips.tif", grey("uint16"), rowsperstrip=7, byteorder=">")
    Image.fromarray(colour()).save(folder / "a.png")
    write_omezarr(folder / "a.zarr", channels_first(colour()), axes="cyx")
    wholes = {"tiles.tif": colour(), "strips.tif": grey("uint16"), "a.png": colour(), "a.zarr": colour()}
    return [(open_image(folder / name), channels_first(whole)) for name, whole in wholes.items()]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_box_equals_the_crop_of_the_whole(opened_sections, data):
    section, whole = data.draw(st.sampled_from(opened_sections))
    y0, x0 = data.draw(st.integers(0, HEIGHT - 1)), data.draw(st.integers(0, WIDTH - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, HEIGHT)), data.draw(st.integers(x0 + 1, WIDTH)))
    np.testing.assert_array_equal(section.read(box), whole[(slice(None), *box.slices)])


@pytest.mark.parametrize("box", [Box(-1, 0, 5, 5), Box(0, 0, HEIGHT + 1, 5), Box(3, 3, 3, 9), Box(0, 80, 5, WIDTH + 1)])
def test_a_box_that_is_empty_or_reaches_outside_is_a_bug_of_the_caller(opened_sections, box):
    for section, _ in opened_sections:
        with pytest.raises(ValueError, match="reaches outside a section of 70 x 90"):
            section.read(box)


def test_a_box_that_was_read_may_be_changed_without_changing_the_next_read(opened_sections):
    for section, whole in opened_sections:
        section.read(Box(0, 0, 20, 20))[...] = 0
        np.testing.assert_array_equal(section.read(Box(0, 0, 20, 20)), whole[:, :20, :20])


def test_boxes_may_be_read_from_several_threads(opened_sections):
    boxes = [box for _ in range(5) for box in Box(0, 0, HEIGHT, WIDTH).tiles(17)]
    for section, whole in opened_sections:
        with ThreadPoolExecutor(8) as pool:
            for box, pixels in zip(boxes, pool.map(section.read, boxes), strict=True):
                np.testing.assert_array_equal(pixels, whole[(slice(None), *box.slices)])


def test_boxes_beside_each_other_do_not_decode_their_strips_twice(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", grey(), compression="zlib", rowsperstrip=2)
    section = open_image(tmp_path / "a.tif")
    fetched = []
    original = section._bytes
    monkeypatch.setattr(section, "_bytes", lambda *place: fetched.append(place) or original(*place))
    for box in Box(4, 0, 68, WIDTH).tiles(16):
        section.read(box)
    assert len(fetched) == len(set(fetched)) == 32


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_dropped(tmp_path, planar):
    image = np.dstack([colour(), grey()])
    stored = image if planar == "contig" else np.moveaxis(image, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, extrasamples=["unassalpha"])
    Image.fromarray(image).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        section = open_image(tmp_path / name)
        assert section.channels == 3
        np.testing.assert_array_equal(section.read(Box(0, 0, HEIGHT, WIDTH)), channels_first(colour()))
        assert section.warnings == [f"{tmp_path / name}: its alpha channel is not used"]


def test_the_full_resolution_level_of_an_ome_tiff_pyramid_is_taken(tmp_path):
    image = colour()
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        metadata = {"PhysicalSizeX": 0.0005, "PhysicalSizeXUnit": "mm", "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}
        writer.write(image, subifds=2, tile=(32, 32), photometric="rgb", compression="zlib", metadata=metadata)
        writer.write(image[::2, ::2], tile=(32, 32), photometric="rgb", subfiletype=1)
        writer.write(image[::4, ::4], tile=(32, 32), photometric="rgb", subfiletype=1)
    section = open_image(tmp_path / "a.ome.tif")
    assert section.pixel_size_um == pytest.approx(0.5)
    assert section.block_px == (32, 32)
    np.testing.assert_array_equal(section.read(Box(0, 0, HEIGHT, WIDTH)), channels_first(image))


def test_the_largest_page_is_taken_when_levels_and_thumbnails_are_separate_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(grey()[::2, ::2], tile=(16, 16), metadata=None)
        writer.write(grey(), tile=(16, 16), metadata=None)
        writer.write(colour()[::5, ::5], photometric="rgb", metadata=None)
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(Box(0, 0, HEIGHT, WIDTH))[0], grey())


def test_ome_tiff_channels_in_separate_pages_become_colours(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif", channels_first(colour()), photometric="minisblack", metadata={"axes": "CYX"}
    )
    section = open_image(tmp_path / "a.ome.tif")
    assert section.channels == 3
    np.testing.assert_array_equal(section.read(Box(3, 4, 50, 60)), channels_first(colour())[:, 3:50, 4:60])


def test_tiles_of_a_dark_scan_that_were_never_written_are_zero(tmp_path):
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    image[:16, :16] = 7
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tif:
        page = tif.pages[0]
        for name in ("TileOffsets", "TileByteCounts"):
            values = list(page.tags[name].value)
            page.tags[name].overwrite(values[:1] + [0] * (len(values) - 1))
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(Box(0, 0, HEIGHT, WIDTH))[0], image)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected_um"),
    [
        ((10000, 10000), "CENTIMETER", 1.0),
        ((25400, 25400), "INCH", 1.0),
        ((50000, 50000), "CENTIMETER", 0.2),
        ((72, 72), "INCH", None),
        ((1, 1), "NONE", None),
        ((10000, 10000), "NONE", None),
        ((10000, 5000), "CENTIMETER", None),
    ],
)
def test_the_pixel_size_of_a_tiff_comes_from_credible_resolution_tags_only(tmp_path, resolution, unit, expected_um):
    tifffile.imwrite(tmp_path / "a.tif", grey(), resolution=resolution, resolutionunit=unit)
    assert open_image(tmp_path / "a.tif").pixel_size_um == pytest.approx(expected_um)


def test_a_missing_resolution_unit_is_not_taken_for_inches(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", grey(), resolution=(25400, 25400), resolutionunit="INCH")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    entry = data.index(struct.pack("<HHI", 296, 3, 1))
    data[entry : entry + 2] = struct.pack("<H", 65100)  # a private tag in its place
    (tmp_path / "a.tif").write_bytes(data)
    assert open_image(tmp_path / "a.tif").pixel_size_um is None


@pytest.mark.parametrize(("unit", "expected_um"), [("micron", 0.5), ("\\u00B5m", 0.5), ("pixel", None)])
def test_the_pixel_size_of_an_imagej_tiff_uses_its_own_unit(tmp_path, unit, expected_um):
    tifffile.imwrite(tmp_path / "a.tif", grey(), imagej=True, resolution=(2, 2), metadata={"unit": unit})
    assert open_image(tmp_path / "a.tif").pixel_size_um == pytest.approx(expected_um)


@pytest.mark.parametrize(
    ("size", "unit", "expected_um"),
    [
        (0.5, "µm", 0.5),
        (500, "nm", 0.5),
        (1, "mm", None),
        (0, "µm", None),
        (1, "pixel", None),
        (1, "reference frame", None),
    ],
)
def test_the_pixel_size_of_an_ome_tiff_is_converted_to_micrometres(tmp_path, size, unit, expected_um):
    metadata = {f"PhysicalSize{axis}": size for axis in "XY"} | {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    tifffile.imwrite(tmp_path / "a.ome.tif", grey(), metadata={"axes": "YX", **metadata})
    assert open_image(tmp_path / "a.ome.tif").pixel_size_um == pytest.approx(expected_um)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_omezarr_of_both_versions_gives_level_0(tmp_path, version, axes, dtype):
    image = channels_first(grey(dtype) if axes == "yx" else colour(dtype))
    stored = {"yx": image[0], "cyx": image, "tczyx": image[np.newaxis, :, np.newaxis]}[axes]
    section = open_image(write_omezarr(tmp_path / "a.zarr", stored, version=version, axes=axes, scale=0.5))
    assert (section.shape, section.channels, section.dtype) == ((HEIGHT, WIDTH), len(image), np.dtype(dtype))
    assert section.block_px == (32, 32)
    assert section.pixel_size_um == pytest.approx(0.5)
    np.testing.assert_array_equal(section.read(Box(5, 6, 64, 90)), image[:, 5:64, 6:90])


@pytest.mark.parametrize(
    ("scale", "unit", "expected_um"),
    [(500, "nanometer", 0.5), (0.001, "millimeter", 1.0), (1.0, "second", None), (1000.0, "micrometer", None)],
)
def test_the_pixel_size_of_an_omezarr_is_converted_to_micrometres(tmp_path, scale, unit, expected_um):
    path = write_omezarr(tmp_path / "a.zarr", grey(), scale=scale, unit=unit)
    assert open_image(path).pixel_size_um == pytest.approx(expected_um)


def test_the_scale_of_the_whole_omezarr_multiplies_that_of_its_level(tmp_path):
    whole = [{"type": "scale", "scale": [0.25, 0.25]}]
    path = write_omezarr(tmp_path / "a.zarr", grey(), scale=2.0, coordinateTransformations=whole)
    assert open_image(path).pixel_size_um == pytest.approx(0.5)


def test_a_16_bit_colour_png_keeps_its_16_bits(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colour("uint16")))
    try:
        section = open_image(tmp_path / "a.png")
    except InputError:
        pytest.fail("16 bit colour is an 8 or 16 bit image")
    np.testing.assert_array_equal(section.read(Box(0, 0, HEIGHT, WIDTH)), channels_first(colour("uint16")))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_gives_the_pixels_that_pillow_decodes(tmp_path, mode):
    Image.fromarray(grey() if mode == "L" else colour()).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    expected = channels_first(np.asarray(Image.open(tmp_path / "a.jpg"))).astype(int)
    pixels = open_image(tmp_path / "a.jpg").read(Box(0, 0, HEIGHT, WIDTH))
    assert np.abs(pixels - expected).max() <= 2  # two decoders may round differently


# Real files ----------------------------------------------------------------------------------------------------------


@needs_formats
@pytest.mark.parametrize(
    ("name", "shape", "channels"),
    [
        ("small_example.tif", (500, 500), 1),
        ("small_example_tiled.tif", (500, 500), 1),
        ("big_endian_small_example.tif", (500, 500), 1),
        ("bigtif_example.tif", (500, 500), 1),
        ("bigtif_example_tiled.tif", (500, 500), 1),
        ("tiled_rgb_sample.tif", (400, 640), 3),
        ("unicode_imagedescription.tif", (32, 32), 1),
    ],
)
def test_tiff_files_of_other_programs_are_read_right(name, shape, channels):
    path = FORMATS / "tiff-variants" / name
    whole = channels_first(tifffile.imread(path))
    with open_image(path) as section:
        assert (section.shape, section.channels, section.pixel_size_um) == (shape, channels, None)
        box = Box(3, 5, shape[0] - 1, shape[1] - 2)
        np.testing.assert_array_equal(section.read(box), whole[(slice(None), *box.slices)])


@needs_formats
def test_level_0_of_an_aperio_slide_is_read_with_its_pixel_size():
    path = FORMATS / "aperio-svs" / "CMU-1-Small-Region.svs"
    with open_image(path) as section, tifffile.TiffFile(path) as tif:
        assert (section.shape, section.channels, section.block_px) == ((2967, 2220), 3, (240, 240))
        assert section.pixel_size_um == pytest.approx(0.499)
        whole = channels_first(tif.pages[0].asarray())
        for box in (Box(100, 200, 700, 900), Box(2900, 2100, 2967, 2220)):
            np.testing.assert_array_equal(section.read(box), whole[(slice(None), *box.slices)])


@needs_formats
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("valid/image-01.zarr", "found float64 values"),
        ("valid/image-03.zarr", "found 2 (axes zyx"),
        ("invalid/image-01.zarr", "list 'multiscales', found None"),
        ("invalid/image-02.zarr", "list 'multiscales', found []"),
        ("invalid/image-03.zarr", "no readable array"),
    ],
)
def test_omezarr_examples_that_cannot_be_mended_are_refused(name, reason):
    assert reason in refusal(FORMATS / "ome-zarr-v0.4" / name)


@pytest.mark.skipif(
    not (FORMATS.parent / "nissl-human-fetal-devbrain").is_dir(), reason="sample files are not beside this checkout"
)
def test_the_colour_nissl_jpeg_is_read():
    section = open_image(FORMATS.parent / "nissl-human-fetal-devbrain" / "Croppedtest_imageS5.jpg")
    assert (section.shape, section.channels, section.dtype) == ((500, 1000), 3, np.uint8)
    assert section.read(Box(0, 0, 500, 1000)).std() > 10


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_refused(tmp_path):
    assert "found nothing at this path" in refusal(tmp_path / "absent.tif")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.tif").touch()
    assert "found an empty file" in refusal(tmp_path / "a.tif")


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.tif").write_text("section\timage\n")
    assert "found a file that begins with b'section" in refusal(tmp_path / "a.tif")


def test_an_empty_folder_is_refused(tmp_path):
    assert "found an empty folder" in refusal(tmp_path)


def test_a_folder_that_is_no_omezarr_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert "found a folder without .zgroup or zarr.json" in refusal(tmp_path)


def test_a_bare_zarr_array_is_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), dtype="uint8")
    assert "Zarr metadata cannot be read" in refusal(tmp_path / "a.zarr")


def test_damaged_zarr_metadata_are_refused(tmp_path):
    write_omezarr(tmp_path / "a.zarr", grey())
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    assert "Zarr metadata cannot be read" in refusal(tmp_path / "a.zarr")


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", grey())
    (tmp_path / "a.tif").chmod(0)
    assert "Permission denied; check its permissions" in refusal(tmp_path / "a.tif")


def test_a_file_that_may_not_be_read_is_refused_also_for_the_administrator(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", grey())

    def deny(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "found: Permission denied; check its permissions" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"rowsperstrip": 8}, {"compression": "zlib", "bigtiff": True}])
def test_a_tiff_truncated_anywhere_is_refused_when_it_is_opened(tmp_path, options):
    tifffile.imwrite(tmp_path / "whole.tif", grey("uint16"), **options)
    data = (tmp_path / "whole.tif").read_bytes()
    for length in range(5, len(data), len(data) // 41):
        path = tmp_path / "a.tif"
        path.write_bytes(data[:length])
        refusal(path)
    path.write_bytes(data[:-1])
    assert "truncated" in refusal(path)


def test_a_tiff_whose_tail_of_pixels_is_missing_says_how_many_bytes_it_should_have(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", grey(), rowsperstrip=8)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-100])
    assert f"at least {len(data)} bytes, found {len(data) - 100}: it is truncated" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_truncated_small_image_is_refused_when_it_is_opened(tmp_path, name):
    Image.fromarray(grey()).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for length in (12, 40, len(data) // 2):
        (tmp_path / name).write_bytes(data[:length])
        assert "found a damaged or truncated one" in refusal(tmp_path / name)


def test_damaged_pixels_are_named_by_file_and_box_when_they_are_read(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey(), tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[-1], tif.pages[0].databytecounts[-1]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    section = open_image(path)
    section.read(Box(0, 0, 32, 32))
    with pytest.raises(InputError, match=r"a\.tif: expected readable pixels at y 60-70, x 70-90, found damaged data"):
        section.read(Box(60, 70, 70, 90))


def test_a_damaged_chunk_is_named_by_file_and_box_when_it_is_read(tmp_path):
    path = write_omezarr(tmp_path / "a.zarr", grey(), version="0.4")
    chunk = next(file for file in (path / "0").rglob("*") if file.is_file() and file.name[0].isdigit())
    chunk.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"a\.zarr: expected readable pixels at y 0-70, x 0-90, found damaged data"):
        open_image(path).read(Box(0, 0, HEIGHT, WIDTH))


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32", "bool", "float64"])
def test_other_values_than_8_or_16_bit_unsigned_are_refused(tmp_path, dtype):
    image = np.ones((HEIGHT, WIDTH), dtype)
    if dtype.startswith("float"):
        image[3, 4] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    write_omezarr(tmp_path / "a.zarr", image)
    for name in ("a.tif", "a.zarr"):
        assert f"found {dtype} values; convert it to uint8 or uint16" in refusal(tmp_path / name)


@pytest.mark.parametrize("options", [{}, {"ome": True}, {"imagej": True}])
def test_a_focus_stack_is_refused(tmp_path, options):
    name = "a.ome.tif" if "ome" in options else "a.tif"
    axes = {"metadata": {"axes": "ZYX"}} if options else {"metadata": None}
    tifffile.imwrite(tmp_path / name, np.stack([grey()] * 4), photometric="minisblack", **options, **axes)
    assert "expected one plane, found 4" in refusal(tmp_path / name)


def test_a_time_series_in_an_omezarr_is_refused(tmp_path):
    path = write_omezarr(tmp_path / "a.zarr", np.stack([grey()] * 2), axes="tyx")
    assert "expected one plane, found 2 (axes tyx" in refusal(path)


def test_four_colours_are_refused(tmp_path):
    image = np.dstack([colour(), grey(), grey()])
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", planarconfig="contig")
    assert "found 5 channels; export it with 1 or 3" in refusal(tmp_path / "a.tif")
    path = write_omezarr(tmp_path / "a.zarr", channels_first(image)[:4], axes="cyx")
    assert "found 4 channels; export it with 1 or 3" in refusal(path)


def test_white_is_zero_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", grey(), photometric="miniswhite")
    assert "expected black-is-zero grey or RGB values, found white-is-zero" in refusal(tmp_path / "a.tif")


def test_palette_images_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", grey(), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    assert "found palette" in refusal(tmp_path / "a.tif")
    Image.fromarray(grey()).convert("P").save(tmp_path / "a.png")
    assert "found palette pixels" in refusal(tmp_path / "a.png")


def test_other_colour_spaces_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([colour(), grey()]), photometric="separated")
    assert "found CMYK" in refusal(tmp_path / "a.tif")


def test_an_image_without_pixels_is_refused(tmp_path):
    path = write_omezarr(tmp_path / "a.zarr", np.zeros((0, 90), np.uint8))
    assert "expected an image with pixels, found 0 x 90" in refusal(path)


def test_a_gigantic_compressed_strip_is_refused_rather_than_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("cytomend.storage.tiff.LARGEST_SEGMENT_BYTES", 1 << 10)
    tifffile.imwrite(tmp_path / "a.tif", grey(), compression="zlib", rowsperstrip=HEIGHT)
    assert "found 70 x 90 pixels compressed as one; save it as a tiled TIFF" in refusal(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", grey(), rowsperstrip=HEIGHT)
    np.testing.assert_array_equal(open_image(tmp_path / "b.tif").read(Box(9, 9, 20, 20))[0], grey()[9:20, 9:20])


def test_a_gigantic_png_is_refused_rather_than_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("cytomend.storage.small.LARGEST_BYTES", 1 << 10)
    Image.fromarray(grey()).save(tmp_path / "a.png")
    assert "found 70 x 90 pixels (height x width); save it as a tiled TIFF" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "list 'multiscales', found None"),
        ({"ome": 3}, "expected 'ome' metadata as an object, found int"),
        ({"ome": {"version": "0.6", "multiscales": [{}]}}, "expected OME-Zarr version 0.4 or 0.5, found '0.6'"),
        ({"ome": {"version": "0.5", "multiscales": [{}]}}, "axes that end in y, x"),
        ({"ome": {"version": "0.5", "multiscales": [{"axes": ["y", "x"]}]}}, "axes that end in y, x"),
        (
            {"ome": {"version": "0.5", "multiscales": [{"axes": [{"name": "x"}, {"name": "y"}], "datasets": []}]}},
            "found ['x', 'y']",
        ),
        (
            {"ome": {"version": "0.5", "multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": []}]}},
            "list 'datasets', found []",
        ),
        (
            {
                "ome": {
                    "version": "0.5",
                    "multiscales": [{"axes": [{"name": n} for n in "cyx"], "datasets": [{"path": "0"}]}],
                }
            },
            "expected 3 dimensions for the axes cyx, found 2",
        ),
        (
            {
                "ome": {
                    "version": "0.5",
                    "multiscales": [{"axes": [{"name": n} for n in "yx"], "datasets": [{"path": "labels"}]}],
                }
            },
            "expected an array at 'labels' as its metadata say, found a group",
        ),
    ],
)
def test_omezarr_metadata_that_mean_nothing_are_refused(tmp_path, metadata, reason):
    path = write_omezarr(tmp_path / "a.zarr", grey())
    zarr.open_group(path, mode="a").create_group("labels")
    described = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps({**described, "attributes": metadata}))
    assert reason in refusal(path)


def test_a_missing_level_0_is_refused(tmp_path):
    path = write_omezarr(tmp_path / "a.zarr", grey())
    shutil.rmtree(path / "0")
    assert "expected level 0 at '0' as its metadata say, found no readable array there" in refusal(path)


# Masks as images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32"])
def test_labels_may_be_bits_or_large_numbers(tmp_path, dtype):
    labels = (grey("uint16").astype("int64") % 5).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="minisblack")
    write_omezarr(tmp_path / "a.zarr", labels)
    for name in ("a.tif", "a.zarr"):
        section = open_labels(tmp_path / name)
        assert section.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(section.read(Box(1, 2, 70, 90))[0], labels[1:, 2:])


def test_labels_may_be_packed_bits(tmp_path):
    bits = grey() > 128
    Image.fromarray(bits).save(tmp_path / "a.tif", compression="group4")
    Image.fromarray(bits).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        np.testing.assert_array_equal(open_labels(tmp_path / name).read(Box(0, 0, HEIGHT, WIDTH))[0] != 0, bits)


def test_coloured_labels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", colour(), photometric="rgb")
    assert "found 3 channels; export it with 1" in refusal(tmp_path / "a.tif", open_labels)


def test_images_are_told_from_other_files_by_their_first_bytes(tmp_path):
    tifffile.imwrite(tmp_path / "image.dat", grey())
    (tmp_path / "other.tif").write_text("{}")
    assert is_image(tmp_path / "image.dat")
    assert is_image(tmp_path)
    assert not is_image(tmp_path / "other.tif")


def test_a_closed_section_is_not_read_again(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", grey(), compression="zlib")
    with open_image(tmp_path / "a.tif") as section:
        pass
    section.close()  # closing twice is harmless
    with pytest.raises(InputError):
        section.read(Box(0, 0, 4, 4))


def test_bits_as_tifffile_writes_them_by_default_are_labels_with_a_warning(tmp_path):
    bits = grey() > 128
    tifffile.imwrite(tmp_path / "a.tif", bits)
    labels = open_labels(tmp_path / "a.tif")
    np.testing.assert_array_equal(labels.read(Box(0, 0, HEIGHT, WIDTH))[0], bits)
    assert labels.warnings == [
        f"{tmp_path / 'a.tif'}: stored as white-is-zero; stored values other than 0 are taken as marked"
    ]


def test_a_png_beyond_what_pillow_opens_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    Image.fromarray(grey()).save(tmp_path / "a.png")
    assert "save it as a tiled TIFF or OME-Zarr" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("rows", [HEIGHT, 7])
def test_strips_without_a_length_are_refused_rather_than_taken_for_black(tmp_path, rows):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey(), rowsperstrip=rows)
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages.first.tags["StripByteCounts"]
        place, size = tag.valueoffset, tag.dtype.value
        count = tag.count
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(count * (2 if size == 3 else 4)))
    assert "strips of 0 bytes" in refusal(path)


def test_alpha_of_a_16_bit_grey_png_is_dropped(tmp_path):
    both = np.stack([grey("uint16"), np.full((HEIGHT, WIDTH), 65535, np.uint16)], axis=-1)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(both))
    section = open_image(tmp_path / "a.png")
    assert section.channels == 1
    np.testing.assert_array_equal(section.read(Box(0, 0, HEIGHT, WIDTH))[0], grey("uint16"))
