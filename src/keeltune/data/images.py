"""Pictures from files: checked by their header first, then decoded whole, always as RGB of 8 bits.

Only common raster formats are read: some of Pillow's others start programs. EXIF's orientation is applied, what is
transparent lies on white, of an animation the first frame counts, 16 bits become 8 and CMYK becomes RGB.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keeltune.data.media import Media, Unreadable, check_magic_bytes, content_of
from keeltune.utils.errors import Problem, UserError

LIMIT = 100_000_000
"""Pixels of a picture, by its header, above which it is not decoded: 300 MB in memory, from a file of any size."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def library() -> Any:
    """Pillow's `Image`; UserError where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        fix = "pip install 'keeltune[vision]'"
        raise UserError(Problem("this machine", "", "no Pillow", "the library that reads pictures", fix)) from error
    return Image


def read(source: Media | Path) -> Any:
    """The picture as Pillow has it, RGB, decoded whole. Raises `Unreadable`."""
    with _opened(source) as image:
        if image.mode == "F":
            raise Unreadable(
                "picture of floating-point numbers", "pixels without a known white", "8 or 16 bits a channel",
                "save it as PNG or JPEG",
            )  # fmt: skip
        image.load()  # of an animation, the first frame
        return _upright(_rgb(image))


def conversion(source: Media | Path) -> str:
    """What `read` has to change of a picture's kind, from its header alone: "CMYK", "16 bits", …; "" for none."""
    with _opened(source) as image:
        changes = []
        if getattr(image, "is_animated", False) and image.format != "MPO":
            changes.append("animated")
        if image.mode.startswith("I"):
            changes.append("16 bits")
        elif image.mode in ("CMYK", "YCCK"):
            changes.append("CMYK")
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            changes.append("transparent")
        return " and ".join(changes)


@contextmanager
def _opened(source: Media | Path) -> Iterator[Any]:
    """A picture of which the header is read and found sound; whatever goes wrong inside is `Unreadable`."""
    image_library = library()
    content = content_of(source)
    whole = "a whole picture (JPEG, PNG, WebP, GIF, BMP, TIFF)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns where we refuse or convert
            with image_library.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > LIMIT:
                    raise _too_large(f"{width} × {height} pixels")
                yield image
    except (Unreadable, UserError):
        raise
    except image_library.DecompressionBombError as error:
        raise _too_large(str(error).split(",")[0]) from error
    except image_library.UnidentifiedImageError as error:
        check_magic_bytes(content[:64], "picture", whole)
        found = f"no picture: it begins with {content[:12]!r}"
        raise Unreadable("not a picture", found, whole, "save the picture once more in one of these formats") from error
    except Exception as error:  # each decoder fails in its own words, and each of them means: the file is broken
        found = f"a broken picture ({str(error).splitlines()[0][:100] if str(error) else type(error).__name__})"
        raise Unreadable("broken picture", found, whole, "copy or download it again") from error


def _too_large(found: str) -> Unreadable:
    return Unreadable("picture too large", found, f"at most {LIMIT:,} pixels", "make it smaller: models read far less")


def _rgb(image: Any) -> Any:
    """8 bits a channel, red, green and blue; what is transparent lies on white."""
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would cut them off at 255
        numbers = np.asarray(image).astype(np.int64)
        image = library().fromarray(np.clip(numbers >> 8, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = library().new("RGBA", image.size, "white")
        image = library().alpha_composite(ground, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


@dataclass(frozen=True)
class Look:
    """What a model reads of one picture: inputs of one number a token, and arrays whose first dimension batches join.

    A picture's array is [1, 3, H, W]; with Qwen2-VL [patches, numbers], of as many patches as it is large.
    """

    tokens: dict[str, list[int]]
    arrays: dict[str, np.ndarray]


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays along their first dimension; in the others zeros fill up the smaller ones, as processors pad pictures."""
    sizes = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    table = np.zeros((sum(map(len, arrays)), *sizes), arrays[0].dtype)
    start = 0
    for array in arrays:
        table[(slice(start, start + len(array)), *map(slice, array.shape[1:]))] = array
        start += len(array)
    return table
