"""One image's file: opened within bounds, turned upright, and laid on white.

Decoded with PIL. Images are turned as their EXIF tag says, and what is transparent
becomes white. Not here: which files are images, and what they are resized to
(common/data/image_folder.py); images of 16-bit grey (refused).
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from common.data.listing import FIX_PERMISSIONS, describe_link, leads_nowhere
from common.errors import DataError, one_line
from common.regular_file import is_file, open_regular

# PIL's names of those that are read. Given none, it tries all that it knows by their
# content, and for PostScript starts a program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# That are decoded, 4 bytes each: photos of 24 megapixels have 24.5 million at most.
MAX_PIXELS = 25_000_000
BACKGROUND = (255, 255, 255)  # behind transparent pixels
_STRIP = 1 << 20  # pixels that are laid on it at a time
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = ("I", "F")  # modes of 16 and 32 bits a pixel


@contextmanager
def opened(path: Path, *, least: int | None = None) -> Iterator[Image.Image]:
    """Open an image lazily: its header is read, its pixels are not.

    Args:
        path: of the file.
        least: reduce a JPEG while it is decoded, but not below this height and width;
            None: not at all.

    Raises:
        DataError: it cannot be read, has more than 8 bits a pixel, or more than
            `MAX_PIXELS` to decode.
    """
    with ExitStack() as held:
        try:
            file = held.enter_context(open_regular(path))
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = held.enter_context(Image.open(file, formats=_FORMATS))
            width, height = decoded = image.size
            if least is not None:
                image.draft(None, (least, least))  # of no effect on other formats
                # Of a progressive one, all coefficients are in memory first.
                decoded = decoded if "progressive" in image.info else image.size
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as e:
            raise unreadable(path, e) from e
        if image.mode.startswith(_DEEP):
            raise DataError(
                f"{path} has more than 8 bits a pixel (mode {image.mode}); convert it "
                "to 8-bit grey or RGB"
            )
        if decoded[0] * decoded[1] > MAX_PIXELS:
            raise DataError(
                f"{path} has {width}x{height} pixels, expected {MAX_PIXELS // 10**6} "
                "million at most; reduce or remove it"
            )
        yield image


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Decode an image, turn it upright, and convert it to a mode, "L" or "RGB".

    Raises:
        OSError: it is damaged; likewise `SyntaxError` and `ValueError`.
    """
    image = _upright(image)
    if image.mode != "P":
        if not image.has_transparency_data:
            return image.convert(mode)
        if all(_is_opaque(strip) for _, strip in _strips(image)):
            return image.convert(mode)
    found = Image.new(mode, image.size)
    for top, strip in _strips(image):
        layered = strip.convert("RGBA")
        below = Image.new("RGBA", layered.size, (*BACKGROUND, 255))
        found.paste(Image.alpha_composite(below, layered).convert(mode), (0, top))
    return found


def _upright(image: Image.Image) -> Image.Image:
    """Turn and mirror an image as its EXIF orientation says."""
    image.load()  # turns a TIFF and drops its tag
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, struct.error):
        return image  # damaged EXIF data beside whole pixels
    return image if turn is None else image.transpose(turn)


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cut an image into strips: an RGBA of all of it would take memory several times.

    Yields:
        The row at which a strip begins, and the strip.
    """
    width, height = image.size
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(height, top + rows)))


def _is_opaque(image: Image.Image) -> bool:
    return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def unreadable(path: Path, error: Exception) -> DataError:
    """Say in one line why an image's file cannot be read."""
    if leads_nowhere(path):
        return DataError(describe_link(path))
    if isinstance(error, PermissionError):
        reason = f"{error.strerror}; {FIX_PERMISSIONS}"
        return DataError(f"cannot read image {path}: {reason}")
    if is_file(path) and path.stat().st_size == 0:
        reason = "it is empty (0 bytes)"
    elif isinstance(error, UnidentifiedImageError):
        reason = "its content is no image of a known format"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = one_line(error, 120)
    return DataError(f"cannot read image {path}: {reason}; replace or remove it")
