"""The one way from an encoded image to pixels, for training and prediction alike. https://pillow.readthedocs.io/en/stable/handbook/concepts.html#modes."""

import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from iolaus.augment.transforms import composed
from iolaus.data.folders import visible_files
from iolaus.errors import UserError

if TYPE_CHECKING:
    from PIL import Image as PILImage

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
GREY = ("1", "L", "LA", "La")  # modes of Pillow; those with more than 8 bits are grey too
ORIENTATION = 0x0112  # tags of EXIF and TIFF
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, SIGNED = 0, 2


@dataclass
class ImageDecoder:
    """Decode images to bytes: turned upright, composited on a background, scaled to 8 bits, in grey or RGB, resized.

    A value v of an image with more than 8 bits a channel becomes round(255 (v - low) / (high - low)), clipped to 0 .. 255. Where
    transparent, a colour c with opacity a becomes round((a c + (255 - a) background) / 255). An image of several frames is its first one.

    Args:
        size: height and width that images are resized to; None: their own.
        channels: 1 for grey, 3 for RGB; None: 1 where an image is grey, else 3.
        value_range: low and high, of whole numbers of more than 8 bits and of floating-point numbers; None: 0 to 1 for the latter, 0 to
            65,535 for 16 bits, and none for 32 bits.
        background: grey level behind transparent pixels, from 0 for black to 255 for white.

    Raises:
        UserError: naming the file, for what is no image, cut off, too large, or has values outside the range that nobody set.
    """

    size: Sequence[int] | None = None
    channels: int | None = None
    value_range: Sequence[float] | None = None
    background: int = 255
    seen: Counter[str] = field(default_factory=Counter, compare=False)  # kinds of images that were decoded

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise UserError(f"data.channels: must be 1 (grey) or 3 (colour); received {self.channels}")
        if not 0 <= self.background <= 255:
            raise UserError(f"data.background: must be from 0 (black) to 255 (white); received {self.background}")
        if (found := self.value_range) is not None and not (
            len(found) == 2 and all(map(math.isfinite, found)) and found[0] < found[1]
        ):
            raise UserError(f"data.value_range: must be two numbers, the lower first; received {list(found)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of all images, where size and channels are set."""
        assert self.size is not None
        assert self.channels is not None
        return self.channels, self.size[0], self.size[1]

    def describe(self) -> list[str]:
        """Return a line on what was converted of the images read so far; none where nothing was."""
        kinds = [f"{count:,} {kind}" for kind, count in self.seen.items() if kind != "images" and count]
        return [f"converted, of {self.seen['images']:,} images read: {', '.join(kinds)}"] if kinds else []

    def read(self, file: Path) -> torch.Tensor:
        """Decode an image file.

        Shape:
            output: (C, H, W) uint8.
        """
        return self._decode(file, str(file))

    def decode(self, content: bytes, name: str) -> torch.Tensor:
        """Decode an encoded image, with its name for messages."""
        return self._decode(io.BytesIO(content), name)

    def _decode(self, source: Path | io.BytesIO, name: str) -> torch.Tensor:
        from PIL import Image

        with translate_errors(name, source), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large images and broken metadata
            with Image.open(source) as image:
                return self.convert(image, name)

    def convert(self, image: "PILImage.Image", name: str) -> torch.Tensor:
        """Convert an image of Pillow, which may not have been read yet."""
        from PIL import Image

        with translate_errors(name), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.seen["images"] += 1
            self.seen["with several frames (the first counts)"] += bool(getattr(image, "is_animated", False))
            image.load()
            is_deep, tags = image.mode[0] in "IF", dict(getattr(image, "tag_v2", {}))
            if not is_deep and SIGNED in tags.get(SAMPLE_FORMAT, ()):
                raise UserError(f"{name} has signed numbers of 8 bits, which Pillow cannot read; write unsigned ones")
            is_grey = self.channels == 1 or (self.channels is None and (is_deep or image.mode in GREY))
            image = self._upright(image)
            image = self._eight_bits(image, tags, name) if is_deep else self._opaque(image)
            image = image.convert("L" if is_grey else "RGB")
            if self.size is not None:
                image = image.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)
            found = torch.from_numpy(np.array(image))
        return (found[None] if is_grey else found.permute(2, 0, 1)).contiguous()

    def _upright(self, image: "PILImage.Image") -> "PILImage.Image":
        """Apply the orientation that the metadata state; broken metadata state none, as in other programs."""
        from PIL.Image import Transpose

        try:
            orientation = image.getexif().get(ORIENTATION, 1)
        except Exception:  # Pillow raises whatever broken metadata lead it to; the pixels have been read
            self.seen["with broken metadata (not turned)"] += 1
            return image
        methods = (
            *(None, None, Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM),
            *(Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90),
        )
        method = methods[orientation] if orientation in range(len(methods)) else None
        if method is None:
            return image
        self.seen["turned by EXIF"] += 1
        return image.transpose(method)

    def _opaque(self, image: "PILImage.Image") -> "PILImage.Image":
        """Composite transparent pixels on the background."""
        from PIL import Image

        if not image.has_transparency_data:
            return image
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if image.getchannel("A").getextrema()[0] == 255:
            return image
        level = self.background
        self.seen[f"transparent (on grey level {level})"] += 1
        return Image.alpha_composite(Image.new("RGBA", image.size, (level, level, level, 255)), image)

    def _eight_bits(self, image: "PILImage.Image", tags: dict[int, Any], name: str) -> "PILImage.Image":
        """Scale a grey image of more than 8 bits.

        Args:
            image: of mode I, I;16 or F.
            tags: of a TIFF file.
            name: for messages.
        """
        from PIL import Image

        raw, is_signed = np.asarray(image), SIGNED in tags.get(SAMPLE_FORMAT, ())
        bits = tags.get(BITS, (16,))[0]  # PNG and PGM have no tags, and 16 bits
        white: int | None = None
        if image.mode[0] == "F":
            kind, white = "floating-point numbers", 1
        else:
            kind, white = f"whole numbers of {bits} bits", 2 ** (bits - is_signed) - 1 if bits <= 16 else None
            raw = raw.view(np.uint32) if bits == 32 and not is_signed else raw  # Pillow has signed ones alone
        values = raw.astype(np.float64)
        if bad := int((~np.isfinite(values)).sum()):
            raise UserError(f"{name} has {bad} pixels that are NaN or infinite; give them a value")
        low, high = self.value_range or known_range(values, kind, white, name)
        self.seen[f"of {kind} ({low:g} is black, {high:g} white)"] += 1
        values -= low
        values *= 255 / (high - low)
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            values = 255 - values
        levels = values.round().clip(0, 255).astype(np.uint8)
        if isinstance(transparent := image.info.get("transparency"), int):
            levels[raw == transparent] = self.background
        return Image.fromarray(levels)


def known_range(values: np.ndarray, kind: str, white: int | None, name: str) -> tuple[float, float]:
    """Return black and white of an image by its kind of numbers.

    Raises:
        UserError: where the kind has no white, or the values are outside.
    """
    low, high = float(values.min()), float(values.max())
    if white is not None and low >= 0 and high <= white:
        return 0.0, float(white)
    what = "whose white is not known" if white is None else f"and white is {white} for them"
    if low == high:
        low, high = min(low, 0.0), max(high, 1.0)
    raise UserError(
        f"{name} has {kind} from {low:g} to {high:g}, {what}; say what is black and white in all images, as in "
        f"data.value_range=[{low:g},{high:g}]"
    )


@contextmanager
def translate_errors(name: str, source: Path | io.BytesIO | None = None) -> Iterator[None]:
    """Raise a UserError with the image's name for whatever Pillow raises of its content."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Pillow raises whatever a broken file leads it to
        raise UserError(f"{name} cannot be read as an image: {_reason(error, source)}") from error


def _reason(error: Exception, source: Path | io.BytesIO | None) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError) and source is not None:
        start = source.read_bytes()[:4] if isinstance(source, Path) else source.getvalue()[:4]
        if not start:
            return "it is empty"
        if start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return (
                "it is a TIFF of a kind that Pillow does not know; write 8 or 16 bits a channel, or grey 32-bit floats"
            )
        return "its content is of no known image format"
    return " ".join(str(error).split())[:200] or type(error).__name__


def new_images(
    source: Path | str,
    decoder: ImageDecoder,
    transforms: Sequence[Any],
    convert: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[torch.Tensor]:
    """Images to predict for.

    Args:
        source: an image file, or a folder of them.
        decoder: of the run's images, with their size and channels.
        transforms: of the run's images, see augment.transforms.
        convert: makes the numbers that the run's images have of bytes; before the transforms.

    Raises:
        UserError: for a text, a file that is no image, or a folder without any.
    """
    if isinstance(source, str):
        raise UserError("predict: give image files; a text is no image")
    files = visible_files(source, EXTENSIONS) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source} holds no image  (known endings: {' '.join(sorted(EXTENSIONS))})")
    apply = composed(list(transforms), at_random=False) if transforms else None
    for file in files:
        image = decoder.read(file)
        image = image if convert is None else convert(image)
        yield image if apply is None else apply(image)


def of_shape(decoder: ImageDecoder, shape: Sequence[int] | None) -> ImageDecoder:
    """Return a decoder for new images of a run whose inputs have a shape (C, H, W) before transforms; None: no shape in common."""
    if shape is None:
        return decoder
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"predict: the run's inputs have shape {list(shape)}; image files have 1 or 3 channels")
    return replace(decoder, channels=shape[0], size=tuple(shape[1:]))
