"""Every reader against a second one that shares no decoder with it: GDAL, libvips, OpenSlide, Pillow, tensorstore.

Files that our readers' libraries wrote themselves prove little: an error in both directions cancels.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from PIL import Image
from test_images import FORMATS, channels_first, needs_formats, write_omezarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.storage.images import open_image

SIDE = (205, 187)
COMPRESSIONS = ("none", "lzw", "zlib", "zstd", "packbits", "jpeg")


@pytest.fixture(scope="module", params=["grey", "grey16", "colour", "colour16"])
def tissue(request):
    """Pixels (h, w) or (h, w, 3), 8 or 16 bit; the lower byte of 16 bit is noise."""
    stain = "nissl-blue" if request.param.startswith("colour") else None
    pixels = render_tissue(SIDE, 930_700, stain=stain).image
    pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, -1)) if stain else pixels
    if not request.param.endswith("16"):
        return pixels
    low = np.random.default_rng(1).integers(0, 256, pixels.shape)
    return (pixels.astype(np.uint16) << 8) + low.astype(np.uint16)


def ours(path):
    with open_image(path) as image:
        return image.read(Box(0, 0, *image.shape))


def gdal(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a scan is no map
        with rasterio.open(path) as file:
            return file.read()


def vips(path):
    pyvips = pytest.importorskip("pyvips", reason="libvips is a second reader in tests alone")
    image = pyvips.Image.new_from_file(str(path))
    return channels_first(np.squeeze(image.numpy()))


@pytest.mark.parametrize("layout", ["tiles", "strips", "planes", "big endian"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tiff_equals_what_another_library_reads(tmp_path, tissue, compression, layout):
    if compression == "jpeg" and (tissue.dtype != np.uint8 or layout == "planes"):
        pytest.skip("JPEG holds 8 bit and all colours of a pixel together")
    coloured = tissue.ndim == 3
    options = {"photometric": "rgb"} if coloured else {}
    options |= {"rowsperstrip": 24} if layout == "strips" else {"tile": (64, 48)}
    if layout == "big endian":
        options["byteorder"] = ">"
    stored = tissue
    if layout == "planes" and coloured:
        stored, options = np.moveaxis(tissue, -1, 0), {**options, "planarconfig": "separate"}
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, stored, compression=None if compression == "none" else compression, **options)
    second = vips if compression == "jpeg" else gdal  # GDAL enlarges the colours of a JPEG in another way
    np.testing.assert_array_equal(ours(path), second(path))


@pytest.mark.parametrize("kind", ["tiles", "strips", "levels beside", "levels below"])
@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "packbits", "jpeg"])
def test_tiff_of_libvips_is_what_was_given_and_what_libvips_reads(tmp_path, tissue, compression, kind):
    if compression == "jpeg" and tissue.dtype != np.uint8:
        pytest.skip("JPEG holds 8 bit")
    pyvips = pytest.importorskip("pyvips", reason="libvips is a second reader in tests alone")
    image = pyvips.Image.new_from_array(tissue)
    if tissue.dtype == np.uint16:
        image = image.copy(interpretation="rgb16" if tissue.ndim == 3 else "grey16")
    options = {} if kind == "strips" else {"tile": True, "tile_width": 64, "tile_height": 64}
    if kind.startswith("levels"):
        options |= {"pyramid": True, "subifd": kind == "levels below", "bigtiff": True}
    path = tmp_path / "scan.tif"
    image.tiffsave(str(path), compression=compression, Q=90, **options)
    read = ours(path)
    np.testing.assert_array_equal(read, vips(path))
    if compression != "jpeg":
        np.testing.assert_array_equal(read, channels_first(tissue))


def test_jpeg_2000_of_aperio_equals_what_openslide_reads(tmp_path):
    openslide = pytest.importorskip("openslide")
    path = tmp_path / "scan.svs"
    pixels = np.moveaxis(render_tissue((300, 280), 930_701, stain="cresyl-violet").image, 0, -1)
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        tile=(128, 128),
        compression=33005,
        description="Aperio Image Library v11.0.37\n280x300 (128x128) J2K/KDU Q=70|AppMag = 20|MPP = 0.5",
        metadata=None,
    )
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        second = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    np.testing.assert_array_equal(ours(path), channels_first(second))


@needs_formats
@pytest.mark.parametrize("path", sorted(FORMATS.glob("tiff-variants/*.tif")), ids=lambda path: path.stem)
def test_tiff_of_other_programs_equals_what_gdal_reads(path):
    np.testing.assert_array_equal(ours(path), gdal(path))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_png_and_jpeg_equal_what_libvips_reads(tmp_path, tissue, suffix):
    if tissue.dtype != np.uint8:
        pytest.skip("Pillow writes 8 bit of colour")
    path = tmp_path / f"scan.{suffix}"
    Image.fromarray(tissue).save(path, quality=90)
    np.testing.assert_array_equal(ours(path), vips(path))


STORES = {
    "blosc": {"compressors": BloscCodec(cname="zstd", shuffle="bitshuffle")},
    "zstd": {"compressors": ZstdCodec(level=3)},
    "gzip": {"compressors": GzipCodec(level=5)},
    "raw": {"compressors": None},
    "shards": {"compressors": ZstdCodec(level=1), "shards": (96, 96)},
}


@pytest.mark.parametrize("kind", STORES)
def test_omezarr_equals_what_tensorstore_reads(tmp_path, tissue, kind):
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is a second reader in tests alone")
    path, options = tmp_path / "scan.ome.zarr", dict(STORES[kind])
    pixels = channels_first(tissue) if tissue.ndim == 3 else tissue
    lead = (1,) * (pixels.ndim - 2)
    if "shards" in options:
        options["shards"] = lead + options["shards"]
    write_omezarr(path, pixels, axes="cyx"[-pixels.ndim :])
    group = zarr.open_group(path, mode="r+")
    array = group.create_array(
        "0", shape=pixels.shape, dtype=pixels.dtype, chunks=(*lead, 48, 48), overwrite=True, **options
    )
    array[...] = pixels
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "0")}}
    second = tensorstore.open(spec, read=True).result().read().result()
    np.testing.assert_array_equal(ours(path), second.reshape(-1, *SIDE))


@needs_formats
@pytest.mark.parametrize("path", sorted(Path(FORMATS).glob("**/*.svs")), ids=lambda path: path.stem)
def test_svs_equals_what_libvips_reads(path):
    read = ours(path)
    np.testing.assert_array_equal(read, vips(path)[: len(read)])
