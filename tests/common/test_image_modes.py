"""Images as people have them: turned, transparent, in colours of print, animated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_folders import read_folder, save_image, write_tree
from PIL import Image

from common.data.image_folder import Form, common_form, read_images
from common.errors import DataError


def test_palette_images_with_transparency_are_read_in_colour(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 10, "b": 10})
    image = Image.new("RGBA", (8, 8), (200, 10, 10, 128)).quantize(4)
    image.save(tmp_path / "train" / "a" / "0.png", transparency=0)
    assert read_folder(tmp_path).sample_shape == (3, 8, 8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_read_as_viewers_show_it_turned_by_its_exif_tag(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    stored = Image.new("RGB", (16, 16))
    stored.paste((255, 255, 255), (0, 0, 8, 8))  # white in the upper left
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save_image(tmp_path / f"photo.{suffix}", stored, exif=exif)
    pixels = read_images([path], Form("L", 16))[0, 0]
    corners = pixels[[2, 2, 13, 13], [2, 13, 2, 13]] > 127
    white = {1: 0, 5: 0, 2: 1, 6: 1, 3: 3, 7: 3, 4: 2, 8: 2}[orientation]
    assert corners.tolist() == [k == white for k in range(4)]


def test_damaged_exif_data_do_not_keep_an_image_from_being_read(
    tmp_path: Path,
) -> None:
    image = Image.new("L", (8, 8), 77)
    path = save_image(tmp_path / "a.png", image, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert (read_images([path], Form("L", 8)) == 77).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB", "L"])
def test_transparent_pixels_become_white_whatever_the_mode(
    tmp_path: Path, mode: str
) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((90, 90, 90, 255), (0, 0, 4, 8))
    if mode in ("RGBA", "LA"):
        path = save_image(tmp_path / "a.png", image.convert(mode))
    elif mode == "PA":
        path = save_image(tmp_path / "a.webp", image, lossless=True)
    elif mode == "P":
        path = save_image(tmp_path / "a.gif", image)
    else:  # one colour stands for transparency
        clear = 0 if mode == "L" else (0, 0, 0)
        path = save_image(tmp_path / "a.png", image.convert(mode), transparency=clear)
    for form in (Form("RGB", 8), Form("L", 8)):
        pixels = read_images([path], form)[0]
        assert (pixels[..., :4] == 90).all() and (pixels[..., 4:] == 255).all()


def test_an_opaque_alpha_channel_changes_no_pixel(tmp_path: Path) -> None:
    colours = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    plain = save_image(tmp_path / "a.png", Image.fromarray(colours))
    alpha = save_image(tmp_path / "b.png", Image.fromarray(colours).convert("RGBA"))
    both = read_images([plain, alpha], Form("RGB", 8))
    assert (both[0] == both[1]).all() and (both[0] == colours.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
@pytest.mark.parametrize("size", [(1600, 1500), (700_000, 2)])
def test_transparent_photos_are_laid_on_white_pixel_by_pixel(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    """In strips, which takes less memory than all of it at once."""
    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (*size[::-1], 4)).astype(np.uint8)
    image, how = Image.fromarray(pixels), dict[str, Any]()
    if mode == "P":
        image, how = image.convert("RGB").quantize(16), {"transparency": 3}
    elif mode in ("RGB", "L"):
        image = image.convert(mode)
        how = {"transparency": image.getpixel((0, 0))}
    path = save_image(tmp_path / "a.png", image.convert(mode), **how)
    with Image.open(path) as stored:
        layered = stored.convert("RGBA")
    white = Image.new("RGBA", size, (255, 255, 255, 255))
    for form in (Form("RGB", 32), Form("L", 32)):
        whole = Image.alpha_composite(white, layered).convert(form.mode)
        expected = np.asarray(whole.resize((32, 32), Image.Resampling.BOX))
        found = read_images([path], form)[0].transpose(1, 2, 0)
        assert np.array_equal(found, expected.reshape(found.shape))


def test_cmyk_photos_are_read_in_colour(tmp_path: Path) -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    path = save_image(tmp_path / "a.jpg", red, quality=100)
    mean = read_images([path], Form("RGB", 8))[0].mean((1, 2))
    assert mean[0] > 200 > 50 > mean[1]
    assert common_form([path], None) == Form("RGB", 8)


def test_an_image_of_16_bits_a_pixel_is_refused_rather_than_clipped(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path / "train", {"a": 30, "b": 30})
    deep = np.full((8, 8), 40_000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "train" / "a" / "3.png")
    with pytest.raises(DataError, match=r"a/3\.png.*8-bit"):
        read_folder(tmp_path)


def test_the_first_frame_of_an_animation_counts_and_that_is_said(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path / "train", {"a": 20, "b": 20})
    write_tree(tmp_path / "test", {"a": 4, "b": 4})
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    path = tmp_path / "train" / "a" / "moving.gif"
    save_image(path, frames[0], save_all=True, append_images=frames[1:])
    (note,) = read_folder(tmp_path).notes
    assert "1 of 41 images" in note and "moving.gif" in note
    assert (read_images([path], Form("L", 8)) == 10).all()
