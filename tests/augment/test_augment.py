"""Augmentation of whole batches against what is done to one image at a time by hand."""

import pytest
import torch
import torch.nn.functional as F

from iolaus.augment.crop import Crop
from iolaus.augment.cutout import Cutout
from iolaus.augment.flip import Flip
from iolaus.augment.mixup import Mixup
from iolaus.data.loader import AugmentedLoader

IMAGES = torch.randint(0, 256, (64, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 5
EVERY = [Flip(), Crop(3), Cutout(4), Mixup(0.4, 5)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("augment", EVERY, ids=lambda a: type(a).__name__)
def test_the_same_generator_gives_the_same_batch(augment):
    first, again = augment(IMAGES, LABELS, seeded()), augment(IMAGES, LABELS, seeded())
    other = augment(IMAGES, LABELS, seeded(1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == IMAGES.shape


def test_flip():
    images, _ = Flip(0.5)(IMAGES, LABELS, seeded())
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(images, IMAGES, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(images, IMAGES, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 20 < sum(mirrored) < 44
    assert torch.equal(Flip(0.0)(IMAGES, LABELS, seeded())[0], IMAGES)
    assert torch.equal(Flip(1.0)(IMAGES, LABELS, seeded())[0], IMAGES.flip(-1))


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_crops_are_windows_of_the_padded_image(padding):
    images, _ = Crop(padding)(IMAGES, LABELS, seeded())
    assert images.dtype == torch.uint8
    padded = F.pad(IMAGES.float(), [padding] * 4, mode="reflect") if padding else IMAGES.float()
    for image, whole in zip(images, padded, strict=True):
        windows = whole.unfold(1, 9, 1).unfold(2, 7, 1)  # (C, places, places, H, W)
        places = [windows[:, i, j] for i in range(windows.shape[1]) for j in range(windows.shape[2])]
        assert any(torch.equal(place, image.float()) for place in places)


def test_cutout_hides_a_square():
    images, _ = Cutout(4)(IMAGES.float(), LABELS, seeded())
    changed = (images != IMAGES).any(1)
    for mask in changed:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert 1 <= rows <= 4
        assert 1 <= columns <= 4
    assert torch.allclose(images[(images != IMAGES)].unique(), IMAGES.float().mean((0, 2, 3)).sort().values)


def test_mixup_blends_inputs_and_targets_alike():
    images, target = Mixup(0.4, 5)(IMAGES, LABELS, seeded())
    assert torch.allclose(target.sum(1), torch.ones(64))
    share = target.gather(1, LABELS[:, None])[target.max(1).values < 1][0].item()
    partner = (images - share * IMAGES) / (1 - share)
    distance = (partner[:, None] - IMAGES[None].float()).flatten(2).abs().amax(2)
    assert (distance.min(1).values < 0.1).all()
    real = Mixup(0.4)(IMAGES, torch.arange(64.0)[:, None], seeded())[1]
    assert real.shape == (64, 1)


def test_batches_are_keyed_by_epoch_and_number():
    batches = [(IMAGES[:32], LABELS[:32]), (IMAGES[:32], LABELS[:32])]
    epoch = 0
    loader = AugmentedLoader(batches, [Crop(3)], lambda: (7, epoch))
    first, again = list(loader), list(loader)
    assert len(loader) == 2
    assert torch.equal(first[0][0], again[0][0])
    assert not torch.equal(first[0][0], first[1][0])
    epoch = 1
    assert not torch.equal(next(iter(loader))[0], first[0][0])


SLOW = [
    pytest.param(a, marks=pytest.mark.slow)
    for a in ("augment=[crop,mixup]", "augment=[flip,crop,cutout]", "augment=mixup")
]


@pytest.mark.parametrize("augment", [*SLOW])
def test_training_with_augmentation(command, augment):
    from test_train import digest

    short = (augment, "model=cnn", "trainer.max_epochs=2")
    outcome = command(*short)
    assert outcome.code == 0, outcome.text
    assert digest(outcome.folder) == digest(command(*short).folder)
    assert digest(outcome.folder) != digest(command("model=cnn", "trainer.max_epochs=2").folder)


@pytest.mark.slow
def test_memory_and_files_are_augmented_alike(command, tmp_path):
    import numpy as np
    from PIL import Image
    from test_train import digest

    for label, level in (("cat", 60), ("dog", 190)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(np.full((16, 16, 3), level + i, np.uint8)).save(tmp_path / "photos" / label / f"{i}.png")
    short = (
        "data=image_folder",
        "data.path=photos",
        "data.size=[16,16]",
        "augment=[flip,crop]",
        "trainer.max_epochs=2",
    )
    memory, files = command(*short), command(*short, "data.in_memory=false", "data.num_workers=2")
    assert digest(memory.folder) == digest(files.folder)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["augment=filp"], "did you mean 'flip'"),
        (["augment=flip", "data=iris"], "augment=flip with data=iris"),
        (["augment=flip", "augment.flip.probability=2"], "augment.flip.probability"),
        (["augment=mixup", "augment.mixup.alpha=0"], "augment.mixup.alpha"),
    ],
)
def test_wrong_augmentation(command, arguments, says):
    outcome = command(*arguments)
    assert outcome.code == 1
    assert says in outcome.text
