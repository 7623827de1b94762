"""Local files as Hugging Face's datasets reads them; runs that are killed inside an epoch go on with the same bits."""

import csv
import json

import numpy as np
import pytest
import torch
from test_training_together import assert_killed_goes_on, assert_two_train_as_one

from iolaus.errors import UserError

pytestmark = pytest.mark.slow
pytest.importorskip("datasets")
pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

from iolaus.data.hf_dataset import HfDataset  # noqa: E402

RNG = np.random.default_rng(0)
SIZES = (90, 61, 120)
KINDS = RNG.integers(0, 3, sum(SIZES))
ROWS = [
    {"id": number, "a": float(x), "b": float(y), "label": "uvw"[kind]}
    for number, (kind, x, y) in enumerate(zip(KINDS, RNG.normal(KINDS * 4, 1), RNG.normal(-KINDS * 4, 1), strict=True))
]


def write(folder, form):
    start = 0
    for shard, n in enumerate(SIZES):
        rows = ROWS[start : start + n]
        path = folder / f"part-{shard}.{form}"
        if form == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif form == "csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
        start += n


def ready(path, **settings):
    defaults = {"input_kind": "table", "input_shape": None, "target_kind": "class", "num_workers": 0, "num_streams": 4}
    data = HfDataset(str(path), "label", **defaults | settings)
    data.setup()
    return data


def epoch(loader):
    return tuple(torch.cat(parts) for parts in zip(*loader, strict=True))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_every_row_is_in_one_split(tmp_path, form):
    write(tmp_path, form)
    data = ready(tmp_path, columns=["id"], shuffle_buffer=32)
    assert data.class_names == ["u", "v", "w"]
    found = [epoch(loader) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert [len(inputs) for inputs, _ in found] == [190, 27, 54]
    ids = torch.cat([inputs[:, 0] for inputs, _ in found]).int().tolist()
    assert sorted(ids) == list(range(271))
    assert torch.cat([targets for _, targets in found]).tolist() == [KINDS[number] for number in ids]


def test_rows_that_are_said(tmp_path):
    write(tmp_path, "jsonl")
    data = ready(tmp_path, num_rows=SIZES, class_names=["u", "v", "w"], columns=["a", "b"])
    assert sum(len(rows) for rows in data.rows.values()) == 271
    with pytest.raises(UserError, match=r"data\.num_rows: has 2 numbers, and there are 3 files"):
        ready(tmp_path, num_rows=[1, 2])
    with pytest.raises(UserError, match=r"data\.num_rows: says 91 for .*part-0\.jsonl, which has 90"):
        ready(tmp_path, num_rows=[91, 61, 120])
    known = {"class_names": ["u", "v", "w"], "num_classes": 3, "columns": ["a"]}
    with pytest.raises(UserError, match=r"part-0\.jsonl ends at row 90, and should have 95"):
        ready(tmp_path, num_rows=[95, 61, 120], test_fraction=0.0, val_fraction=0.0, **known)


def test_faults_are_told(tmp_path):
    write(tmp_path, "jsonl")
    with pytest.raises(UserError, match=r"data\.drop: .*has no column 'ib'; did you mean 'b'"):
        ready(tmp_path, drop=["ib"])
    second = tmp_path / "part-1.jsonl"
    lines = second.read_text().splitlines()
    second.write_text("\n".join([*lines[:30], lines[30].replace('"a": ', '"a": null, "c": '), *lines[31:]]))
    with pytest.raises(UserError, match=r"part-1\.jsonl row 30 column 'a': the cell is empty"):
        ready(tmp_path, drop=["id"], test_fraction=0.0, val_fraction=0.0)
    second.write_text("\n".join([*lines[:30], lines[30][:20], *lines[31:]]))
    with pytest.raises(UserError, match=r"part-1\.jsonl cannot be read by datasets"):
        ready(tmp_path)


RUN = ("data=hf_dataset", "data.target=label", "data.drop=[id]", "data.batch_size=16", "trainer.max_epochs=3")
RUN = (*RUN, "logger=[]", "data.shuffle_buffer=64", "callbacks.resume_points.every_n_steps=3", "optim.lr=0.01")


def test_a_run_that_is_killed_goes_on_with_the_same_bits(tmp_path):
    (tmp_path / "files").mkdir()
    write(tmp_path / "files", "jsonl")
    run = assert_killed_goes_on(tmp_path, [*RUN, f"data.path={tmp_path}/files"])
    assert json.loads((run / "results.json").read_text())["metrics"]["test"]["accuracy/test"] > 0.9
    from iolaus.predict import predict

    predict(run, [str(tmp_path / "files" / "part-1.jsonl")], [], "best", tmp_path / "out.jsonl", [])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert np.mean([row["prediction"] == "uvw"[kind] for row, kind in zip(rows, KINDS[90:151], strict=True)]) > 0.9


def test_two_processes(tmp_path):
    (tmp_path / "files").mkdir()
    write(tmp_path / "files", "jsonl")
    assert_two_train_as_one(tmp_path, [*RUN, f"data.path={tmp_path}/files"])
