"""Pairs of sentences: tokens and back, padding, vocabularies of the training split alone; numbers in words, read back."""

import calendar
import datetime

import pytest
import torch

from iolaus.data.memory import Ragged
from iolaus.data.number_words import NumberWords, date_in_words, number_in_words, ordinal_in_words, year_in_words
from iolaus.data.tsv import TsvPairs
from iolaus.errors import UserError
from iolaus.functional.tokens import BOS, EOS, NO_TARGET, PAD

FACTS = {"input_kind": "sentence", "input_shape": None, "target_kind": "sentence", "standardize": False}
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
VALUES = {word: value for value, word in enumerate(ONES.split())}
VALUES |= {
    word: 10 * tens
    for tens, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}


def read_back(words):
    """The number that words say."""
    total = part = 0
    for word in words.split():
        if word == "hundred":
            part *= 100
        elif word == "thousand":
            total, part = total + 1000 * part, 0
        else:
            part += VALUES[word]
    return total + part


def test_numbers_in_words_can_be_read_back():
    for number in [*range(1200), *range(1000, 1_000_000, 997), 999_999]:
        assert read_back(number_in_words(number)) == number
    assert number_in_words(342_107) == "three hundred forty two thousand one hundred seven"


def test_ordinals_and_years():
    places = {1: "first", 2: "second", 3: "third", 5: "fifth", 8: "eighth", 9: "ninth", 12: "twelfth", 20: "twentieth"}
    places |= {21: "twenty first", 30: "thirtieth", 31: "thirty first", 11: "eleventh", 16: "sixteenth"}
    assert {n: ordinal_in_words(n) for n in places} == places
    years = {1800: "eighteen hundred", 1905: "nineteen oh five", 2000: "two thousand", 2006: "two thousand six"}
    years |= {1999: "nineteen ninety nine", 2010: "twenty ten", 2026: "twenty twenty six"}
    assert {y: year_in_words(y) for y in years} == years
    assert date_in_words(datetime.date(2026, 11, 24)) == "november twenty fourth twenty twenty six"


def number_words(**more):
    data = NumberWords(**({"size": 400, **FACTS, "test_fraction": 0.1, "vocab_size": None} | more))
    data.setup()
    return data


def test_pairs_are_right_and_each_stands_in_one_split():
    data = number_words()
    seen = []
    for split in ("train", "val", "test"):
        source, _, target = data.datasets[split].take(data.rows[split])
        for numbers, words in zip(source.tolist(), target.tolist(), strict=True):
            text, said = "".join(data.source_text(numbers)), data.decode(words)
            seen.append(text)
            if "-" in text:
                day = datetime.date.fromisoformat(text)
                assert said.split()[0] == calendar.month_name[day.month].lower()
                assert said.endswith(year_in_words(day.year))
            else:
                assert read_back(said) == int(text)
    assert len(set(seen)) == len(seen) == 400
    assert number_words().fingerprint() == data.fingerprint() != number_words(seed=1).fingerprint()


def test_a_batch_is_padded_to_its_longest():
    ragged = Ragged.of([[5, 6, 7], [8], [9, 10]])
    padded, lengths = ragged.padded(torch.tensor([1, 2]), 0)
    assert padded.tolist() == [[8, 0], [9, 10]]
    assert lengths.tolist() == [1, 2]
    data = number_words()
    source, known, target = data.datasets["train"].take(torch.arange(30))
    assert source.shape[1] == max(map(len, (data.source_text(row) for row in source.tolist())))
    for inputs, labels in zip(known.tolist(), target.tolist(), strict=True):
        end = labels.index(EOS)
        assert inputs[0] == BOS
        assert inputs[1 : end + 1] == labels[:end]
        assert set(labels[end + 1 :]) <= {NO_TARGET}
        assert set(inputs[end + 2 :]) <= {PAD}


def tsv(path, **more):
    data = TsvPairs(
        str(path), **({**FACTS, "source_tokens": "words", "val_fraction": 0.1, "test_fraction": 0.1} | more)
    )
    data.setup()
    return data


def test_the_vocabulary_is_the_training_split_s(tmp_path):
    lines = [f"word{i} und mehr\tmot{i} et plus\tCC-BY" for i in range(50)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    data = tsv(tmp_path / "pairs.tsv")
    trained = {text for row in data.datasets["train"].source.values.split(1) for text in data.source_text(row.tolist())}
    for split in ("val", "test"):
        source, _, target = data.datasets[split].take(data.rows[split])
        for row, labels in zip(source.tolist(), target.tolist(), strict=True):
            assert data.source_text(row) == ["<unk>", "und", "mehr"]
            assert data.decode(labels) == "<unk> et plus"
    assert "und" in trained
    assert "CC-BY" not in data.vocab
    assert data.facts()["vocab_size"] == len(data.vocab) == 4 + 4 + 2 * 40
    small = tsv(tmp_path / "pairs.tsv", max_vocab=8)
    assert set(small.vocab[4:]) == {"und", "mehr", "et", "plus"}
    again = TsvPairs(str(tmp_path / "gone.tsv"), **FACTS, source_tokens="words")
    again.load_state_dict(data.state_dict())
    assert again.encode("word1 und") == data.encode("word1 und")


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        (b"a\tb\nc d\ne\tf\n", {}, ["line 2", "no tab"]),
        (b"a\tb\n\t d\ne\tf\n", {}, ["line 2", "the source is empty"]),
        (b"a\tb\nc\t\ne\tf\n", {}, ["line 2", "the target is empty"]),
        (b"a\tb\nc\t\xff\n", {}, ["data.encoding", "line 2"]),
        (b"a\tb\n", {}, ["1 pairs"]),
        (b"a\tb\n" * 9, {"encoding": "nope"}, ["data.encoding"]),
        (b"a b c d\te\n" * 9, {"max_length": 1}, ["data.max_length"]),
    ],
)
def test_wrong_lines(tmp_path, content, settings, words):
    (tmp_path / "pairs.tsv").write_bytes(content)
    with pytest.raises(UserError) as told:
        tsv(tmp_path / "pairs.tsv", **settings)
    assert all(word in str(told.value) for word in words), told.value
