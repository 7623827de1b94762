"""Files and rows that cannot be read: the others are predicted and trained on, in their order, and the bad ones listed."""

import csv
import io
import json
import logging
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from iolaus import predict as prediction
from iolaus.data.bad_files import list_left_out
from iolaus.data.csv_table import CsvTable
from iolaus.data.distance_matrix import DistanceMatrix
from iolaus.data.image_folder import ImageFolder
from iolaus.data.npz import Npz
from iolaus.data.scikit_learn import ScikitLearn
from iolaus.data.speech_folder import SpeechFolder
from iolaus.errors import UserError
from iolaus.predict import Failure, of_file, predicted

IMAGES = {"input_kind": "image", "input_shape": [1, 4, 4], "target_kind": "class", "standardize": False}
SOUNDS = {
    "input_kind": "audio",
    "input_shape": None,
    "target_kind": "transcript",
    "frame_s": 0.01,
    "standardize": False,
}


class Mean:
    """In place of a task: the mean of each item; it refuses items of ones."""

    def predict(self, items, data):
        tensors = [torch.as_tensor(item[-1] if isinstance(item, tuple) else item).double() for item in items]
        if any(bool((tensor == 1).all()) for tensor in tensors):
            raise UserError("predict: ones are refused")
        return [{"mean": float(tensor.mean())} for tensor in tensors]


def is_failure(rows):
    return [isinstance(row, Failure) for row in rows]


def pictures(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(start, start + count):
        Image.new("L", (4, 4), 10 + 3 * k).save(folder / f"{k:02}.png")


def break_files(*files):
    """Each in another way: cut off, empty, no image at all."""
    for way, file in enumerate(files):
        file.write_bytes((file.read_bytes()[:-30], b"", b"this is a text")[way % 3])


@pytest.fixture
def images(tmp_path):
    pictures(tmp_path / "new", 20)
    break_files(*(tmp_path / "new" / f"{k:02}.png" for k in (0, 7, 19)))
    return tmp_path / "new"


def rows_of(files, strict=False):
    data = ImageFolder("gone", (4, 4), 1, **IMAGES)
    return [of_file(row, file.name) for file in files for row in predicted(Mean(), data, file, strict)]


def test_of_many_pictures_the_broken_ones_are_named_in_their_places(images):
    rows = rows_of(sorted(images.iterdir()))
    assert [k for k, failed in enumerate(is_failure(rows)) if failed] == [0, 7, 19]
    assert all(f"{row.file} cannot be read as an image" in row.reason for row in rows if isinstance(row, Failure))
    assert [row for row in rows if isinstance(row, dict)] == [
        {"file": f"{k:02}.png", "mean": 10.0 + 3 * k} for k in range(20) if k not in (0, 7, 19)
    ]


def test_strict_stops_at_the_first(images):
    with pytest.raises(UserError, match=r"00.png cannot be read"):
        rows_of(sorted(images.iterdir()), strict=True)


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_an_output_file_says_why_in_a_column(images, tmp_path, ending, capsys):
    output = tmp_path / f"out{ending}"
    failures = prediction._write_file(iter(rows_of(sorted(images.iterdir()))), output)
    assert list(failures) == [0, 7, 19]
    lines = output.read_text().splitlines()
    found = pd.read_csv(output).to_dict("records") if ending == ".csv" else [json.loads(line) for line in lines]
    assert [row["file"] for row in found] == [f"{k:02}.png" for k in range(20)]
    for k, row in enumerate(found):
        if k in failures:
            assert "cannot be read" in row["error"]
            assert pd.isna(row.get("mean"))
        else:
            assert row["mean"] == 10 + 3 * k
            assert pd.isna(row.get("error"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new", output.name]
    assert "17 predictions" in capsys.readouterr().out


def test_on_the_terminal_rows_keep_their_places(images):
    place = io.StringIO()
    count, failures = prediction._write(iter(rows_of(sorted(images.iterdir()))), place, "csv")
    rows = list(csv.DictReader(place.getvalue().splitlines()))
    assert (count, len(failures)) == (17, 3)
    assert [row["file"] for row in rows] == [f"{k:02}.png" for k in range(20)]
    assert [k for k, row in enumerate(rows) if not row["mean"]] == [0, 7, 19]


def test_without_a_prediction_there_is_no_output(images, tmp_path):
    broken = [images / "00.png", images / "07.png"]
    with pytest.raises(UserError, match=r"(?s)^not predicted: 2, which could not be read\n.*00.png.*\n.*07.png"):
        prediction._write_file(iter(rows_of(broken)), tmp_path / "out.csv")
    with pytest.raises(UserError, match=r"^.*00.png cannot be read as an image: [^\n]*$"):
        prediction._write_file(iter(rows_of(broken[:1])), tmp_path / "out.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_of_many_failures_the_terminal_lists_some():
    lines = prediction._summary([Failure(f"reason {k}", f"{k}.png") for k in range(30)]).splitlines()
    assert lines[:2] == ["not predicted: 30, which could not be read", "0.png: reason 0"]
    assert lines[-1] == "and 10 more"
    assert len(lines) == 22


def of_text(source, tmp_path, content):
    file = tmp_path / source
    file.write_text(content)
    return file


def a_table(tmp_path):
    file = of_text(
        "train.csv", tmp_path, "a,colour,y\n" + "".join(f"{k},{'red' if k % 2 else 'blue'},{k}\n" for k in range(20))
    )
    data = CsvTable(str(file), "y", input_kind="table", input_shape=None, target_kind="real")
    data.setup()
    lines = [f"{k},blue" for k in range(300)]
    for k in (0, 3, 4, 255, 256, 299):
        lines[k] = ("x,blue", ",blue")[k % 2]
    return (
        data,
        of_text("new.csv", tmp_path, "a,colour\n" + "\n".join(lines)),
        300,
        {0, 3, 4, 255, 256, 299},
        "new.csv line 2, ",
    )


def some_arrays(tmp_path):
    inputs = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=inputs, y=np.arange(300) % 2)
    data = Npz(str(tmp_path / "a.npz"), "x", "y", input_kind="table", input_shape=[3], target_kind="class")
    data.setup()
    inputs[[2, 299], 1] = np.nan, np.inf
    np.savez(tmp_path / "new.npz", x=inputs)
    return data, tmp_path / "new.npz", 300, {2, 299}, "row 2 of 'x' has a value that is NaN"


def lines_of_numbers(tmp_path):
    data = ScikitLearn("iris", input_kind="table", input_shape=[4], target_kind="class", num_classes=3)
    data.setup()
    lines = ["1,2,3,4"] * 6
    lines[1], lines[4] = "1,2,3", "1,2,x,4"
    return data, of_text("new.txt", tmp_path, "\n".join(lines)), 6, {1, 4}, "line 2: has 3 values"


def distances_of_points(tmp_path):
    names = "abcd"
    matrix = [[str(abs(i - j)) for j in range(4)] for i in range(4)]
    text = "\n".join([",".join(["", *names]), *(",".join([n, *row]) for n, row in zip(names, matrix, strict=True))])
    of_text("train.csv", tmp_path, text)
    data = DistanceMatrix(str(tmp_path / "train.csv"), input_kind="point_pair", input_shape=[], target_kind="distance")
    data.setup()
    return (
        data,
        of_text("new.csv", tmp_path, ",a,b,c,d\ne,1,2,3,4\nf,1,2,x,4\ng,1,2\nh,5,6,7,8\n"),
        4,
        {1, 2},
        "new.csv line 3, column",
    )


@pytest.mark.parametrize("make", [a_table, some_arrays, lines_of_numbers, distances_of_points])
def test_of_many_rows_the_wrong_ones_are_named_in_their_places(tmp_path, make):
    data, file, count, wrong, says = make(tmp_path)
    rows = list(predicted(Mean(), data, file, strict=False))
    assert len(rows) == count
    assert {k for k, failed in enumerate(is_failure(rows)) if failed} == wrong
    assert says in next(row for row in rows if isinstance(row, Failure)).reason
    with pytest.raises(UserError, match=file.name):
        list(predicted(Mean(), data, file))


def test_categories_that_were_not_seen_are_counted_once(tmp_path):
    data, file, _, _, _ = a_table(tmp_path)
    file.write_text(file.read_text().replace("7,blue", "7,pink"))
    list(predicted(Mean(), data, file, strict=False))
    assert "pink" in data.unseen._found["colour"].values
    assert data.unseen._found["colour"].rows == file.read_text().count("pink")


def test_a_table_without_a_column_is_one_failure(tmp_path):
    data, _, _, _, _ = a_table(tmp_path)
    (row,) = predicted(Mean(), data, of_text("other.csv", tmp_path, "b\n1\n2\n"), strict=False)
    assert "has no column 'a'" in row.reason


def test_what_the_task_refuses_is_found_one_by_one(tmp_path):
    data, _, _, _, _ = lines_of_numbers(tmp_path)
    file = of_text("ones.txt", tmp_path, "2,2,2,2\n1,1,1,1\n3,3,3,3\nx,1,1,1\n")
    rows = list(predicted(Mean(), data, file, strict=False))
    assert rows == [
        {"mean": 2.0},
        Failure("ones are refused"),
        {"mean": 3.0},
        Failure(f"{file} line 4: 'x' is not a number"),
    ]


def test_sounds(tmp_path):
    for name in ("a", "b", "c"):
        wavfile.write(tmp_path / f"{name}.wav", 8_000, np.full(100, 7, np.int16))
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    data = SpeechFolder("gone", characters="ab", **SOUNDS)
    rows = [row for file in sorted(tmp_path.iterdir()) for row in predicted(Mean(), data, file, strict=False)]
    assert is_failure(rows) == [False, True, False]
    assert "b.wav cannot be read as a WAV file" in rows[1].reason


# training


def image_data(path, **settings):
    data = ImageFolder(str(path), (4, 4), 1, **IMAGES, **settings)
    data.setup()
    return data


@pytest.fixture
def folders(tmp_path):
    """Two classes; in `whole` all files can be read, in `broken` others beside them cannot."""
    for name, start in (("cats", 0), ("dogs", 40)):
        pictures(tmp_path / "whole" / name, 20, start)
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    bad = []
    for name in ("cats", "dogs"):
        for k in ("000", "05b", "99"):
            shutil.copy(
                tmp_path / "broken" / name / f"{'10' if name == 'cats' else '50'}.png",
                tmp_path / "broken" / name / f"{k}.png",
            )
            bad.append(tmp_path / "broken" / name / f"{k}.png")
    break_files(*bad)
    return tmp_path


@pytest.mark.parametrize("in_memory", [True, False])
def test_splits_depend_on_the_files_that_can_be_read_alone(folders, in_memory):
    whole, skipped = (
        image_data(folders / "whole"),
        image_data(folders / "broken", bad_files="skip", in_memory=in_memory),
    )
    for split in ("train", "val", "test"):
        assert torch.equal(whole.rows[split], skipped.rows[split])
        pairs = [[data.datasets[split][int(row)] for row in data.rows[split]] for data in (whole, skipped)]
        assert all(torch.equal(a[0], b[0]) and int(a[1]) == int(b[1]) for a, b in zip(*pairs, strict=True))
    assert skipped.warnings[0] == "data.bad_files=skip: 6 of 46 images cannot be read and are left out"
    assert [line.partition(" cannot be read")[0].rpartition("/")[2] for line in skipped.warnings[1:]] == [
        *("000.png", "05b.png", "99.png") * 2
    ]


def test_without_the_setting_the_first_file_is_an_error(folders):
    with pytest.raises(UserError, match=r"data.path: .*000.png cannot be read as an image"):
        image_data(folders / "broken")


def test_a_class_that_lost_all_files_is_refused(folders):
    for file in (folders / "whole" / "dogs").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"data.bad_files: no file of class 'dogs' in .*whole can be read"):
        image_data(folders / "whole", bad_files="skip")


def test_of_many_bad_files_the_log_lists_all(caplog):
    with caplog.at_level(logging.WARNING):
        lines = list_left_out([f"{k}.png is bad" for k in range(25)], 100)
    assert lines[0] == "data.bad_files=skip: 25 of 100 files cannot be read and are left out"
    assert len(lines) == 22
    assert lines[-1] == "and 5 more, which train.log lists"
    logged = [record for record in caplog.records if record.is_file_only]
    assert [record.getMessage() for record in logged] == [f"data: {k}.png is bad" for k in range(20, 25)]
    assert list_left_out([], 100) == []


def recordings(folder, names):
    folder.mkdir()
    for k, name in enumerate(names):
        wavfile.write(folder / f"{name}.wav", 8_000, np.full(4_000, k, np.int16))
    return folder


def speech(folder, lines, **settings):
    (folder / "transcripts.csv").write_text("file,text\n" + "\n".join(f"{name}.wav,ab" for name in lines))
    data = SpeechFolder(str(folder), **SOUNDS, **settings)
    data.setup()
    return data


@pytest.mark.parametrize("in_memory", [True, False])
def test_recordings_that_are_missing_or_broken_are_left_out(tmp_path, in_memory):
    names = [f"s{k:02}" for k in range(20)]
    whole = speech(recordings(tmp_path / "whole", names), names)
    folder = recordings(tmp_path / "broken", names)
    (folder / "cut.wav").write_bytes((folder / "s00.wav").read_bytes()[:20])
    lines = ["gone", *names[:7], "cut", *names[7:]]
    skipped = speech(folder, lines, bad_files="skip", in_memory=in_memory)
    for split in ("train", "val", "test"):
        pairs = [data.samples(split, data.rows[split].tolist()) for data in (whole, skipped)]
        assert len(pairs[0]) == len(pairs[1]) > 0
        assert all(torch.equal(x, y) for a, b in zip(*pairs, strict=True) for x, y in zip(a, b, strict=True))
    assert skipped.warnings[0] == "data.bad_files=skip: 2 of 22 recordings cannot be read and are left out"
    assert "transcripts.csv line 2: there is no file 'gone.wav'" in skipped.warnings[1]
    assert "transcripts.csv line 10: " in skipped.warnings[2]
    with pytest.raises(UserError, match=r"there is no file 'gone.wav'"):
        speech(folder, lines)
    with pytest.raises(UserError, match=r"data.bad_files: none of the 1 files of .* can be read"):
        speech(folder, ["cut"], bad_files="skip")
