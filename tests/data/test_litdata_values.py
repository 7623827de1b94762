"""What samples that litdata gives may hold; without the library."""

import numpy as np
import pytest
from PIL import Image

from iolaus.data.litdata import LitData, Samples, label_of
from iolaus.data.picture import EXTENSIONS, ImageDecoder
from iolaus.errors import UserError

PICTURE = np.zeros((8, 6, 3), np.uint8)


def item(value):
    decoder = ImageDecoder()
    samples = Samples(
        ["image"], "class", "class", "image", "class", labels=None, decoder=decoder, apply=None, shape=None
    )
    return samples._item({"image": value, "class": 1}, "data.path: f.bin row 0")


def test_channels_come_first():
    assert item(PICTURE.transpose(2, 0, 1))[0].shape == item(Image.fromarray(PICTURE))[0].shape == (3, 8, 6)
    with pytest.raises(UserError, match=r"f.bin row 0: its 'image' has shape \[8, 6, 3\]; .* as in \[3, 8, 6\]"):
        item(PICTURE)


@pytest.mark.parametrize("value", [b"\xff\xd8", "a text", [1, 2]])
def test_what_is_no_image_is_told(value):
    with pytest.raises(UserError, match=f"its 'image' is of type {type(value).__name__}, and inputs are numbers"):
        item(value)


@pytest.mark.parametrize("value", [Image.fromarray(PICTURE), np.zeros(3), b"cat"])
def test_what_is_no_label_is_told(value):
    with pytest.raises(UserError, match=f"f.bin row 0: its target is of type {type(value).__name__}"):
        label_of(value, "data.path: f.bin row 0")


def test_labels_are_named_by_number_or_text():
    values = [np.array(2), np.array([2]), np.int64(2), 2.0, True, "cat"]
    assert [label_of(value, "") for value in values] == ["2", "2", "2", "2", "1", "cat"]


def test_of_a_folder_chunks_and_images_are_predicted_for():
    assert LitData.new_endings == EXTENSIONS | {".bin"}
