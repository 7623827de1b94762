"""Folders that litdata.optimize wrote; runs that are killed inside an epoch go on with the same bits."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from forked import memory_of
from PIL import Image
from test_training_together import assert_killed_goes_on, assert_two_train_as_one

from iolaus.data.litdata import LitData
from iolaus.errors import UserError

pytestmark = pytest.mark.slow
pytest.importorskip("litdata")

# What writes a folder, as a program of its own: the library starts processes that import it.
WRITER = """
import sys
import numpy as np
import torch
from PIL import Image

RNG = np.random.default_rng(0)
LABELS = np.arange(240) % 3
NOISE = RNG.integers(0, 120, (240, 8, 8, 3))
IMAGES = (NOISE + 120 * (np.arange(3) == LABELS[:, None])[:, None, None]).astype(np.uint8)
X, Y = RNG.normal(size=(240, 5)).astype(np.float32), RNG.normal(size=240)

KINDS = {
    "pictures": lambda i: {"image": Image.fromarray(IMAGES[i]), "class": int(LABELS[i])},
    "names": lambda i: {"image": Image.fromarray(IMAGES[i]), "class": "abc"[LABELS[i]]},
    "bytes": lambda i: (torch.from_numpy(IMAGES[i].transpose(2, 0, 1).copy()), int(LABELS[i])),
    "amounts": lambda i: {"x": X[i, :4], "z": float(X[i, 4]), "y": float(Y[i])},
    "objects": lambda i: {"x": X[i], "more": {1, 2}, "y": float(Y[i])},
    "ragged": lambda i: {"x": X[i, : 5 - (i == 100)], "y": float(Y[i])},
    "nan": lambda i: {"x": X[i] * (np.nan if i == 100 else 1), "y": float(Y[i])},
    "large": lambda i: {"x": np.full(16_384, i, np.float32), "y": i % 2},
}

def make(pair):
    kind, i = pair
    return KINDS[kind](i)

if __name__ == "__main__":
    import litdata

    kind, place, n, more = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])
    litdata.optimize(fn=make, inputs=[(kind, i) for i in range(n)], output_dir=place, num_workers=1, **more)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Gives the folder of a kind of samples, 50 to a chunk."""
    home = tmp_path_factory.mktemp("optimized")
    (home / "writer.py").write_text(WRITER)

    def write(kind, n=240, **more):
        place = home / f"{kind}{'-'.join(map(str, more.values()))}"
        if not place.exists():
            words = [kind, str(place), str(n), repr({"chunk_size": 50} | more)]
            subprocess.run([sys.executable, "writer.py", *words], cwd=home, check=True, capture_output=True)
        return place

    return write


def known():
    names = {"__name__": "writer"}
    exec(WRITER, names)
    return names


def ready(path, **settings):
    defaults = {"input_kind": "image", "input_shape": None, "target_kind": "class", "num_workers": 0, "num_streams": 4}
    data = LitData(str(path), **{"target": "class"} | defaults | settings)
    data.setup()
    return data


def epoch(loader):
    return tuple(torch.cat(parts) for parts in zip(*loader, strict=True))


def test_every_sample_is_in_one_split(written):
    data = ready(written("pictures"), shuffle_buffer=32)
    images, labels = known()["IMAGES"], known()["LABELS"]
    assert data.class_names == ["0", "1", "2"]
    assert data.input_shape == (3, 8, 8)
    assert len(data.datasets["train"].shards) == 5
    found = [epoch(loader) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert [len(inputs) for inputs, _ in found] == [168, 24, 48]
    places = {image.tobytes(): number for number, image in enumerate(images.transpose(0, 3, 1, 2).copy())}
    seen = [places[inputs.numpy().tobytes()] for split, _ in found for inputs in split]
    assert sorted(seen) == list(range(240))
    assert torch.cat([targets for _, targets in found]).tolist() == [labels[number] for number in seen]


def test_from_the_middle_of_a_chunk(written):
    data = ready(written("pictures"), val_fraction=0.0, test_fraction=0.0, num_streams=1)
    whole = epoch(data._loader("train", 10))[0]
    for start in (1, 4, 5, 20):
        assert torch.equal(epoch(data._loader("train", 10, None, lambda start=start: start))[0], whole[10 * start :])


IN_ORDER = {"val_fraction": 0.0, "test_fraction": 0.0, "num_streams": 1, "shuffle_buffer": 0}


def test_names_of_classes_and_tuples_of_arrays(written):
    names = ready(written("names"), **IN_ORDER)
    assert names.class_names == ["a", "b", "c"]
    arrays = ready(written("bytes"), target=1, **IN_ORDER)
    for one, other in zip(epoch(names._loader("train", 16)), epoch(arrays._loader("train", 16)), strict=True):
        assert torch.equal(one, other)
    assert epoch(arrays._loader("train", 16))[0].dtype == torch.uint8
    resized = ready(written("bytes"), target=1, size=[4, 6], channels=1, **IN_ORDER)
    expected = Image.fromarray(known()["IMAGES"][0]).convert("L").resize((6, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(epoch(resized._loader("train", 16))[0][0, 0], np.asarray(expected))


def test_numbers_and_amounts(written):
    data = ready(written("amounts"), input_kind="table", target_kind="real", target="y", **IN_ORDER)
    inputs, targets = epoch(data._loader("train", 16))
    np.testing.assert_array_equal(inputs, known()["X"])
    np.testing.assert_allclose(targets[:, 0], known()["Y"], rtol=1e-6)
    some = ready(written("amounts"), input_kind="table", target_kind="real", target="y", inputs="z", **IN_ORDER)
    np.testing.assert_array_equal(epoch(some._loader("train", 16))[0][:, 0], known()["X"][:, 4])


AMOUNTS = {"input_kind": "table", "target_kind": "real", "target": "y"}


@pytest.mark.parametrize(
    ("kind", "more", "settings", "message"),
    [
        ("objects", {}, AMOUNTS, "holds pickled objects .*could run code when they are read"),
        ("ragged", {}, AMOUNTS, r"chunk-0-2.bin row 0: its input has shape \[4\], and the first has \[5\]"),
        ("nan", {}, AMOUNTS, r"chunk-0-2.bin row 0: its inputs have a value that is NaN or infinite"),
        ("pictures", {}, {"target": "label"}, r"data.target: .* row 0 has no 'label'  \(it has: image, class\)"),
        ("pictures", {}, {"inputs": "photo"}, r"data.inputs: .* has no 'photo'  \(it has: image, class\)"),
        ("names", {}, {"num_classes": 3}, r"row \d+: its target is '[abc]', which is no label 0, 1"),
        ("pictures", {}, {"num_rows": [1]}, "data.num_rows: the index tells"),
    ],
)
def test_faults_are_told(written, kind, more, settings, message):
    def make():
        data = ready(written(kind, **more), **settings)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            epoch(loader)

    with pytest.raises(UserError, match=message):
        make()


def test_damaged_folders_are_told(written, tmp_path):
    place = tmp_path / "copy"
    place.mkdir()
    for file in written("amounts").iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    chunk, index = place / "chunk-0-1.bin", place / "index.json"
    whole, told = chunk.read_bytes(), index.read_text()
    chunk.write_bytes(whole[:500])
    with pytest.raises(UserError, match=r"chunk-0-1\.bin is cut off: 500 bytes of"):
        ready(place, **AMOUNTS)
    chunk.write_bytes(whole)
    (place / "chunk-9-9.bin").write_bytes(whole)
    with pytest.raises(UserError, match=r"index\.json does not tell of chunk-9-9\.bin"):
        ready(place, **AMOUNTS)
    os.remove(place / "chunk-9-9.bin")
    compressed = json.loads(told)
    compressed["config"]["compression"] = "zstd"
    index.write_text(json.dumps(compressed))
    with pytest.raises(UserError, match="is written with compression=zstd"):
        ready(place, **AMOUNTS)
    for text in ("{}", "nothing", ""):
        index.write_text(text)
        with pytest.raises(UserError, match=r"has no index\.json as litdata\.optimize writes it"):
            ready(place, **AMOUNTS)


RUN = ("data=litdata", "data.target=class", "model=cnn", "data.batch_size=16", "trainer.max_epochs=3", "logger=[]")
RUN = (*RUN, "optim.lr=0.01", "data.shuffle_buffer=64", "callbacks.resume_points.every_n_steps=3")


def test_a_run_that_is_killed_goes_on_with_the_same_bits(written, tmp_path):
    run = assert_killed_goes_on(tmp_path, [*RUN, f"data.path={written('pictures')}"])
    assert json.loads((run / "results.json").read_text())["metrics"]["test"]["accuracy/test"] > 0.9
    from iolaus.predict import predict

    predict(run, [str(written("pictures") / "chunk-0-1.bin")], [], "best", tmp_path / "out.jsonl", [])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (
        np.mean([r["prediction"] == str(label) for r, label in zip(rows, known()["LABELS"][50:100], strict=True)]) > 0.9
    )


def test_two_processes(written, tmp_path):
    assert_two_train_as_one(tmp_path, [*RUN, f"data.path={written('pictures')}", "model=mlp", "optim.lr=0.001"])


def test_memory_does_not_grow_with_the_data(written):
    """590 MB are read with half as much above what is there before: a chunk in memory, and what learning of the samples takes."""
    place = written("large", 9_000, chunk_size=500)
    assert sum(file.stat().st_size for file in place.glob("*.bin")) > 589e6

    def read():
        data = ready(place, target="y", input_kind="table", shuffle_buffer=256, batch_size=32, num_classes=2)
        return sum(len(x) for loader in (data.train_dataloader(), data.val_dataloader()) for x, _ in loader)

    count, more = memory_of(read)
    assert count == 7_200  # of 9,000, without those of the test split
    assert more < 300e6
