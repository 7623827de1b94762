"""Image data sets: tiny files in the formats that torchvision reads, and a user's own folders."""

import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

RNG = np.random.default_rng(0)


def write_idx(path, array):
    """The idx format: two zero bytes, type, number of dimensions, their sizes, then the bytes."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(folder, name="MNIST"):
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    for prefix, n in (("train", 120), ("t10k", 40)):
        labels = np.arange(n) % 10
        images = RNG.integers(0, 60, (n, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 4] += 150  # a bright band whose height is the label
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)


def write_cifar(folder, name, monkeypatch):
    """Python's pickle format of CIFAR; torchvision compares checksums, which only the real files have."""
    from torchvision import datasets

    cls = getattr(datasets, name)
    base = folder / cls.base_folder
    base.mkdir(parents=True)
    classes = 100 if name == "CIFAR100" else 10
    labels_key = "fine_labels" if name == "CIFAR100" else "labels"
    for file, _ in [*cls.train_list, *cls.test_list]:
        n = 2 * classes
        batch = {"data": RNG.integers(0, 255, (n, 3072), dtype=np.uint8), labels_key: [i % classes for i in range(n)]}
        (base / file).write_bytes(pickle.dumps(batch))
    meta = {cls.meta["key"]: [f"class{i}" for i in range(classes)]}
    (base / cls.meta["filename"]).write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(cls, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)


SLOW = [pytest.param(*kin, marks=pytest.mark.slow) for kin in (("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST"))]


@pytest.mark.parametrize(("option", "name"), [("mnist", "MNIST"), *SLOW])
def test_mnist_and_its_kin(command, tmp_path, option, name):
    write_mnist(tmp_path / "data", name)
    outcome = command(f"data={option}", "trainer.max_epochs=15", "data.batch_size=16")
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["test"]["accuracy/test"] > 0.9


def test_mnist_stays_bytes_and_keeps_the_official_test(tmp_path):
    from conftest import composed

    from iolaus.build import build

    write_mnist(tmp_path)
    config = composed("data=mnist", f"data.root={tmp_path}")
    config.output_dir = str(tmp_path)
    data = build(config).data
    assert data.datasets["train"].tensors[0].dtype == torch.uint8
    assert {s: len(r) for s, r in data.rows.items()} == {"train": 108, "val": 12, "test": 40}
    mean, deviation = data.statistics()["input"]
    pixels = data.datasets["train"].tensors[0][data.rows["train"]].double()
    assert mean.shape == (1, 1, 1)
    assert mean.item() == pytest.approx(pixels.mean().item(), rel=1e-6)
    assert deviation.item() == pytest.approx(pixels.std(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["data=cifar10", "model=cnn"], "CIFAR10"),
        pytest.param(["data=cifar100", "model=cnn"], "CIFAR100", marks=pytest.mark.slow),
        pytest.param(["experiment=cifar10", "data.batch_size=8"], "CIFAR10", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_cifar(command, tmp_path, monkeypatch, words, name):
    write_cifar(tmp_path / "data", name, monkeypatch)
    outcome = command(*words, "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.text
    settings = (outcome.folder / "config.yaml").read_text()
    assert "class0" in settings


def test_damaged_files_are_told(command, tmp_path):
    write_mnist(tmp_path / "data")
    (tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    outcome = command("data=mnist", "data.download=false")
    assert outcome.code == 1
    assert "data.root: MNIST cannot be read" in outcome.text


@pytest.fixture
def folders(tmp_path):
    """Dark cats, bright dogs, in several sizes and modes."""

    def write(base, n):
        for label, level in (("cat", 60), ("dog", 190)):
            (base / label).mkdir(parents=True)
            for i in range(n):
                pixels = RNG.normal(level, 20, (20 + i % 3, 30)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).convert(("L", "RGB", "RGBA", "P")[i % 4]).save(base / label / f"{i}.png")

    write(tmp_path / "plain", 20)
    for split, n in (("train", 12), ("val", 4), ("test", 6)):
        write(tmp_path / "split" / split, n)
    return tmp_path


MORE = [
    pytest.param(more, marks=pytest.mark.slow)
    for more in ([], ["data.in_memory=false"], ["data.in_memory=false", "data.num_workers=2"])
]


@pytest.mark.parametrize("more", [["data.channels=1"], *MORE])
def test_a_folder_of_images(command, folders, more):
    outcome = command("data=image_folder", "data.path=plain", "data.size=[12,16]", "trainer.max_epochs=20", *more)
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["test"]["accuracy/test"] == 1
    assert outcome.results["choices"]["data"] == "image_folder"


@pytest.mark.slow
def test_memory_and_files_give_the_same_weights(command, folders):
    from test_train import digest

    first = command("data=image_folder", "data.path=plain", "trainer.max_epochs=2")
    for workers in (0, 2):
        other = command(
            *("data=image_folder", "data.path=plain", "trainer.max_epochs=2"),
            *("data.in_memory=false", f"data.num_workers={workers}"),
        )
        assert digest(other.folder) == digest(first.folder)


def test_sixteen_bits_keep_their_brightness(tmp_path):
    from iolaus.data.picture import ImageDecoder

    Image.fromarray(np.full((8, 8), 123 * 257, np.uint16)).save(tmp_path / "deep.png")
    pixels = ImageDecoder((8, 8), 1).read(tmp_path / "deep.png")
    assert pixels.unique().tolist() == [123]


def test_splits_of_ones_own(command, folders):
    from iolaus.data.image_folder import ImageFolder

    data = ImageFolder("split", input_kind="image", input_shape=(3, 64, 64), target_kind="class")
    data.setup()
    assert {s: len(r) for s, r in data.rows.items()} == {"train": 24, "val": 8, "test": 12}
    assert data.class_names == ["cat", "dog"]
