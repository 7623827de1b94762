"""Image files of every kind against Pillow and numpy, split folders by the spellings of their names, images without information."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from iolaus.data.folders import describe_split_folders, find_split_folders, split_of
from iolaus.data.image_folder import ImageFolder
from iolaus.data.picture import EXTENSIONS, ImageDecoder
from iolaus.errors import UserError

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
MODES = {  # of Pillow: the channels of its numbers, and lossless formats that keep them
    "1": (0, ("png", "tiff", "bmp")),
    "L": (0, ("png", "tiff", "bmp", "pgm")),
    "LA": (2, ("png", "tiff")),
    "P": (0, ("png", "bmp", "gif")),
    "PA": (2, ("tiff",)),
    "RGB": (3, ("png", "tiff", "bmp", "ppm")),
    "RGBA": (4, ("png", "tiff", "webp")),
    "RGBX": (4, ("tiff",)),
    "CMYK": (4, ("tiff",)),
    "YCbCr": (3, ("tiff",)),
    "LAB": (3, ("tiff",)),
}


def bytes_of(shape):
    return hnp.arrays(np.uint8, shape)


@st.composite
def pictures(draw):
    """An image of one of Pillow's modes, and a format that it can be saved in."""
    mode = draw(st.sampled_from(sorted(MODES)))
    channels, formats = MODES[mode]
    height, width = draw(SHAPES)
    pixels = draw(bytes_of((height, width, channels) if channels else (height, width)))
    if mode == "1":
        image = Image.fromarray(pixels > 127)
    elif mode in ("P", "PA"):
        image = Image.frombytes(mode, (width, height), pixels.tobytes())
        image.putpalette(draw(bytes_of((256, 3))).tobytes())
    else:
        image = Image.frombytes(mode, (width, height), pixels.tobytes())
    return image, draw(st.sampled_from(formats))


def saved(folder, image, form):
    file = folder / f"a.{form}"
    image.save(file, **({"lossless": True, "exact": True} if form == "webp" else {}))
    return file


def by_hand(file, background=255):
    """What Pillow has for a file in RGB, with transparent pixels over a background by the formula."""
    with Image.open(file) as opened:
        if not opened.has_transparency_data:
            return np.asarray(opened.convert("RGB")).astype(float)
        values = np.asarray(opened.convert("RGBA")).astype(float)
    colour, opacity = values[..., :3], values[..., 3:]
    return (opacity * colour + (255 - opacity) * background) / 255


@settings(max_examples=150, deadline=None)
@given(pictures(), st.integers(0, 255))
def test_every_mode_of_pillow(tmp_path_factory, picture, background):
    file = saved(tmp_path_factory.mktemp("picture"), *picture)
    found = ImageDecoder(channels=3, background=background).read(file)
    assert found.dtype == torch.uint8
    # Pillow composites in whole numbers, which may be one level off the formula
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), by_hand(file, background), atol=1.01)


@settings(max_examples=60, deadline=None)
@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.uint16, shape)), st.sampled_from(["png", "tiff", "pgm"]))
def test_sixteen_bits(tmp_path_factory, pixels, form):
    file = tmp_path_factory.mktemp("picture") / f"a.{form}"
    Image.fromarray(pixels).save(file)
    np.testing.assert_array_equal(ImageDecoder().read(file)[0].numpy(), np.round(pixels / 257))


@settings(max_examples=60, deadline=None)
@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32))))
def test_floats_from_zero_to_one(tmp_path_factory, pixels):
    file = tmp_path_factory.mktemp("picture") / "a.tiff"
    Image.fromarray(pixels).save(file)
    np.testing.assert_array_equal(ImageDecoder().read(file)[0].numpy(), np.round(pixels.astype(float) * 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(tmp_path, orientation):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    decoder = ImageDecoder()
    found = decoder.read(tmp_path / "a.png")
    np.testing.assert_array_equal(
        found.permute(1, 2, 0).numpy(), ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    )
    assert decoder.describe() == ([] if orientation == 1 else ["converted, of 1 images read: 1 turned by EXIF"])


def test_numbers_outside_their_range_are_refused_and_the_advice_reads_them(tmp_path):
    pixels = np.array([[0, 1000], [2000, 4095]], np.float32)
    Image.fromarray(pixels).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"from 0 to 4095, .* data\.value_range=\[0,4095\]"):
        ImageDecoder().read(tmp_path / "a.tiff")
    decoder = ImageDecoder(value_range=[0, 4095])
    np.testing.assert_array_equal(decoder.read(tmp_path / "a.tiff")[0].numpy(), np.round(pixels / 4095 * 255))
    assert decoder.describe() == ["converted, of 1 images read: 1 of floating-point numbers (0 is black, 4095 white)"]


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=1)
    found = ImageDecoder(channels=3, background=7).read(tmp_path / "a.png")
    assert found[:, 0].T.tolist() == [[10, 20, 30], [7, 7, 7]]


def test_the_first_frame_of_several(tmp_path):
    first, second = (Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    decoder = ImageDecoder(channels=1)
    assert decoder.read(tmp_path / "a.gif").unique().tolist() == [10]
    assert decoder.describe() == ["converted, of 1 images read: 1 with several frames (the first counts)"]


def write_pictures(folder, names=("cat", "dog"), level=None, count=6):
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((4, 4), 40 + 90 * label + i if level is None else level, np.uint8)
            pixels[0] += level is None
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def ready(path, **settings):
    data = ImageFolder(
        str(path), size=(4, 4), channels=1, input_kind="image", input_shape=(1, 4, 4), target_kind="class", **settings
    )
    data.setup()
    return data


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "test": "test"},
        {"train": "Training", "test": "Testing"},
        {"train": "Train", "test": "TEST"},
        {"train": "seg_train", "test": "seg_test"},
        {"train": "train_set", "val": "valid_set", "test": "test_set"},
        {"train": "train", "val": "valid", "test": "test"},
        {"train": "TRAIN", "val": "Val"},
        {"train": "training_data", "val": "validation"},
        {"train": "train", "val": "dev"},
        {"train": "trn", "test": "tst"},
    ],
    ids=lambda names: "-".join(names.values()),
)
def test_known_spellings_of_splits(tmp_path, names):
    for name in names.values():
        write_pictures(tmp_path / name)
    (tmp_path / "__MACOSX" / "train").mkdir(parents=True)
    data = ready(tmp_path)
    assert data.class_names == ["cat", "dog"]
    line = "splits: " + ", ".join(f"{split} from {name}/" for split, name in names.items())
    assert line in data.describe()
    assert len(data.rows["train"]) + len(data.rows.get("val", [])) >= 12


@pytest.mark.parametrize("name", ["trainer", "contest", "value", "trains", "devil", "cat"])
def test_names_that_are_no_split(name):
    assert split_of(name) is None


def test_classes_that_are_called_like_splits(tmp_path):
    for name in ("train", "bus", "car"):
        write_pictures(tmp_path, [name])
    with pytest.raises(UserError, match=r"if all are classes, set data.class_names=\[bus,car,train\]"):
        ready(tmp_path)
    assert ready(tmp_path, class_names=["bus", "car", "train"]).num_classes == 3


def test_two_folders_of_one_split_are_refused(tmp_path):
    for name in ("train", "val", "validation"):
        write_pictures(tmp_path / name)
    with pytest.raises(
        UserError, match="has 2 folders for the val split, val and validation; rename or move all but one"
    ):
        ready(tmp_path)


def test_what_is_left_out_beside_splits_is_told(tmp_path):
    for name in ("train", "test"):
        write_pictures(tmp_path / name)
    (tmp_path / "masks").mkdir()
    folders = find_split_folders(tmp_path, EXTENSIONS, has_classes=True)
    assert describe_split_folders(tmp_path, folders) == "splits: train from train/, test from test/; left out: masks/"


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_of_one_value_is_refused(tmp_path, split, in_memory):
    for name in ("train", "test"):
        write_pictures(tmp_path / name, level=9 if name == split else None)
    with pytest.raises(UserError, match=rf"every pixel of the images of the {split} split is 9"):
        ready(tmp_path, in_memory=in_memory)


def test_images_of_one_value_each_are_images(tmp_path):
    """A dark class and a bright one can be told apart."""
    for split in ("train", "val"):
        write_pictures(tmp_path / split, ["dark"], level=10)
        write_pictures(tmp_path / split, ["light"], level=200)
    assert ready(tmp_path, test_fraction=0.0).num_classes == 2
