"""Cells of tables against pandas: gaps, numbers, notations, dates, and whole files with random content."""

import csv
import io
import math

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iolaus.data.cells import GAP_WORDS, AmbiguousNumbers, Notation, find_notation, is_date, is_date_as_number
from iolaus.data.columns import classify, identifies_rows
from iolaus.data.text_table import TextTable


def test_gap_words_are_those_of_pandas():
    from pandas._libs.parsers import STR_NA_VALUES

    assert GAP_WORDS == STR_NA_VALUES


@pytest.mark.parametrize(
    ("cells", "settings", "numbers"),
    [
        (["18.5%", "-2%", ""], {}, [18.5, -2, math.nan]),
        (["$18,500.00", "-$5", "$1"], {}, [18500, -5, 1]),
        (["12 €", "7,50 €"], {}, [12, 7.5]),
        (["EUR 5", "EUR 1.234,5"], {}, [5, 1234.5]),
        (["18,5", "21,0", "-,5"], {}, [18.5, 21, -0.5]),
        (["1.234,5", "12"], {}, [1234.5, 12]),
        (["1 234,5", "1\u00a0000,0"], {}, [1234.5, 1000]),
        (["1'234.5", "999"], {}, [1234.5, 999]),
        (["1,234", "12,345,678"], {}, [1234, 12345678]),
        (["18,500", "19,000"], {"thousands": ","}, [18500, 19000]),
        (["18,500", "19,000"], {"decimal": ","}, [18.5, 19]),
        (["\u22125", "3e2"], {}, [-5, 300]),
        (["1.234", "2.5"], {}, [1.234, 2.5]),  # as pandas reads it
    ],
)
def test_notations_of_numbers(cells, settings, numbers):
    notation = find_notation([cell for cell in cells if cell], **settings)
    found = [notation.parse(cell) for cell in cells]
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(found, numbers, strict=True))


@pytest.mark.parametrize(
    "cells",
    [
        ["$5", "€6"],
        ["0.5", "18%"],
        ["5 kg", "6 kg"],
        ["Person 0", "Person 1"],
        ["1,23,4", "5"],
        ["1e999", "1"],
        ["0x1F", "2"],
    ],
)
def test_texts_that_are_no_numbers(cells):
    assert find_notation(cells) is None


def test_numbers_that_can_be_read_in_two_ways_are_not_guessed():
    with pytest.raises(AmbiguousNumbers) as caught:
        find_notation(["18,500", "19,000"])
    assert sorted(caught.value.readings.values()) == [18.5, 18500]


@settings(deadline=None, max_examples=200)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["%.3f", "%g", "%r", "%e"]))
def test_plain_numbers_are_read_as_pandas_reads_them(value, form):
    text = form % value
    assert Notation().parse(text) == pytest.approx(
        float(pd.read_csv(io.StringIO(f"x\n{text}\n")).x[0]), rel=1e-12, abs=1e-300
    )


@settings(deadline=None, max_examples=100)
@given(st.datetimes(pd.Timestamp("1901-01-01"), pd.Timestamp("2099-12-31")))
def test_dates_in_common_formats_are_dates(moment):
    forms = (
        "%Y-%m-%d",
        "%d.%m.%Y",
        "%m/%d/%y",
        "%d %b %Y",
        "%B %d, %Y",
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%d %H:%M:%S.%f",
        "%d-%b-%y",
        "%H:%M",
    )
    for form in (
        *forms,
        "%a, %d %b %Y %H:%M:%S +0000",
        "%m/%d/%Y %I:%M %p",
        "%Y/%m/%d",
        "%b %Y",
        "%b-%y",
        "%d%b%Y",
        "%m/%Y",
        "%G-W%V",
    ):
        assert is_date(moment.strftime(form)), moment.strftime(form)
    assert is_date_as_number(float(moment.strftime("%Y%m%d")))
    quarter = pd.Period(moment, freq="Q")
    assert is_date(str(quarter))
    assert is_date(quarter.strftime("Q%q %Y"))


NO_DATES = ("May", "2024", "1.2.3", "18-25", "3-4", "2024-13-01", "40/50/2000", "a1", "12:75:99 x")
NO_DATES += ("w12", "q3", "Q5 2024", "13/2024", "5.2000", "Mar-tin", "12oct")


@pytest.mark.parametrize("text", NO_DATES)
def test_other_texts_are_no_dates(text):
    assert not is_date(text)


@pytest.mark.parametrize(
    ("name", "cells", "expected"),
    [
        ("id", ["7", "3", "5"], True),
        ("customer_id", ["7", "3", "5"], True),
        ("PassengerId", ["1", "2", "3"], True),
        ("rownames", ["Mazda", "Fiat", "Volvo"], True),
        ("obs", ["1", "2", "3"], True),
        ("obs", ["1", "2", "4"], False),
        ("id", ["7", "7", "5"], False),
        ("id", ["7.5", "3.5", "5.5"], False),
        ("width", ["1", "2", "3"], False),
        ("acid", ["1", "2", "3"], False),
        ("paid", ["1", "2", "3"], False),
    ],
)
def test_columns_that_identify_rows(name, cells, expected):
    assert identifies_rows(name, cells) is expected


TEXTS = st.sampled_from(["none", "small", "big, old", 'the "best"', "two\nlines", "ü", "5 kg", "a", "?", "no"])
COLUMNS = {
    "number": st.one_of(st.none(), st.floats(-1e12, 1e12), st.integers(-99, 99)),
    "text": st.one_of(st.none(), TEXTS),
}


@st.composite
def tables(draw):
    kinds = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=2, max_size=4))
    count = draw(st.integers(2, 12))
    return pd.DataFrame(
        {f"c{i}": draw(st.lists(COLUMNS[k], min_size=count, max_size=count)) for i, k in enumerate(kinds)}, dtype=object
    )


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tables(),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(sorted(GAP_WORDS)),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_random_tables_are_read_as_pandas_reads_them(tmp_path, table, separator, gap, quoting, newline):
    """Kinds, values and gaps, whatever the separator, quotes, word for a gap and line ends."""
    path = tmp_path / "t.csv"
    table.to_csv(path, index=False, sep=separator, na_rep=gap, quoting=quoting, lineterminator=newline)
    theirs = pd.read_csv(path, sep=separator)
    ours = TextTable(str(path), separator)
    rows = [cells for _, cells in ours.rows()]
    assert ours.names == list(theirs.columns)
    assert len(rows) == len(theirs)
    for position, name in enumerate(ours.names):
        cells = [row[position] for row in rows]
        assert [cell == "" for cell in cells] == theirs[name].isna().tolist()
        known = [cell for cell in cells if cell]
        if not known:
            continue
        kind = classify(known)
        is_number = pd.api.types.is_numeric_dtype(theirs[name])
        assert (kind.kind == "number") == is_number
        if is_number:
            assert [kind.notation.parse(cell) for cell in known] == pytest.approx(
                theirs[name].dropna().tolist(), rel=1e-12
            )
        else:
            assert [text.replace("\r\n", "\n") for text in known] == [
                str(v).replace("\r\n", "\n") for v in theirs[name].dropna()
            ]
