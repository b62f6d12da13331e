"""A container is what it is: read by the library that knows it, or refused with a cure; and cures that cure."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import tarfile
import zipfile

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from conftest import plan_settings
from PIL import Image
from test_images import write_omezarr
from test_slides import TILE, encoded, smooth, tissue, whole, write_dicom, write_mirax

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.annotation import open_mask
from cytomend.stages.plan_section import plan_section
from cytomend.storage.frames import framed
from cytomend.storage.identity import image_identity, parts_of
from cytomend.storage.images import is_image, open_image, open_labels

SIDE = 3 * TILE


def refusal(path, opener=open_image):
    with pytest.raises(InputError) as caught:
        opener(path)
    assert str(caught.value).startswith(f"{path}: expected")
    return str(caught.value)


def read(image):
    return image.read(Box(0, 0, *image.shape))


# What begins like a TIFF ---------------------------------------------------------------------------------------------


def write_tiff(path, pixels, **options):
    tifffile.imwrite(path, pixels, tile=(TILE, TILE), photometric="rgb", metadata=None, compression="jpeg", **options)
    return path


def write_bif(path, pixels, overlap=16):
    """Write tiles that overlap, and the joints between them, as Ventana's scanners do.

    Layout: https://openslide.org/formats/ventana/
    """
    step, across = TILE - overlap, 3
    mosaic = np.zeros((across * TILE, across * TILE, 3), np.uint8)
    for row in range(across):
        for column in range(across):
            there = pixels[row * step : row * step + TILE, column * step : column * step + TILE]
            mosaic[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = there

    def number(row, column):  # from below, one row to the right and the next to the left
        up = across - 1 - row
        return up * across + (across - 1 - column if up % 2 else column) + 1

    joint = (
        '<TileJointInfo FlagJoined="1" Confidence="99" Direction="{}" Tile1="{}" Tile2="{}" OverlapX="{}"'
        ' OverlapY="{}"/>'
    )
    joints = [
        *(joint.format("RIGHT", number(y, x), number(y, x + 1), overlap, 0) for y in range(3) for x in range(2)),
        *(joint.format("UP", number(y, x), number(y - 1, x), 0, overlap) for y in (1, 2) for x in range(3)),
    ]
    level = (
        f'<EncodeInfo Ver="2"><SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" Width="{TILE}" Height="{TILE}"'
        f' NumRows="3" NumCols="3" Pos-X="0" Pos-Y="0">{"".join(joints)}</ImageInfo></SlideStitchInfo><AoiOrigin>'
        '<AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    scan = '<iScan Magnification="20" ScanRes="0.5" Z-layers="1" UnitNumber="1"/>'
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        options = {"photometric": "rgb", "metadata": None}
        xmp = [(700, 7, None, text.encode(), True) for text in (scan, level)]
        file.write(pixels[::4, ::4], description="Label Image", extratags=xmp[:1], **options)
        file.write(
            mosaic,
            tile=(TILE, TILE),
            compression="jpeg",
            compressionargs={"level": 98},
            description="level=0 mag=20 quality=95",
            extratags=xmp[1:],
            **options,
        )
    return path


def write_scn(path, pixels, *places):
    """Write regions of 64 x 128 px at (x, y) in nm, of one slide, as Leica's scanners do; first the overview.

    Layout: https://openslide.org/formats/leica/
    """
    views = [(0, 0, 384, 384, 1), *((x, y, 128, 64, 20) for x, y in places)]
    images = "".join(
        f'<image name="i{number}"><scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings>'
        "<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
        f'</scanSettings><view sizeX="{width * 500}" sizeY="{height * 500}" offsetX="{x}" offsetY="{y}"/>'
        f'<pixels sizeX="{width}" sizeY="{height}"><dimension sizeX="{width}" sizeY="{height}" r="0" ifd="{number}"/>'
        "</pixels></image>"
        for number, (x, y, width, height, power) in enumerate(views)
    )
    described = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="c"'
        f' sizeX="192000" sizeY="192000">{images}</collection></scn>'
    )
    pages = [np.zeros((384, 384, 3), np.uint8), *[pixels[:64, :128]] * len(places)]
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, page in enumerate(pages):
            text = None if number else described
            file.write(page, tile=(TILE, TILE), photometric="rgb", metadata=None, compression="jpeg", description=text)
    return path


PHILIPS = (
    '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute Name="DICOM_MANUFACTURER"'
    ' Group="0x0008" Element="0x0070" PMSVR="IString">PHILIPS</Attribute><Attribute Name="PIM_DP_SCANNED_IMAGES"'
    ' Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array><DataObject ObjectType="DPScannedImage">'
    '<Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">WSI</Attribute><Attribute'
    ' Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" Element="0x8B01" PMSVR="IDataObjectArray"><Array>'
    '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028"'
    ' Element="0x0030" PMSVR="IDoubleArray">"0.0005" "0.0005"</Attribute></DataObject></Array></Attribute></DataObject>'
    "</Array></Attribute></DataObject>"
)
SLIDES = {
    "ventana": lambda path, pixels: write_bif(path, pixels),
    "leica": lambda path, pixels: write_scn(path, pixels, (10000, 5000)),
    "trestle": lambda path, pixels: write_tiff(
        path, pixels, software="MedScan 2.0", description="Objective Power=20;OverlapsXY= 8 8;Background Color=F0F0F0;"
    ),
    "philips": lambda path, pixels: write_tiff(
        path, pixels, software="Philips DP v1.0", description=PHILIPS, bigtiff=True
    ),
}


@pytest.mark.parametrize("suffix", [".tif", "of the maker"])
@pytest.mark.parametrize("vendor", SLIDES)
def test_what_openslide_knows_openslide_reads_whatever_its_suffix(tmp_path, vendor, suffix):
    suffix = {"ventana": ".bif", "leica": ".scn"}.get(vendor, ".tiff") if suffix == "of the maker" else suffix
    path = SLIDES[vendor](tmp_path / f"slide{suffix}", smooth((SIDE, SIDE)))
    with openslide.OpenSlide(path) as second:
        assert second.properties["openslide.vendor"] == vendor
        place = [int(second.properties.get(f"openslide.bounds-{name}", 0)) for name in ("x", "y", "width", "height")]
        size = tuple(place[2:]) if place[2] else second.dimensions
        seen = np.asarray(second.read_region(tuple(place[:2]), 0, size))[..., :3]
    np.testing.assert_array_equal(whole(path), seen)
    assert is_image(path)


def test_overlaps_of_a_bif_are_shown_once(tmp_path):
    pixels = smooth((SIDE, SIDE))
    found = whole(write_bif(tmp_path / "a.bif", pixels))
    stitched = SIDE - 2 * 16
    assert found.shape == (stitched, stitched, 3)
    assert np.abs(found.astype(int) - pixels[:stitched, :stitched]).mean() < 4


def test_regions_of_one_slide_are_told_of(tmp_path):
    path = write_scn(tmp_path / "a.scn", smooth((SIDE, SIDE)), (10000, 5000), (10000, 60000))
    with open_image(path) as image:
        assert any("holds 2 scanned regions" in warning for warning in image.warnings)


@pytest.mark.parametrize("vendor", SLIDES)
def test_a_slide_that_openslide_does_not_know_is_no_plain_tiff(tmp_path, monkeypatch, vendor):
    path = SLIDES[vendor](tmp_path / "slide.tif", smooth((SIDE, SIDE)))
    monkeypatch.setattr("cytomend.storage.images.vendor_of", lambda _: None)
    assert "a file that OpenSlide can read, found" in refusal(path)
    assert "bfconvert slide.tif slide.ome.tif" in refusal(path)


@pytest.mark.parametrize("vendor", ["ventana", "leica", "philips"])
def test_a_slide_is_no_mask(tmp_path, vendor):
    assert "a mask" in refusal(SLIDES[vendor](tmp_path / "slide.tif", smooth((SIDE, SIDE))), open_labels)


@pytest.mark.parametrize("name", ["slide.vsi", "slide.VSI", "slide.tif"])
def test_the_overview_of_an_olympus_scan_is_not_the_scan(tmp_path, name):
    tifffile.imwrite(tmp_path / name, tissue((90, 70)))
    pixels = tmp_path / "_slide_" / "stack1" / "frame_t.ets"
    pixels.parent.mkdir(parents=True)
    pixels.write_bytes(b"SIS\0" + bytes(100))
    assert "frame_t.ets" in refusal(tmp_path / name) or "_slide_/stack*" in refusal(tmp_path / name)
    assert "OME-TIFF" in refusal(tmp_path / name, open_labels)
    assert "without its .vsi" in refusal(pixels)
    pixels.rename(tmp_path / "frame.dat")
    assert "without its .vsi" in refusal(tmp_path / "frame.dat")


@pytest.mark.parametrize(
    "suffix", [".vsi", ".dng", ".nef", ".cr2", ".arw", ".flex", ".ndpis", ".isyntax", ".lif", ".nd2"]
)
def test_files_that_are_no_plain_image_are_refused_by_their_suffix(tmp_path, suffix):
    tifffile.imwrite(tmp_path / f"a{suffix}", tissue((90, 70)))
    assert f"bfconvert a{suffix} a.ome.tif" in refusal(tmp_path / f"a{suffix}")
    assert is_image(tmp_path / f"a{suffix}")  # so that a mask is refused with the same words
    assert "OME-TIFF" in refusal(tmp_path / f"a{suffix}", open_labels)


def test_a_larger_image_than_the_metadata_name_is_not_passed_over(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(tissue((64, 64), channels=1), photometric="minisblack", metadata=None, description=ome(size_c=1))
        file.write(tissue((400, 600), channels=1), photometric="minisblack", metadata=None)
    assert "found one of 400 x 600 beside or below that of 64 x 64" in refusal(tmp_path / "a.ome.tif")


def test_the_image_below_a_preview_is_the_scan(tmp_path):
    pixels = tissue((400, 600), np.uint16, 1)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(tissue((40, 60)), subifds=1, photometric="rgb", metadata=None)
        file.write(pixels, subfiletype=0, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), pixels)


def test_what_tifffile_warns_of_reaches_the_plan(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", tissue((64, 64), channels=1), description=ome(size_c=1, x=99), metadata=None)
    (tmp_path / "m.geojson").write_text('{"type":"Polygon","coordinates":[[[5,5],[9,5],[9,9],[5,5]]]}')
    plan_section(tmp_path / "a.tif", tmp_path / "m.geojson", plan_settings(), tmp_path / "plan")
    warnings = json.loads((tmp_path / "plan" / "section.json").read_text())["warnings"]
    assert any("tifffile says" in warning and "discontiguous" in warning for warning in warnings)
    assert not [handler for handler in logging.getLogger("tifffile").handlers if type(handler).__name__ == "Ear"]


def test_an_ordinary_tiff_has_no_warnings(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", tissue((64, 64)), photometric="rgb", metadata={"axes": "YXS"})
    with open_image(tmp_path / "a.ome.tif") as image:
        assert image.warnings == []


# Parts ---------------------------------------------------------------------------------------------------------------


def test_the_files_that_a_vms_names_belong_to_it(tmp_path):
    for name in ("a.jpg", "a(0,1).jpg", "other.jpg"):
        (tmp_path / name).write_bytes(encoded(tissue((16, 16)), "jpeg"))
    (tmp_path / "a.vms").write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\nImageFile(0,1)=a(0,1).jpg\n")
    assert [part.name for part in parts_of(tmp_path / "a.vms")] == ["a.vms", "a(0,1).jpg", "a.jpg"]
    before = image_identity(tmp_path / "a.vms")
    (tmp_path / "other.jpg").write_bytes(b"x")
    assert image_identity(tmp_path / "a.vms") == before
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert image_identity(tmp_path / "a.vms") != before


def test_dicom_without_a_suffix_is_dicom(tmp_path):
    pixels = tissue((128, 192))
    path = write_dicom(tmp_path / "a.dcm", pixels).rename(tmp_path / "1.2.840.7")
    np.testing.assert_array_equal(whole(path), pixels)
    before = image_identity(path)
    (tmp_path / "1.2.840.8").write_bytes(b"another level")
    assert image_identity(path) != before


# Archives and folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.ozx", "scan.ome.zarr.zip", "scan.zip"])
def test_a_zipped_store_is_refused_with_a_cure_that_cures(tmp_path, name):
    pixels = tissue((64, 64), channels=1)
    store = write_omezarr(tmp_path / "scan.ome.zarr", pixels)
    shutil.make_archive(str(tmp_path / "z"), "zip", store)
    shutil.move(tmp_path / "z.zip", tmp_path / name)
    for opener in (open_image, open_labels, lambda path: open_mask(path, (64, 64))):
        assert "found a zip archive, of an OME-Zarr store; unzip it and give the folder" in refusal(
            tmp_path / name, opener
        )
    with zipfile.ZipFile(tmp_path / name) as archive:
        archive.extractall(tmp_path / "unzipped.ome.zarr")
    np.testing.assert_array_equal(whole(tmp_path / "unzipped.ome.zarr"), pixels)


def test_archives_of_scans_are_refused_with_a_cure_that_cures(tmp_path):
    pixels = tissue((64, 64), channels=1)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    (tmp_path / "a.tif.gz").write_bytes(gzip.compress((tmp_path / "a.tif").read_bytes()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "a.tif")
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "a.tif", "a.tif")
    for name, what in (("a.tif.gz", "a gzip archive"), ("a.zip", "a zip archive"), ("a.tar.xz", "an xz archive")):
        assert f"found {what}; unpack it" in refusal(tmp_path / name)
        assert f"found {what}; unpack it" in refusal(tmp_path / name, lambda path: open_mask(path, (64, 64)))


def test_outlines_in_archives_are_no_images(tmp_path):
    with zipfile.ZipFile(tmp_path / "rois.zip", "w") as archive:
        archive.writestr("1.roi", b"Iout")
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(b"{}"))
    assert not is_image(tmp_path / "rois.zip")
    assert not is_image(tmp_path / "a.geojson.gz")


def test_folders_of_slides_are_refused_with_the_file_to_give(tmp_path):
    pixels = tissue((2 * TILE, 2 * TILE))
    write_mirax(tmp_path / "s.mrxs", pixels)
    assert "the folder of a MIRAX slide; give the file beside it, s.mrxs" in refusal(tmp_path / "s")
    np.testing.assert_array_equal(whole(tmp_path / "s.mrxs"), pixels)
    (tmp_path / "d").mkdir()
    write_dicom(tmp_path / "d" / "1.dcm", pixels)
    (tmp_path / "d" / "._1.dcm").write_bytes(b"\0\5\x16\7" + bytes(4000))
    assert "give one of them, such as 1.dcm" in refusal(tmp_path / "d")
    np.testing.assert_array_equal(whole(tmp_path / "d" / "1.dcm"), pixels)


def test_a_store_of_several_images_is_refused_with_one_to_give(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w").attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    write_omezarr(tmp_path / "a.zarr" / "0", tissue((64, 64), channels=1))
    write_omezarr(tmp_path / "a.zarr" / "10", tissue((64, 64), channels=1))
    assert f"holds 2 of them; give one, such as {tmp_path / 'a.zarr' / '0'}" in refusal(tmp_path / "a.zarr")
    assert whole(tmp_path / "a.zarr" / "0").shape == (64, 64)


# Metadata ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_store_that_names_no_version_is_that_of_its_zarr_format(tmp_path, version):
    pixels = tissue((64, 64), channels=1)
    store = write_omezarr(tmp_path / "a.zarr", pixels, version=version)
    attributes = zarr.open_group(store, mode="a").attrs
    if version == "0.4":
        (multiscale,) = attributes["multiscales"]
        attributes["multiscales"] = [{key: value for key, value in multiscale.items() if key != "version"}]
    else:
        attributes["ome"] = {key: value for key, value in attributes["ome"].items() if key != "version"}
    np.testing.assert_array_equal(whole(store), pixels)
    with open_image(store) as image:
        assert image.pixel_size_um == 1.0


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_consolidated_metadata_that_are_out_of_date_are_not_used(tmp_path, version):
    store = write_omezarr(tmp_path / "a.zarr", np.zeros((32, 32), np.uint8), version=version)
    zarr.consolidate_metadata(store)
    shutil.rmtree(store / "0")
    pixels = tissue((64, 96), channels=1)
    group = zarr.open_group(store, mode="a", use_consolidated=False)
    group.create_array("0", shape=pixels.shape, chunks=(32, 32), dtype="u1")[:] = pixels
    np.testing.assert_array_equal(whole(store), pixels)


def ome(*, size_c, data="<TiffData/>", x=64):
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="{x}" SizeY="64" SizeZ="1" SizeC="{size_c}"'
        ' SizeT="1">'
        f"{data}</Pixels></Image></OME>"
    )


def test_metadata_of_more_colours_than_pages_are_called_that(tmp_path):
    pixels = tissue((64, 64), channels=1)
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, description=ome(size_c=3), metadata=None)
    sentence = refusal(tmp_path / "a.ome.tif")
    assert "expected 3 pages, of which its OME-XML speaks" in sentence
    assert "found 1; export it again, as a plain TIFF without OME-XML" in sentence
    assert "several files" not in sentence
    tifffile.imwrite(tmp_path / "a.tif", tifffile.imread(tmp_path / "a.ome.tif", key=0))  # the cure
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), pixels)


def test_three_colours_in_one_page_are_read(tmp_path):
    pixels = tissue((64, 64))
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="rgb", description=ome(size_c=3), metadata=None)
    np.testing.assert_array_equal(whole(tmp_path / "a.ome.tif"), pixels)


def test_planes_in_other_files_are_not_passed_over(tmp_path):
    data = "".join(
        f'<TiffData IFD="0" FirstC="{c}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{c}</UUID></TiffData>'
        for c, name in enumerate(["a.ome.tif", "b.ome.tif", "c.ome.tif"])
    )
    tifffile.imwrite(
        tmp_path / "a.ome.tif", tissue((64, 64), channels=1), description=ome(size_c=3, data=data), metadata=None
    )
    assert "spread over several files, with b.ome.tif" in refusal(tmp_path / "a.ome.tif")


# Masks with colours --------------------------------------------------------------------------------------------------


def indexed(path, labels, table, bits=8):
    if path.suffix == ".png":
        image = Image.fromarray(labels)
        image.putpalette(table)
        image.save(path, bits=bits)
    else:
        colours = np.array(table + [0] * (768 - len(table)), np.uint16).reshape(256, 3).T * 257
        tifffile.imwrite(path, labels, photometric="palette", colormap=colours.astype(np.uint16), metadata=None)
    return path


@pytest.mark.parametrize(("name", "bits"), [("m.png", 8), ("m.png", 4), ("m.png", 2), ("m.png", 1), ("m.tif", 8)])
def test_the_indices_of_a_label_picture_are_read(tmp_path, name, bits):
    labels = np.zeros((40, 60), np.uint8)
    labels[5:10, 20:30] = 1
    if bits > 1:
        labels[20:30, 40:50] = 2
    path = indexed(tmp_path / name, labels, [255, 255, 255, 200, 0, 0, 0, 0, 200], bits)
    image = open_labels(path)
    np.testing.assert_array_equal(read(image)[0], labels)
    assert image.warnings == [
        f"{path}: has a colour table; its indices are read: 0 is intact, every other one is damage, whatever its colour"
    ]
    np.testing.assert_array_equal(open_mask(path, (40, 60)).read(Box(0, 0, 40, 60)), labels != 0)


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_a_scan_with_a_colour_table_is_refused_with_a_cure_that_cures(tmp_path, name):
    path = indexed(tmp_path / name, tissue((64, 64), channels=1), list(range(256)) * 3)
    assert "found palette" in refusal(path)
    Image.open(path).convert("RGB").save(tmp_path / "rgb.png")
    assert whole(tmp_path / "rgb.png").shape == (64, 64, 3)


def test_a_frame_of_what_has_none_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", tissue((64, 64)))
    with pytest.raises(InputError, match="found one of the frames stored and upright"):
        open_image(framed(tmp_path / "a.tif", "scene2"))
