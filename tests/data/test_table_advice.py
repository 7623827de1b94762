"""Tables as people have them: read right, or refused with advice that works when it is pasted."""

import re
import shlex

import pytest
import torch
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser

from iolaus.data.csv_table import CsvTable
from iolaus.data.sniff import told_by_file
from iolaus.errors import UserError

TABLES = ROOT / "tests" / "data" / "tables"
ADVICE = re.compile(r"""(?<!\S)(?='?data\.\w+=|task=)(?:'[^']*'|"[^"]*"|[^\s'";,])+""")
VALUES = [18.5, 21, 20.5, 21, 16.5, 18.5]


def read(path, target, **given):
    """What a command with these settings reads: the kind as it is found before the run, the data as the run has them."""
    settings = {"separator": ",", **given}
    task = settings.pop("task", None)
    kind = {"classification": "class", "regression": "real"}.get(task)
    kind = kind or told_by_file({"path": str(path), "target": target, **settings})["target_kind"]
    data = CsvTable(str(path), target, target_kind=kind, input_kind="table", input_shape=None, **settings)
    data.setup()
    return data


def advised(message):
    """The settings that a message advises, one at a time, as a shell and Hydra read them."""
    for text in ADVICE.findall(message):
        override = OverridesParser.create().parse_override(*shlex.split(text))
        yield {override.key_or_group.removeprefix("data."): override.value()}


def written(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "target", "settings"),
    [
        ("percent", "share", {}),
        ("currency", "price", {}),
        ("write_table", "y", {}),
        ("target_NA", "mpg", {"missing": "drop"}),
        ("target_dash", "mpg", {"missing": "drop", "na": ["-"]}),
    ],
)
def test_numbers_stay_numbers(name, target, settings):
    data = read(TABLES / f"{name}.csv", target, **settings)
    assert data.target_kind == "real"
    scale = 1000 if name == "currency" else 1
    assert data.datasets["train"].tensors[1][:6, 0].tolist() == [value * scale for value in VALUES]


def test_decimal_commas_are_numbers():
    data = read(TABLES / "decimal_comma_feature.csv", "y", separator="semicolon")
    assert data.datasets["train"].tensors[0][:6, 0].tolist() == VALUES
    assert data.describe_inputs() == ["numbers (1): x"]


@pytest.mark.parametrize("name", ["trailing_comma", "blank_headers"])
def test_empty_columns_without_a_name_are_left_out(name):
    data = read(TABLES / f"{name}.csv", "y")
    assert data.datasets["train"].tensors[0][:6, 0].tolist() == VALUES
    assert not data.warnings


def test_a_column_that_numbers_the_rows_is_left_out_unless_it_is_kept():
    data = read(TABLES / "rownames_sorted.csv", "y")
    assert list(data.encoding) == ["a"]
    (warning,) = data.warnings
    assert "'rownames' numbers or names the rows and is left out" in warning
    (keep,) = advised(warning)
    assert list(read(TABLES / "rownames_sorted.csv", "y", **keep).encoding) == ["rownames", "a"]
    assert list(read(TABLES / "rownames_sorted.csv", "y", columns=["rownames"]).encoding) == ["rownames"]


def test_a_category_called_none_is_a_category(tmp_path):
    rows = "".join(f"{('none', 'small', 'big')[i % 3]},{i % 2}\n" for i in range(30))
    data = read(written(tmp_path, "size,y\n" + rows), "y")
    assert data.encoding["size"]["categories"] == ["big", "none", "small"]


def test_a_level_called_None_is_a_gap_of_which_the_message_says_so(tmp_path):
    rows = "".join(f"{('None', 'Some', 'Marked')[i % 3]},{i % 2}\n" for i in range(30))
    path = written(tmp_path, "improved,y\n" + rows)
    with pytest.raises(
        UserError, match=r"'None' in 10 cells means an empty one; data\.keep_default_na=false makes it a text"
    ):
        read(path, "y")
    assert "'None' in 10 cells" in read(path, "y", missing="drop").gaps[0]
    assert read(path, "y", keep_default_na=False).encoding["improved"]["categories"] == ["Marked", "None", "Some"]


def test_texts_that_mean_a_gap_can_be_added(tmp_path):
    rows = "".join(f"{'?' if i == 3 else i / 2},{i % 2}\n" for i in range(30))
    data = read(written(tmp_path, "x,y\n" + rows), "y", na=["?"], missing="drop")
    assert len(data.datasets["train"]) == 29
    assert "x 1; 1 of 30 rows are left out" in data.gaps[0]


def test_the_line_of_a_cell_counts_lines_and_not_rows():
    with pytest.raises(UserError, match="line 6, column 'x': 'oops' is not a number"):
        read(TABLES / "line_number.csv", "y")


DAYS = [f"{i % 28 + 1:02}.{i % 12 + 1:02}.2024" for i in range(40)]
ODD = [
    "owner, name", "a b", "(x)", "50%", "k=v", "true", "null", "3", "ü", 'the "best"', "it's", "[1]", "a:b", "$x", "~", "{}", "\\", "1e3",
]  # fmt: skip


def odd_table(name):
    quoted = '"' + name.replace('"', '""') + '"'
    return f"{quoted},x,y\n" + "".join(f"Person {i},{i / 2},{i % 2}\n" for i in range(40))


CASES = [
    *((f"{name}.csv", "y", {}) for name in ("title_line", "total_row", "line_number", "drop_name")),
    ("target_dash.csv", "mpg", {"missing": "drop"}),
    *((odd_table(name), "y", {}) for name in ODD),
    ("x,y\n" + "".join(f'"{18 + i},500",{i % 2}\n' for i in range(30)), "y", {}),
    ("x,y\n" + "".join(f'{i},"{18 + i},500"\n' for i in range(30)), "y", {}),
    ("x;z;y\n" + "".join(f"{i},5;1.{i:03};{i % 2}\n" for i in range(30)), "y", {"separator": ";"}),
    ("when,x,y\n" + "".join(f"{day},{i},{i % 2}\n" for i, day in enumerate(DAYS)), "y", {}),
    ("x,y\n" + "".join(f"{i / 2},{i % 2}\n" for i in range(30)) + "1,2,3,4\n", "y", {"task": "classification"}),
    ("x;y\n" + "1;0\n2;1\n" * 10, "y", {}),
    ("about, 2024\n\nx,y\n" + "".join(f"{i / 2},{i % 2}\n" for i in range(30)), "y", {}),
    (
        "x,y\n" + "".join(f"{'n.a.' if i == 4 else i / 2},{i % 2}\n" for i in range(30)),
        "y",
        {"missing": "drop", "na": ["-"]},
    ),
    ("x,y\n" + "".join(f"{'' if i == 4 else i / 2},{i % 2}\n" for i in range(30)), "y", {}),
]


@pytest.mark.parametrize(("table", "target", "settings"), CASES, ids=range(len(CASES)))
def test_advice_works_when_it_is_pasted(tmp_path, table, target, settings):
    path = TABLES / table if table.endswith(".csv") else written(tmp_path, table)
    with pytest.raises(UserError) as caught:
        read(path, target, **settings)
    advice = [change for change in advised(str(caught.value)) if "task" not in change]
    assert advice, str(caught.value)
    outcomes = [outcome(path, target, **settings | change) for change in advice]
    assert "read" in outcomes, (str(caught.value), outcomes)
    others = [text for text in outcomes if text != "read"]  # another question than the one that was answered
    assert all(re.search(r"the cell is empty|no column is left", text) for text in others), (advice, others)


def outcome(path, target, **settings):
    try:
        read(path, target, **settings)
    except UserError as error:
        return str(error)
    return "read"


def test_texts_among_numbers_are_no_classes(tmp_path):
    rows = "".join(f"{i},{i / 3:.2f} kg\n" for i in range(60))
    with pytest.raises(UserError, match=r"'0\.00 kg' is like a number and is none, as 60 different texts are"):
        read(written(tmp_path, "x,y\n" + rows), "y")


def test_a_target_that_is_neither_classes_nor_numbers_is_sent_in_no_circle(tmp_path):
    path = written(tmp_path, "x,y\n" + "".join(f"{i},name {i}\n" for i in range(40)))
    with pytest.raises(UserError, match="they repeat too little for classes and are no numbers; choose another target"):
        read(path, "y")


@pytest.mark.parametrize("column", ["when", "y"])
@pytest.mark.parametrize(
    "form", ["{y}-{m:02}-{d:02}", "{d}.{m}.{y}", "{m}/{d}/{y} 10:{d:02} PM", "{y}-{m:02}-{d:02}T00:00:00Z"]
)
def test_dates_are_refused_as_dates(tmp_path, column, form):
    days = [form.format(y=2020 + i % 3, m=i % 12 + 1, d=i % 28 + 1) for i in range(60)]
    rows = [f"{i},{day},{i % 2}\n" for i, day in enumerate(days)]
    names = "x,when,y\n" if column == "when" else "x,y,when\n"
    with pytest.raises(UserError, match=f"line 2, column '{column}': .* is a date or a time, which is not read yet"):
        read(written(tmp_path, names + "".join(rows)), "y")


def test_dates_as_whole_numbers_are_warned_of(tmp_path):
    rows = "".join(f"2024{i % 12 + 1:02}{i % 28 + 1:02},{i % 2}\n" for i in range(60))
    data = read(written(tmp_path, "when,y\n" + rows), "y")
    assert "column 'when' holds dates as whole numbers, as 20240101, and is read as numbers" in data.warnings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('x,y\n1,2\n"3,4\n5,6\n', "line 3: a cell begins with a quotation mark"),
        ("x,y\n1,2\n3,4,5,6\n", "line 3 has 4 cells, and the header has 2"),
        ("x,x\n1,2\n", "two columns named 'x'"),
        (b"x,y\n1,\xe9\n", "set data.encoding, as in latin-1"),
        ("x,y\n", "no rows"),
        ("\n\n", "is empty"),
        ("x;z\n1;2\n", "set data.separator=semicolon"),
        ("x,y\n" + "$5,1\n€6,2\n" * 12, "2 different"),
    ],
)  # fmt: skip
def test_files_that_are_no_table_are_refused(tmp_path, text, message):
    if "different" in message:  # two currencies are two categories, said so
        assert read(written(tmp_path, text), "y").describe_inputs() == ["categories (1), with their levels: x (2)"]
        return
    with pytest.raises(UserError) as caught:
        read(written(tmp_path, text), "y")
    assert message in str(caught.value)


def test_short_rows_end_with_empty_cells(tmp_path):
    text = "x,z,y\n" + "".join(f"{i},{i},{i % 2}\n" for i in range(30))
    with pytest.raises(UserError, match="line 32, column 'z': the cell is empty"):
        read(written(tmp_path, text + "5\n"), "y")


def test_other_encodings(tmp_path):
    rows = "".join(f"{('é', 'è')[i % 2]},{i % 2}\n" for i in range(30))
    data = read(written(tmp_path, ("x,y\n" + rows).encode("cp1252")), "y", encoding="cp1252")
    assert data.encoding["x"]["categories"] == ["è", "é"]


def test_what_was_understood_is_said(tmp_path):
    rows = "".join(f"{i},{i / 2}%,{('red', '')[i % 2]},,{i * 0.7}\n" for i in range(40))
    data = read(written(tmp_path, "id,share,colour,nothing,y\n" + rows), "y", missing="mean")
    assert data.describe()[0].startswith("target: regression, ")
    assert data.describe()[1:] == [
        "numbers (1): share in %",
        "categories (1), with their levels: colour (1)",
        "left out: id (identifies the rows), nothing (empty)",
        f"empty cells of {tmp_path}/t.csv: colour 20; 0 of 40 rows are left out, other cells filled by the mean",
        "rows: train 28, val 4, test 8",
    ]
    assert data.warnings[1] == "column 'nothing' has no value and is left out"


def test_scores_that_mean_little_are_warned_of(tmp_path):
    constant = read(written(tmp_path, "x,y\n" + "".join(f"{i},3.5\n" for i in range(40))), "y", task="regression")
    assert constant.warnings == ["the target is 3.5 in every training row, so any model scores well"]
    copied = "".join(f"{i * 7 % 40},{i * 7 % 40 * 2.54 + 1},{i % 5}\n" for i in range(40))
    same = read(written(tmp_path, "x,y,z\n" + copied), "y")
    assert same.warnings == ["column 'x' alone gives the target, so the score says nothing about the other columns"]
    labels = "".join(f"{('lo', 'hi', 'mid')[i % 3]},{i % 3},{i % 7}\n" for i in range(60))
    same = read(written(tmp_path, "x,y,z\n" + labels), "y")
    assert same.warnings == ["column 'x' alone gives the target, so the score says nothing about the other columns"]
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand(60, 500, generator=generator)
    rows = "".join(",".join(f"{v:.3f}" for v in row) + f",{i % 2}\n" for i, row in enumerate(wide.tolist()))
    found = read(written(tmp_path, ",".join(f"f{i}" for i in range(500)) + ",y\n" + rows), "y")
    assert found.warnings == [
        "500 features for 42 training rows: a model can fit these by chance; trust the test score alone"
    ]


def test_new_rows_are_read_as_the_training_was(tmp_path):
    rows = "".join(f"{18 + i},5%;{i % 2}\n" for i in range(30))
    data = read(written(tmp_path, "x;y\n" + rows), "y", separator=";")
    other = CsvTable("gone.csv", "y", separator=";", target_kind="class", input_kind="table", input_shape=None)
    other.load_state_dict(data.state_dict())
    assert [item[0].item() for item in other.new_items(written(tmp_path, "x\n7,5%\n-1%\n", "new.csv"))] == [7.5, -1]
    assert [item[0].item() for item in other.new_items("7,25%")] == [7.25]
    with pytest.raises(UserError, match="'0,185' is not a number in %"):
        list(other.new_items(written(tmp_path, "x\n0,185\n", "new.csv")))


def test_runs_of_earlier_versions_keep_their_words_for_gaps(tmp_path):
    data = read(written(tmp_path, "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(30))), "y", missing="mean")
    state = data.state_dict()
    earlier = {
        "encoding": {"x": {k: v for k, v in state["encoding"]["x"].items() if k != "notation"}},
        "class_names": ["0", "1"],
    }
    other = CsvTable("gone.csv", "y", missing="mean", target_kind="class", input_kind="table", input_shape=None)
    other.load_state_dict(earlier)
    fill = state["encoding"]["x"]["fill"]
    assert [row[0].item() for row in other.new_items(written(tmp_path, "x\n?\nnone\nNA\n2\n"))] == pytest.approx(
        [fill, fill, fill, 2]
    )


def test_a_class_that_settings_would_take_for_a_reference_is_refused(command, tmp_path):
    rows = "\n".join(f"{n},{('${a}', 'b')[n % 2]}" for n in range(40))
    (tmp_path / "t.csv").write_text(f"x,y\n{rows}\n")
    outcome = command("data=csv", "data.path=t.csv", "data.target=y", "data.keep=[x]", "trainer.max_epochs=1")
    assert outcome.code == 1
    assert "data.class_names: the data hold the name '${a}', and ${ means a reference" in outcome.text
