"""Overrides that we print: pasted into a shell, they are read back as the values that they were made of."""

import doctest
import math
import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from iolaus import overrides
from iolaus.overrides import override_text, removal_text

ODD = [
    *("owner, name", "a (b)", "100 %", "a=b", 'say "so"', "it's", "true", "null", "NaN", "inf", "007", "1e5", "-1", ""),
    *("Größe", "身高", "~/f.csv", "a:b", "a;b", "a|b", "$HOME", "${seed}", r"\${seed}", "a\\", 'a\\"', "#1", "a\tb", "a\nb"),
    *("!x", "`x`", "x*", "{a}", "[a]", "@x", "a  b ", " ", "1_000", "+x", "?", "???x", "a&b", ">x", r"C:\new\"x"),
]  # fmt: skip


def read(text: str, words: list[str] | None = None):
    """The value of an override after a shell, Hydra's parser and OmegaConf."""
    (word,) = words or shlex.split(text)
    override = OverridesParser.create().parse_override(word)
    config = OmegaConf.create({"data": {"drop": None}})
    OmegaConf.update(config, override.key_or_group, override.value())
    return OmegaConf.to_container(config, resolve=True)["data"]["drop"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_come_back(name):
    assert read(override_text("data.drop", name)) == name
    assert read(override_text("data.drop", [name, "id"])) == [name, "id"]


def test_a_real_shell_reads_the_same_word():
    words = [override_text("data.drop", [name]) for name in ODD]
    shown = subprocess.run(
        ["bash", "-c", "printf '%s\\0' " + " ".join(words)], capture_output=True, text=True, check=True
    ).stdout
    for name, word in zip(ODD, shown.split("\0")[:-1], strict=True):
        assert read("", [word]) == [name]


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
keys = st.from_regex(r"\A[a-z_][a-z0-9_]{0,5}\Z").filter(lambda key: key not in ("true", "false", "null", "nan", "inf"))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2))


@settings(max_examples=60, deadline=None)
@given(values)
def test_any_value_comes_back(value):
    if not (isinstance(value, str) and value == "???"):  # which is a missing value to OmegaConf
        assert read(override_text("data.drop", value)) == value


def test_it_stays_readable_where_nothing_is_odd():
    assert override_text("trainer.max_epochs", 100) == "trainer.max_epochs=100"
    assert override_text("optim.lr", 1e-5) == "optim.lr=1e-05"
    assert override_text("data.path", "rows/my-file.csv") == "data.path=rows/my-file.csv"
    assert override_text("data.drop", ["id", "owner, name"]) == "'data.drop=[id,\"owner, name\"]'"
    assert removal_text("callbacks.swa") == "'~callbacks.swa'"
    assert math.isnan(read(override_text("data.drop", math.nan)))
    assert doctest.testmod(overrides).failed == 0


@pytest.mark.parametrize("key", ["true", "a b", "é", 'a"b', ""])
def test_a_key_that_has_no_text_is_refused(key):
    with pytest.raises(ValueError, match="cannot express"):
        override_text("data.drop", {key: 1})
