"""Encoded images of any size as one array, with the options that say how; what cannot be is named and counted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness import OwnData, option

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Encoded: TypeAlias = Path | bytes
HUGE = 50_000_000
"""Pixels of an image that is not decoded unasked."""
CHUNK = 1024
"""Images decoded at a time."""


class Wrong(Exception):
    """An image that cannot be taken: the fault, and words on this one."""

    def __init__(self, fault: Literal["unreadable", "huge", "kind"], words: str) -> None:
        self.fault, self.words = fault, words
        super().__init__(words)


class Images(OwnData):
    """Base of data sets of encoded images: each is decoded, and brought to ``size`` x ``size`` pixels."""

    size: int = option(32, doc="Height and width of the images, in pixels.", at_least=4)
    color: Literal["auto", "rgb", "grey"] = option(
        "auto", doc="Convert all images to colour, or to grey; auto takes the first image's, and refuses a mixture."
    )
    fit: Literal["crop", "squash"] = option(
        "crop", doc="Cut the middle out of an image that is not square, or change its proportions."
    )
    huge: Literal["refuse", "shrink"] = option(
        "refuse", doc="Refuse images of more than 50 million pixels, or decode and shrink them too."
    )

    def shape(self, first: Encoded, said: str) -> tuple[int, int, int]:
        """Shape of the inputs, by the options and the header of the first image."""
        color = self.color
        if color == "auto":
            with _any_size():
                try:
                    with _opened(first) as image:
                        color = "grey" if _is_grey(image) else "rgb"
                except Wrong as wrong:
                    raise self.wrong(f"{said} cannot be read ({wrong.words}): replace it, or delete it") from wrong
        return (1 if color == "grey" else 3, self.size, self.size)

    def decoded(self, images: Sequence[Encoded], said: Sequence[str]) -> NDArray[np.uint8]:
        """The images ``[n, c, size, size]``; ``said`` names each. Raises :class:`harness.DataError`."""
        x = np.empty((len(images), *self.input_shape), np.uint8)
        wrong: dict[str, list[str]] = {}
        with _any_size(), ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(images), CHUNK):
                for number, made in enumerate(pool.map(self._made, images[start : start + CHUNK]), start):
                    if isinstance(made, Wrong):
                        wrong.setdefault(made.fault, []).append(f"{said[number]} ({made.words})")
                    else:
                        x[number] = made
        for fault, named in wrong.items():
            some = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
            raise self.wrong(
                f"{len(named):,} of {len(images):,} images {_FAULTS[fault][0]}: {some}; {_FAULTS[fault][1]}"
            )
        return x

    def _made(self, encoded: Encoded) -> NDArray[np.uint8] | Wrong:
        try:
            with _opened(encoded) as image:
                return self._array(image)
        except Wrong as wrong:
            return wrong

    def _array(self, image: Picture) -> NDArray[np.uint8]:
        """One image ``[c, size, size]``."""
        from PIL import Image, ImageOps

        width, height = image.size
        if width * height > HUGE and self.huge == "refuse":
            raise Wrong("huge", f"{width} x {height}")
        grey = self.input_shape[0] == 1
        if self.color == "auto" and _is_grey(image) != grey:
            raise Wrong("kind", "colour" if grey else "grey")
        try:
            image.load()
            converted = _of_eight_bits(ImageOps.exif_transpose(image)).convert("L" if grey else "RGB")
        except Wrong:
            raise
        except Exception as error:  # whatever PIL raises for a file that is cut short, or not an image
            raise Wrong("unreadable", _why(error)) from error
        if converted.size != (self.size, self.size):
            how = ImageOps.fit if self.fit == "crop" else Image.Image.resize
            converted = how(converted, (self.size, self.size), Image.Resampling.BILINEAR)
        pixels = np.asarray(converted)
        return pixels[None] if grey else pixels.transpose(2, 0, 1)


_FAULTS = {
    "unreadable": ("cannot be read", "replace them, or delete them"),
    "huge": (f"have more than {HUGE // 10**6} million pixels", "type huge=shrink to decode them all the same"),
    "kind": ("are of another kind than the first", "type color=rgb or color=grey to convert all"),
}


def code() -> tuple[str, ...]:
    """Versions of all that decides how an image is decoded."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), version("pillow")


def _is_grey(image: Picture) -> bool:
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


def _of_eight_bits(image: Picture) -> Picture:
    """An image whose values are 0 to 255: of 16 bits the upper half."""
    from PIL import Image

    if image.mode == "F":
        raise Wrong("unreadable", "its pixels are floating-point numbers")
    if not image.mode.startswith("I"):
        return image
    values: NDArray[Any] = np.asarray(image)
    return Image.fromarray((np.clip(values, 0, 65_535) / 257).round().astype(np.uint8))


@contextmanager
def _opened(encoded: Encoded) -> Iterator[Picture]:
    """An image of which the header was read. Raises :class:`Wrong`."""
    from PIL import Image

    try:
        image = Image.open(encoded if isinstance(encoded, Path) else BytesIO(encoded))
    except Exception as error:
        raise Wrong("unreadable", _why(error)) from error
    with image:
        yield image


def _why(error: Exception) -> str:
    """Words on an error of PIL's, without the path that its caller names."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _any_size() -> Iterator[None]:
    """A block in which PIL opens images of any size: their headers are looked at here."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
