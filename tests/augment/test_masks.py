"""Targets that are images are moved with their images, or refused: a mask that no mirror or shift leaves as it is."""

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.augment.crop import Crop
from iolaus.augment.cutout import Cutout
from iolaus.augment.flip import Flip
from iolaus.augment.mixup import Mixup
from iolaus.augment.transforms import Transforms
from iolaus.data.base import DataModule
from iolaus.errors import UserError

SIZE = (9, 7)
# Each pixel has a number of its own, so that whatever is moved otherwise than its image shows.
NUMBERS = torch.arange(9 * 7).reshape(SIZE) + 63 * (torch.arange(20)[:, None, None] % 3)
IMAGES = NUMBERS[:, None].expand(-1, 3, -1, -1).to(torch.uint8)
TARGETS = {
    "classes": NUMBERS,
    "one channel": NUMBERS[:, None],
    "amounts": NUMBERS[:, None].float(),
    "several channels": torch.stack([NUMBERS, NUMBERS + 200], 1),
}
MOVING = {
    "flip": Flip(0.5),
    "crop": Crop(3),
    "affine": Transforms([{"RandomAffine": {"degrees": 20, "translate": [0.2, 0.2]}}, "RandomHorizontalFlip"]),
    "window": Transforms([{"RandomCrop": {"size": 5}}]),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("augment", MOVING.values(), ids=MOVING)
def test_masks_are_moved_with_their_images(augment, target):
    images, moved = augment(IMAGES, target, seeded())
    assert moved.dtype == target.dtype
    assert moved.shape[:-2] == target.shape[:-2]
    first = moved if moved.ndim == 3 else moved[:, 0]
    assert torch.equal(first.long(), images[:, 0].long())
    if target.ndim == 4 and target.shape[1] == 2:
        inside = moved[:, 1] > 0  # what came in from outside is 0 in both channels
        assert torch.equal(moved[:, 1][inside], moved[:, 0][inside] + 200)
    assert images.shape != IMAGES.shape or (images != IMAGES).any()  # something moved


@pytest.mark.parametrize("augment", MOVING.values(), ids=MOVING)
def test_images_of_labels_are_as_without_masks(augment):
    """The same random numbers whatever the target is."""
    images, _ = augment(IMAGES, NUMBERS, seeded())
    labelled, labels = augment(IMAGES, torch.arange(20), seeded())
    assert torch.equal(images, labelled)
    assert torch.equal(labels, torch.arange(20))


def test_colours_change_in_images_alone():
    images, masks = Transforms([{"ColorJitter": {"brightness": 0.5}}])(IMAGES, NUMBERS, seeded())
    assert (images != IMAGES).any()
    assert torch.equal(masks, NUMBERS)


def test_mixup_blends_images_of_amounts():
    target = TARGETS["amounts"]
    images, blended = Mixup(0.4)(IMAGES, target, seeded())
    assert torch.allclose(images[:, :1], blended)
    assert not torch.equal(blended, target)


REFUSED = {
    "cutout": (Cutout(4), NUMBERS, r"augment=\[cutout\]: targets of shape \[20, 9, 7\] are images"),
    "cutout of amounts": (
        Cutout(4),
        TARGETS["amounts"],
        r"augment=\[cutout\]: targets of shape \[20, 1, 9, 7\] are images",
    ),
    "mixup of masks": (Mixup(0.4, 300), NUMBERS, r"augment=\[mixup\]: targets of shape \[20, 9, 7\] are whole numbers"),
    "mixup of labels without classes": (
        Mixup(0.4),
        NUMBERS[:, 0, 0],
        r"augment=\[mixup\]: targets of shape \[20\] are whole",
    ),
    "flip of boxes": (
        Flip(),
        torch.zeros(20, 5, 4),
        r"targets of shape \[20, 5, 4\] cannot be moved with images of \[20, 3, 9, 7\]",
    ),
    "crop of smaller masks": (Crop(), NUMBERS[:, ::2, ::2], r"targets of shape \[20, 5, 4\] cannot be moved"),
    "transforms of boxes": (Transforms(["RandomHorizontalFlip"]), torch.zeros(20, 5, 4), "cannot be moved"),
    "erasing": (
        Transforms([{"RandomErasing": {"p": 1.0}}]),
        NUMBERS,
        "transforms: targets are masks, and one transform moves images alone",
    ),
    "hidden ways": (
        Transforms(["AugMix"]),
        NUMBERS,
        "transforms: targets are masks, and one transform moves images alone",
    ),
}


@pytest.mark.parametrize(("augment", "target", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_moved_is_refused(augment, target, says):
    with pytest.raises(UserError, match=says):
        augment(IMAGES, target, seeded())


class Files(Dataset):
    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, row):
        return IMAGES[row], NUMBERS[row]


class Masks(DataModule):
    in_memory = True

    def load(self):
        return {"train": TensorDataset(IMAGES, NUMBERS) if self.in_memory else Files()}


@pytest.mark.parametrize("in_memory", [True, False])
def test_transforms_of_the_reading_move_masks_too(in_memory):
    data = Masks(
        "image", [3, *SIZE], "mask", transforms=[{"CenterCrop": {"size": 5}}, {"Pad": {"padding": [2, 0, 0, 0]}}]
    )
    data.in_memory, data.standardize = in_memory, False
    data.setup()
    image, mask = data.datasets["train"][1]
    assert image.shape == (3, 5, 7)
    assert torch.equal(image[0].long(), mask)
    assert torch.equal(mask[:, 2:], NUMBERS[1, 2:7, 1:6])
