"""Transforms of torchvision from lists: the same pictures, drawn by the key, and the shape that follows."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from iolaus.augment.transforms import Transforms, composed


def images():
    torch.manual_seed(0)
    return torch.randint(256, (6, 3, 12, 12), dtype=torch.uint8), torch.arange(6)


def test_they_are_torchvision_s():
    batch, _ = images()
    ours = composed([{"Resize": {"size": [8, 8]}}, "Grayscale", {"ToDtype": {"dtype": "float32", "scale": True}}])
    theirs = v2.Compose([v2.Resize([8, 8]), v2.Grayscale(), v2.ToDtype(torch.float32, scale=True)])
    assert torch.equal(ours(batch), theirs(batch))


def test_each_image_is_drawn_for_itself_and_by_the_generator_alone():
    batch, target = images()
    batch[:] = batch[0]
    augment = Transforms([{"RandomAffine": {"degrees": 40, "translate": [0.2, 0.2]}}])
    results = []
    for seed in (1, 2, 1):
        torch.rand(seed)
        before = torch.get_rng_state()
        results.append(augment(batch, target, torch.Generator().manual_seed(seed))[0])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])
    assert len({tuple(image.flatten().tolist()) for image in results[0]}) == 6


@pytest.mark.slow
def test_a_run_with_transformed_images(command):
    resize = "data.transforms=[{Resize: {size: [16, 16]}}]"
    outcome = command("model=cnn", resize, "augment=[transforms]", "trainer.max_epochs=3", "output_dir=run")
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["test"]["accuracy/test"] > 0.85
    assert "[B, 32, 14, 14]" in (outcome.folder / "model.txt").read_text()
    assert (outcome.folder / "figures/inputs.png").stat().st_size > 5000
    from iolaus.cli import main

    main(["test", "run"])  # whose saved settings give the same network again


@pytest.mark.slow
def test_images_outside_memory(command, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (20, 20), (i * 20, 0, 250 if name == "cat" else 0)).save(
                tmp_path / f"photos/{name}/{i}.png"
            )
    outcome = command(
        *("data=image_folder", "data.path=photos", "data.size=[24,24]", "data.in_memory=false", "data.num_workers=0"),
        *("data.transforms=[{CenterCrop: {size: 16}}, Grayscale]", "model=linear", "trainer.max_epochs=2"),
    )
    assert outcome.code == 0, outcome.text
    assert outcome.results["num_parameters"] == 16 * 16 * 2 + 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["data.transforms=[Resze]"],
            "data.transforms.0: torchvision.transforms.v2 has no 'Resze'; did you mean 'Resize'",
        ),
        (["data.transforms=[RandomHorizontalFlip]"], "draws at random, which is for training batches alone"),
        (
            ["data.transforms=[{Resize: {sze: 3}}]"],
            "data.transforms.0.Resize: it has no argument 'sze'; did you mean 'size'",
        ),
        (["data.transforms=[Resize]"], "missing 1 required positional argument: 'size'"),
        (["data.transforms=[{Resize: 3, Grayscale: {}}]"], "write NAME or NAME: {ARGUMENT: VALUE}"),
        (["data=iris", "data.transforms=[Grayscale]"], "data.transforms: are for images"),
        (["augment=[transforms]", "augment.transforms.transforms=[Randm]"], "has no 'Randm'"),
        (["data=iris", "augment=[transforms]"], "it wants images"),
    ],
)
def test_wrong_transforms(command, arguments, says):
    outcome = command(*arguments)
    assert outcome.code == 1
    assert says in outcome.text
