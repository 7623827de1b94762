"""Tar files of samples, written by webdataset's own writer; runs that are killed inside an epoch go on with the same bits."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from forked import memory_of
from PIL import Image
from test_training_together import assert_killed_goes_on, assert_two_train_as_one

from iolaus.data.webdataset import WebDataset
from iolaus.errors import UserError

pytestmark = pytest.mark.slow
wds = pytest.importorskip("webdataset")

RNG = np.random.default_rng(0)
SIZES = (90, 61, 120)


def pictures(n):
    """Colours tell the classes."""
    labels = np.arange(n) % 3
    noise = RNG.integers(0, 120, (n, 8, 8, 3))
    return (noise + 120 * (np.arange(3) == labels[:, None])[:, None, None]).astype(np.uint8), labels


IMAGES, LABELS = pictures(sum(SIZES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tars")
    number = 0
    for shard, n in enumerate(SIZES):
        with wds.TarWriter(str(place / f"part-{shard}.tar")) as file:
            for _ in range(n):
                sample = {"png": Image.fromarray(IMAGES[number]), "cls": int(LABELS[number])}
                file.write({"__key__": f"{number:05d}", **sample})
                number += 1
    return place


def ready(path, **settings):
    defaults = {"input_kind": "image", "input_shape": None, "target_kind": "class", "num_workers": 0, "num_streams": 4}
    data = WebDataset(str(path), **defaults | settings)
    data.setup()
    return data


def epoch(loader):
    return tuple(torch.cat(parts) for parts in zip(*loader, strict=True))


def test_every_sample_is_in_one_split(folder):
    data = ready(folder, shuffle_buffer=32)
    assert data.class_names == ["0", "1", "2"]
    assert data.input_shape == (3, 8, 8)
    found = [epoch(loader) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert [len(inputs) for inputs, _ in found] == [190, 27, 54]
    places = {image.tobytes(): number for number, image in enumerate(IMAGES.transpose(0, 3, 1, 2).copy())}
    seen = [places[inputs.numpy().tobytes()] for split, _ in found for inputs in split]
    assert sorted(seen) == list(range(271))
    assert torch.cat([targets for _, targets in found]).tolist() == [LABELS[number] for number in seen]


def test_from_the_middle_of_a_shard(folder):
    data = ready(folder, val_fraction=0.0, test_fraction=0.0, num_streams=1)
    whole = epoch(data._loader("train", 10))[0]
    for start in (1, 7, 9, 20):
        assert torch.equal(epoch(data._loader("train", 10, None, lambda start=start: start))[0], whole[10 * start :])


def test_arrays_and_amounts(tmp_path):
    x, y = RNG.normal(size=(50, 5)).astype(np.float32), RNG.normal(size=50)
    with wds.TarWriter(str(tmp_path / "a.tar")) as file:
        for number in range(50):
            file.write({"__key__": f"s{number}", "npy": x[number], "txt": str(y[number])})
    more = {"val_fraction": 0.0, "test_fraction": 0.0, "num_streams": 1, "shuffle_buffer": 0}
    data = ready(tmp_path, input_kind="table", target_kind="real", targets="txt", **more)
    inputs, targets = epoch(data._loader("train", 16))
    np.testing.assert_array_equal(inputs, x)
    np.testing.assert_allclose(targets[:, 0], y, rtol=1e-6)


def plain_tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def png(height=4):
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, 4, 3), np.uint8)).save(file, "png")
    return file.getvalue()


GOOD = {f"{n}.{end}": png() if end == "png" else str(n % 2).encode() for n in range(20) for end in ("png", "cls")}
FAULTS = [
    ({"7.png": b"nothing"}, r"sample '7': its png cannot be read as an image"),
    ({"7.png": png(5)}, r"sample '7': its png has shape \[3, 5, 4\], and the first has \[3, 4, 4\]; for images set data.size"),
    ({"7.jpeg2": b"", "7.png": None}, r"data.inputs: .*a.tar sample '7' has none of jpg, .*\(it has: cls, jpeg2\)"),
    ({"7.cls": None}, r"data.targets: .*a.tar sample '7' has no 'cls'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_faults_are_told(tmp_path, change, message):
    members = dict(sorted((GOOD | change).items()))
    plain_tar(tmp_path / "a.tar", {name: content for name, content in members.items() if content is not None})

    def make():
        data = ready(tmp_path, num_streams=1)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            epoch(loader)

    with pytest.raises(UserError, match=message):
        make()


def test_damaged_files_are_told(tmp_path):
    file = tmp_path / "a.tar"
    plain_tar(file, GOOD)
    whole = file.read_bytes()
    for damaged in (whole[:9000], whole[:5120] + b"x" * 512 + whole[5632:], b"nothing", whole[100:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.tar cannot be read as a tar file"):
            ready(tmp_path)
    os.remove(file)
    with pytest.raises(UserError, match=r"holds no file that ends in \.tar"):
        ready(tmp_path)


RUN = ("data=webdataset", "model=cnn", "data.batch_size=16", "trainer.max_epochs=3", "logger=[]", "optim.lr=0.01")
RUN = (*RUN, "data.shuffle_buffer=64", "callbacks.resume_points.every_n_steps=3")


def test_a_run_that_is_killed_goes_on_with_the_same_bits(folder, tmp_path):
    run = assert_killed_goes_on(tmp_path, [*RUN, f"data.path={folder}"])
    assert json.loads((run / "results.json").read_text())["metrics"]["test"]["accuracy/test"] > 0.9
    from iolaus.predict import predict

    predict(run, [str(folder / "part-1.tar")], [], "best", tmp_path / "out.jsonl", [])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert np.mean([row["prediction"] == str(label) for row, label in zip(rows, LABELS[90:151], strict=True)]) > 0.9


def test_two_processes(folder, tmp_path):
    assert_two_train_as_one(tmp_path, [*RUN, f"data.path={folder}", "model=mlp", "optim.lr=0.001"])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    """394 MB are read with less than half as much above what is there before, most of it for a moment to learn what samples are like."""
    with wds.TarWriter(str(tmp_path / "a.tar")) as file:
        for number in range(6_000):
            values = RNG.normal(size=16_384).astype(np.float32)
            file.write({"__key__": f"{number:05d}", "npy": values, "cls": number % 2})
    assert (tmp_path / "a.tar").stat().st_size > 393e6

    def read():
        data = ready(tmp_path, input_kind="table", shuffle_buffer=256, batch_size=32)
        return sum(len(x) for loader in (data.train_dataloader(), data.val_dataloader()) for x, _ in loader)

    count, more = memory_of(read)
    assert count == 4_800  # of 6,000, without those of the test split
    assert more < 197e6
