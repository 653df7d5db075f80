"""What becomes of image files that are not plain 8-bit RGB, and of files that are no images."""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from salcr.data import check_dataset, load_dataset, open_store
from salcr.data._images import SUFFIXES, map_images, read_image
from tests.data.trees import make_folder, write_image

ORIENTATION = 0x0112
SHAPE = (12, 8)


def ramp(low, high, dtype):
    """Rising grey values from ``low`` to ``high``."""
    return np.linspace(low, high, SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(dtype)


def read(path):
    """The pixels, or the one line about what is wrong, as a data set's reader gets them."""
    ((_, image, error),) = map_images(read_image, path.parent, [path.name])
    if error:
        raise error
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("thermal.png", ramp(7000, 9000, np.uint16)),
        ("whole.png", ramp(0, 65535, np.uint16)),
        ("thermal.tif", ramp(7000, 9000, np.uint16)),
        ("big-endian.tif", ramp(7000, 9000, ">u2")),
        ("wide.tif", ramp(-70_000, 90_000, np.int32)),
        ("degrees.tif", ramp(-12.5, 38.25, np.float32)),
    ],
)
def test_deep_grey_is_scaled_from_the_files_own_range(tmp_path, name, pixels):
    Image.fromarray(pixels).save(tmp_path / name)
    found = read(tmp_path / name)
    low, high = float(pixels.min()), float(pixels.max())
    expected = np.rint((pixels.astype(np.float64) - low) * (255 / (high - low)))
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))
    assert found.min() == 0 and found.max() == 255 and len(np.unique(found)) > 90


def test_deep_grey_of_one_value_is_black_and_not_finite_pixels_are_an_error(tmp_path):
    Image.fromarray(np.full(SHAPE, 8000, np.uint16)).save(tmp_path / "flat.png")
    assert not read(tmp_path / "flat.png").any()
    pixels = ramp(0, 1, np.float32)
    pixels[3, 3] = np.nan
    Image.fromarray(pixels).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match="not finite"):
        read(tmp_path / "nan.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_the_exif_orientation_is_applied_once(tmp_path, name, mode, orientation):
    upright = np.kron([[10, 60], [120, 240], [180, 20]], np.ones((16, 16))).astype(np.uint8)
    turned = {  # how the camera held it, so that turning it back gives ``upright``
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).convert(mode).save(tmp_path / name, exif=exif, quality=95)
    found = read(tmp_path / name).astype(int)
    assert found.shape == (48, 32, 3)
    assert abs(found - upright[..., None]).max() < 60  # JPEG and WebP are lossy; the halves are further apart
    assert abs(found[4::16, 4::16, 0] - upright[4::16, 4::16]).max() <= 6


def test_an_exif_block_that_cannot_be_read_turns_nothing(tmp_path):
    Image.new("RGB", (8, 12), (200, 10, 10)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff broken")
    assert read(tmp_path / "a.jpg").shape == (12, 8, 3)
    Image.new("RGB", (8, 12), (200, 10, 10)).save(tmp_path / "a.jpg", exif=b"Exif\0\0none")
    assert read(tmp_path / "a.jpg").shape == (12, 8, 3)


def test_what_is_transparent_lies_on_black(tmp_path):
    """Also where the hidden pixels have a colour, and however the format says so."""
    colours = np.full((*SHAPE, 4), 200, np.uint8)
    colours[:6, :, 3], colours[6:, :, 3] = 0, 255
    rgba = Image.fromarray(colours)
    rgba.save(tmp_path / "rgba.png")
    rgba.convert("LA").save(tmp_path / "la.png")
    palette = Image.fromarray((np.arange(96).reshape(SHAPE) >= 48).astype(np.uint8), mode=None).convert("P")
    palette.putpalette([200, 200, 200] * 2)
    palette.save(tmp_path / "palette.png", transparency=b"\x00\xff")
    for name in ("rgba.png", "la.png", "palette.png"):
        found = read(tmp_path / name)
        assert not found[:6].any() and (found[6:] == 200).all(), name
    key = Image.new("RGB", (8, 12), (200, 200, 200))
    key.paste((0, 90, 0), (0, 0, 8, 6))
    key.save(tmp_path / "key.png", transparency=(0, 90, 0))
    assert not read(tmp_path / "key.png")[:6].any()


def test_other_modes_and_formats(tmp_path):
    grey = Image.fromarray(ramp(0, 255, np.uint8))
    for name in ("a.png", "a.bmp", "a.tif", "a.TIFF", "a.webp"):
        grey.save(tmp_path / name, lossless=True)
        np.testing.assert_array_equal(read(tmp_path / name)[..., 1], np.asarray(grey), err_msg=name)
    grey.convert("1").save(tmp_path / "1.png")
    assert set(np.unique(read(tmp_path / "1.png"))) == {0, 255}
    grey.convert("RGB").convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert abs(read(tmp_path / "cmyk.jpg")[..., 0].astype(int) - np.asarray(grey)).max() < 8
    pages = [grey, grey.point(lambda x: 255 - x)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read(tmp_path / "pages.tif")[..., 0], np.asarray(grey))


def test_formats_that_start_programs_stay_closed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 12\n%%EndComments\n(x) run\n")
    with pytest.raises(OSError, match="cannot identify"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize(("side", "pixels"), [(10_000, "100,000,000"), (60_000, "3,600,000,000")])
def test_far_too_many_pixels(tmp_path, side, pixels):
    """Pillow would warn of the first size and decode it."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(ValueError, match=f"has {pixels} pixels, more than 89,478,485"):
            read(tmp_path / "a.png")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is not a file"):
        read(tmp_path / "a.png")


def test_a_file_that_was_cut_to_nothing_is_said_to_be_empty(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="is empty"):
        read(tmp_path / "a.png")


def test_damaged_images_of_every_format_are_named_by_the_store(tmp_path):
    root = make_folder(tmp_path, test=(), images=1)
    cut = []
    for suffix in SUFFIXES:
        path = root / f"visible/0003/cut{suffix}"
        Image.effect_noise((40, 60), 90).save(path)
        path.write_bytes(path.read_bytes()[:-500])
        cut.append(path.relative_to(root).as_posix())
    table = load_dataset("folder", root).train_visible
    with pytest.raises(ValueError, match=f"{len(SUFFIXES)} of {len(table)} images") as caught:
        open_store(table, height=6, width=4, cache=tmp_path / "cache")
    assert all(f"{path} (" in str(caught.value) for path in cut)


def test_check_data_tells_of_deep_images_and_of_files_that_are_left_out(tmp_path):
    root = make_folder(tmp_path, images=1)
    Image.fromarray(ramp(7000, 9000, np.uint16)).save(root / "infrared/0003/thermal.png")
    write_image(root / "infrared/0003/more.webp")
    (root / "infrared/0011/0001.gif").write_text("")
    (root / "query/visible/0004/notes.txt").write_text("")
    (root / "visible/.hidden").write_text("")
    notes = []
    assert check_dataset("folder", root, note=notes.append) == []
    numbers, left_out, scaled = notes
    assert numbers == (
        "2 train identities, 2 visible train images, 4 infrared train images, 2 test identities, "
        "4 visible test images, 4 infrared test images, "
        "2 gallery images of visible-to-infrared, 2 gallery images of infrared-to-visible"
    )
    assert left_out.startswith(f"left out below {root}, where names do not end in .jpg, ")
    assert left_out.endswith(": infrared/0011/0001.gif, query/visible/0004/notes.txt")
    assert scaled.startswith("1 of 14 images have more than 8 bits") and scaled.endswith(": infrared/0003/thermal.png")
    assert "infrared/0003/more.webp" in load_dataset("folder", root).train_infrared.paths
    assert check_dataset("folder", make_folder(tmp_path / "plain"), note=notes.append) == [] and len(notes) == 4
