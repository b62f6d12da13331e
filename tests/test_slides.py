"""Slides and scans of makers: DICOM, MIRAX, NDPI, CZI, SVS, pixel for pixel against a second reader or the truth."""

from __future__ import annotations

import builtins
import io
import struct
from pathlib import Path

import czifile
import numpy as np
import openslide
import pydicom
import pytest
import tifffile
import zarr
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, generate_uid
from pylibCZIrw import czi

from cytomend.errors import InputError, ResourceError
from cytomend.geometry import Box
from cytomend.storage.identity import image_identity, stamp
from cytomend.storage.images import is_image, open_image, open_labels

DATA = Path(__file__).parents[2] / "shared" / "data"
TILE = 64


def tissue(shape, dtype=np.uint8, channels=3):
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top, (*shape, channels), dtype=dtype, endpoint=True)
    return pixels if channels > 1 else pixels[..., 0]


def smooth(shape):
    """Return what a lossy codec keeps, more or less."""
    small = Image.fromarray(tissue((shape[0] // 16, shape[1] // 16)))
    return np.asarray(small.resize((shape[1], shape[0])))


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def whole(path):
    with open_image(path) as image:
        return np.moveaxis(image.read(Box(0, 0, *image.shape)), 0, -1).squeeze()


# --- DICOM ------------------------------------------------------------------------------------------------------------


def write_dicom(path, pixels, *, spacing_mm=0.0005, left_out=(), series=None):
    """Write a level of a whole-slide image as scanners do: uncompressed frames of 64 px, row by row."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = np.pad(pixels, ((0, rows * TILE - height), (0, columns * TILE - width), (0, 0)))
    places = [(row, column) for row in range(rows) for column in range(columns) if (row, column) not in left_out]
    frames = [padded[r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE] for r, c in places]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
    one = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    one.SeriesInstanceUID, one.StudyInstanceUID = series or generate_uid(), generate_uid()
    one.Modality, one.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    one.Rows = one.Columns = TILE
    one.TotalPixelMatrixRows, one.TotalPixelMatrixColumns = height, width
    one.NumberOfFrames, one.SamplesPerPixel, one.PhotometricInterpretation = len(frames), 3, "RGB"
    one.PlanarConfiguration, one.BitsAllocated, one.BitsStored, one.HighBit = 0, 8, 8, 7
    one.PixelRepresentation = 0
    one.DimensionOrganizationType = "TILED_SPARSE" if left_out else "TILED_FULL"
    one.TotalPixelMatrixFocalPlanes, one.NumberOfOpticalPaths = 1, 1
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing_mm, spacing_mm], 0.001
    shared.PixelMeasuresSequence = Sequence([measures])
    one.SharedFunctionalGroupsSequence = Sequence([shared])
    optical = Dataset()
    optical.OpticalPathIdentifier = "0"
    one.OpticalPathSequence = Sequence([optical])
    if left_out:
        groups = []
        for row, column in places:
            place, group = Dataset(), Dataset()
            place.RowPositionInTotalImagePixelMatrix = row * TILE + 1
            place.ColumnPositionInTotalImagePixelMatrix = column * TILE + 1
            group.PlanePositionSlideSequence = Sequence([place])
            groups.append(group)
        one.PerFrameFunctionalGroupsSequence = Sequence(groups)
    one.PixelData = b"".join(np.ascontiguousarray(frame).tobytes() for frame in frames)
    one.save_as(path, enforce_file_format=True)
    return path


CODECS = {
    "jpeg": (JPEGBaseline8Bit, "YBR_FULL_422", lambda frame: encoded(frame, "jpeg", quality=90, subsampling="4:2:2")),
    "jpeg2000": (JPEG2000Lossless, "YBR_RCT", lambda frame: encoded(frame, "jpeg2000", no_jp2=True, mct=1)),
    "jpeg2000, no transform": (JPEG2000Lossless, "RGB", lambda frame: encoded(frame, "jpeg2000", no_jp2=True, mct=0)),
}


def compress(path, codec):
    """Compress the frames of a slide where it lies, and return them."""
    one = pydicom.dcmread(path)
    syntax, colours, encode = CODECS[codec]
    frames = [encode(frame) for frame in one.pixel_array]
    one.file_meta.TransferSyntaxUID, one.PhotometricInterpretation = syntax, colours
    one.PixelData = encapsulate(frames)
    one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
    one.save_as(path, enforce_file_format=True)
    return frames


def read_by_pydicom(path):
    """Put the frames together by hand."""
    one = pydicom.dcmread(path)
    height, width = one.TotalPixelMatrixRows, one.TotalPixelMatrixColumns
    rows, columns = -(-height // TILE), -(-width // TILE)
    canvas = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
    frames = one.pixel_array.reshape(-1, TILE, TILE, 3)
    for number, frame in enumerate(frames):
        if one.DimensionOrganizationType == "TILED_FULL":
            y, x = number // columns * TILE, number % columns * TILE
        else:
            place = one.PerFrameFunctionalGroupsSequence[number].PlanePositionSlideSequence[0]
            y, x = place.RowPositionInTotalImagePixelMatrix - 1, place.ColumnPositionInTotalImagePixelMatrix - 1
        canvas[y : y + TILE, x : x + TILE] = frame
    return canvas[:height, :width]


@pytest.mark.parametrize("shape", [(128, 192), (150, 201)], ids=["even", "odd"])
@pytest.mark.parametrize("left_out", [(), ((0, 1), (1, 2))], ids=["full", "sparse"])
def test_dicom_equals_its_frames(tmp_path, shape, left_out):
    path = write_dicom(tmp_path / "scan.dcm", tissue(shape), left_out=left_out)
    with open_image(path) as image:
        assert (image.shape, image.channels, image.dtype.name, image.pixel_size_um) == (shape, 3, "uint8", 0.5)
        np.testing.assert_array_equal(
            np.moveaxis(image.read(Box(30, 50, 100, 180)), 0, -1), read_by_pydicom(path)[30:100, 50:180]
        )
    np.testing.assert_array_equal(whole(path), read_by_pydicom(path))


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_dicom_equals_its_frames(tmp_path, codec):
    pixels = smooth((128, 192))
    frames = compress(write_dicom(tmp_path / "scan.dcm", pixels), codec)
    second = np.stack([np.asarray(Image.open(io.BytesIO(frame))) for frame in frames])
    second = second.reshape(2, 3, TILE, TILE, 3).swapaxes(1, 2).reshape(128, 192, 3)
    found = whole(tmp_path / "scan.dcm")
    np.testing.assert_array_equal(found, second)
    if codec != "jpeg":
        np.testing.assert_array_equal(found, pixels)


def test_any_file_of_a_dicom_slide_tells_that_the_slide_changed(tmp_path):
    series = generate_uid()
    path = write_dicom(tmp_path / "0.dcm", tissue((128, 192)), series=series)
    before = image_identity(path), stamp(path)
    other = write_dicom(tmp_path / "1.DCM", tissue((64, 96)), spacing_mm=0.001, series=series)
    both = image_identity(path), stamp(path)
    changed = bytearray(other.read_bytes())
    changed[-1] ^= 1
    other.write_bytes(changed)
    after = image_identity(path), stamp(path)
    assert len({before[0], both[0], after[0]}) == 3
    assert len({str(told[1]) for told in (before, both, after)}) == 3


def test_the_folder_of_a_mirax_slide_belongs_to_its_identity(tmp_path):
    (tmp_path / "s.mrxs").write_bytes(b"x")
    with pytest.raises(InputError, match="found nothing"):
        image_identity(tmp_path / "s.mrxs")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "Data0000.dat").write_bytes(b"1")
    before = image_identity(tmp_path / "s.mrxs")
    (tmp_path / "s" / "Data0000.dat").write_bytes(b"2")
    assert image_identity(tmp_path / "s.mrxs") != before
    with pytest.raises(InputError, match="expected a slide that OpenSlide can read"):
        open_image(tmp_path / "s.mrxs")


def write_mirax(path, pixels, *, left_out=()):
    """Write a slide of one level as 3DHISTECH's scanners do: lossless tiles, an index of them, an INI file.

    Layout: https://openslide.org/formats/mirax/
    """
    rows, columns = (size // TILE for size in pixels.shape[:2])
    folder, name = path.with_suffix(""), "0" * 32
    folder.mkdir()
    path.write_bytes(b"")
    data, entries = b"", []
    for number, box in enumerate(Box(0, 0, *pixels.shape[:2]).tiles(TILE)):
        if number not in left_out:
            tile = encoded(pixels[box.slices], "png")
            entries.append((number, len(data), len(tile), 0))
            data += tile
    (folder / "Data0000.dat").write_bytes(data)
    head = b"01.02" + name.encode()
    levels = len(head) + 8  # where the levels' tables stand, after the roots of both hierarchies
    table, page = levels + 4, levels + 12
    index = [levels, 0, table, 0, page, len(entries), 0, *(number for entry in entries for number in entry)]
    (folder / "Index.dat").write_bytes(head + struct.pack(f"<{len(index)}i", *index))
    (folder / "Slidedat.ini").write_text(
        f"""[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = {name}
IMAGENUMBER_X = {columns}
IMAGENUMBER_Y = {rows}
OBJECTIVE_MAGNIFICATION = 20
CAMERA_IMAGE_DIVISIONS_PER_SIDE = 1
[HIERARCHICAL]
HIER_COUNT = 1
NONHIER_COUNT = 0
INDEXFILE = Index.dat
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = 1
HIER_0_VAL_0_SECTION = LEVEL_0
[LEVEL_0]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = 0.5
MICROMETER_PER_PIXEL_Y = 0.5
IMAGE_FORMAT = PNG
IMAGE_FILL_COLOR_BGR = 15790320
DIGITIZER_WIDTH = {TILE}
DIGITIZER_HEIGHT = {TILE}
IMAGE_CONCAT_FACTOR = 0
[DATAFILE]
FILE_COUNT = 1
FILE_0 = Data0000.dat
"""
    )
    return path


def test_mirax_equals_its_tiles_and_shows_its_ground_where_none_is(tmp_path):
    pixels = tissue((4 * TILE, 5 * TILE))
    path = write_mirax(tmp_path / "s.mrxs", pixels, left_out=(6, 7))
    expected = pixels.copy()
    expected[TILE : 2 * TILE, TILE : 3 * TILE] = 240
    with open_image(path) as image:
        assert (image.shape, image.channels, image.dtype.name, image.pixel_size_um) == ((256, 320), 3, "uint8", 0.5)
        part = np.moveaxis(image.read(Box(30, 50, 201, 300)), 0, -1)
    np.testing.assert_array_equal(part, expected[30:201, 50:300])
    np.testing.assert_array_equal(whole(path), expected)


# --- NDPI -------------------------------------------------------------------------------------------------------------


def write_ndpi(path, levels, size_um):
    """Write levels as Hamamatsu's scanners do: one JPEG with restart markers a level, and offsets of 64 bits.

    Layout: https://openslide.org/formats/hamamatsu/
    """
    file, link = bytearray(b"II*\0" + bytes(8)), 4
    for number, pixels in enumerate(levels):
        (height, width), start = pixels.shape[:2], len(file)
        file += encoded(pixels, "jpeg", quality=95, subsampling=0, restart_marker_blocks=8)
        end = len(file)
        file += struct.pack("<II", round(1e4 / size_um / 2**number), 1) + b"Hamamatsu\0"
        (lens,) = struct.unpack("<I", struct.pack("<f", 20 / 2**number))
        tags = [
            *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 6)),
            *((271, 2, 10, end + 8), (273, 4, 1, start), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, end - start)),
            *((282, 5, 1, end), (283, 5, 1, end), (296, 3, 1, 3), (65420, 4, 1, 1), (65421, 11, 1, lens)),
            *((65422, 9, 1, 0), (65423, 9, 1, 0), (65424, 9, 1, 0)),
        ]
        struct.pack_into("<Q", file, link, len(file))
        file += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        link = len(file)
        file += bytes(8 + 4 * len(tags))  # the next level, and the upper halves of all values
    path.write_bytes(file)
    return path


def test_ndpi_equals_what_tifffile_reads(tmp_path):
    pixels = smooth((320, 384))
    path = write_ndpi(tmp_path / "scan.ndpi", [pixels, pixels[::2, ::2]], 0.5)
    with tifffile.TiffFile(path) as file:
        assert file.is_ndpi
        second = file.pages[0].asarray()
    with open_image(path) as image:
        assert (image.shape, image.channels, image.dtype.name, image.pixel_size_um) == ((320, 384), 3, "uint8", 0.5)
        assert image.block_px == (8, 64)  # it is decoded from marker to marker, not whole
        part = np.moveaxis(image.read(Box(30, 50, 201, 300)), 0, -1)
    np.testing.assert_array_equal(part, second[30:201, 50:300])
    np.testing.assert_array_equal(whole(path), second)
    assert np.abs(second.astype(int) - pixels).mean() < 2


def test_a_truncated_ndpi_is_refused(tmp_path):
    path = write_ndpi(tmp_path / "scan.ndpi", [smooth((320, 384))], 0.5)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="expected a slide that OpenSlide can read"):
        open_image(path)


def test_an_empty_chunk_of_a_scan_is_not_read_as_black(tmp_path):
    store = zarr.create_array(tmp_path / "s.zarr", shape=(64, 64), dtype="uint8", chunks=(32, 32))
    store[:] = 7
    assert len(image_identity(tmp_path / "s.zarr")) == 64
    (tmp_path / "s.zarr" / "c" / "0" / "1").write_bytes(b"")
    with pytest.raises(InputError, match="found c/0/1 empty, which would be read as black"):
        image_identity(tmp_path / "s.zarr")


def test_a_slide_is_no_mask(tmp_path):
    path = write_dicom(tmp_path / "scan.dcm", tissue((64, 64)))
    assert is_image(path)
    with pytest.raises(InputError, match="expected a mask"):
        open_labels(path)


# --- CZI --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (1, np.uint16), (3, np.uint8)])
def test_czi_equals_what_a_second_reader_reads(tmp_path, channels, dtype):
    pixels, path = tissue((150, 201), dtype, channels), tmp_path / "scan.czi"
    with czi.create_czi(str(path)) as file:
        file.write(data=pixels.reshape(150, 201, channels)[..., ::-1].copy(), plane={"C": 0})
        file.write_metadata("scan", scale_x=1e-6, scale_y=1e-6)
    with czifile.CziFile(path) as other:
        second = other.asarray().squeeze()  # red first, as it says of itself
    with open_image(path) as image:
        assert (image.shape, image.channels, image.dtype, image.pixel_size_um) == ((150, 201), channels, dtype, 1.0)
        part = np.moveaxis(image.read(Box(20, 30, 140, 200)), 0, -1).squeeze()
    np.testing.assert_array_equal(part, pixels[20:140, 30:200])
    np.testing.assert_array_equal(second, pixels)
    np.testing.assert_array_equal(whole(path), pixels)


def test_what_a_czi_scan_left_out_is_glass(tmp_path):
    path, pixels = tmp_path / "scan.czi", tissue((100, 100))
    with czi.create_czi(str(path)) as file:
        file.write(data=pixels, plane={"C": 0}, location=(0, 0))
        file.write(data=pixels, plane={"C": 0}, location=(150, 0))
    found = whole(path)
    assert found.shape == (100, 250, 3)
    assert (found[:, 100:150] == 255).all()
    np.testing.assert_array_equal(found[:, 150:], pixels[..., ::-1])


def test_several_planes_are_refused(tmp_path):
    path = tmp_path / "stack.czi"
    with czi.create_czi(str(path)) as file:
        for z in range(3):
            file.write(data=tissue((50, 50), channels=1)[..., None], plane={"C": 0, "Z": z})
    with pytest.raises(InputError, match="expected one plane"):
        open_image(path)


def test_without_the_library_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "scan.czi").write_bytes(b"ZISRAWFILE" + bytes(100))
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "pylibCZIrw":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ResourceError, match=r"pip install 'cytomend\[czi\]'"):
        open_image(tmp_path / "scan.czi")


def test_a_damaged_czi_is_refused(tmp_path):
    (tmp_path / "scan.czi").write_bytes(b"ZISRAWFILE" + bytes(100))
    with pytest.raises(InputError, match="expected a CZI scan"):
        open_image(tmp_path / "scan.czi")


# --- SVS --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.is_dir(), reason="sample files are not beside this checkout")
def test_svs_equals_what_openslide_reads():
    path = DATA / "formats" / "aperio-svs" / "CMU-1-Small-Region.svs"
    with openslide.OpenSlide(path) as slide:
        second = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
        mpp = float(slide.properties["openslide.mpp-x"])
    found = whole(path)
    # Two decoders of JPEG may differ by rounding, in few places.
    difference = np.abs(found.astype(int) - second)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.05
    with open_image(path) as image:
        assert image.pixel_size_um == pytest.approx(mpp)
